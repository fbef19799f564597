"""Remat computes the same numbers and keeps less for the backward pass."""

from __future__ import annotations

import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ad_checkpoint

import jcls
from helpers.runs import batch_of
from jcls import models


def test_remat_computes_the_same(tiny):
    """Loss and new weights are those without it, to rounding; paths are the same."""
    states = []
    for remat in (False, True):
        tiny['model'] |= {'remat': remat, 'drop_path': 0.5}
        experiment = jcls.build(tiny)
        states.append(experiment.train_step(experiment.init(), batch_of(experiment)))
    (one, first), (other, second) = states
    assert float(first['loss']) == pytest.approx(float(second['loss']), rel=1e-6)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_remat_keeps_less_for_the_backward_pass(capsys):
    """JAX's own list of what a step keeps: a third or less of it, the inputs of blocks."""

    def kept(remat: bool) -> int:
        model = models.create('resnet20', width=16, remat=remat)
        images = jnp.zeros((4, 32, 32, 3))
        variables = model.init(jax.random.key(0), images)

        def loss(params: Any) -> jax.Array:
            inputs = {**variables, 'params': params}
            return model.apply(inputs, images, train=True, mutable=['batch_stats'])[0].sum()

        ad_checkpoint.print_saved_residuals(loss, variables['params'])
        listed = [line for line in capsys.readouterr().out.split('\n') if ' argument ' not in line]
        sizes = [re.match(r'\w+\[([\d,]+)\]', line) for line in listed]
        return sum(math.prod(map(int, found[1].split(','))) for found in sizes if found)

    assert 0 < kept(True) < kept(False) / 3

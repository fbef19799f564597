"""Micro-batches add up to the whole batch, and ghost groups stay whole in them."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import jcls
from helpers.runs import batch_of
from jcls.training.experiment import process_shard
from jcls.training.step import normalise


def test_micro_batches_add_up_to_the_batch(tiny):
    """With BatchNorm over single examples, 1, 2 and 4 micro-batches give one gradient."""
    tiny['norm'] = {'batch_size': 1}
    found = {}
    for parts in (1, 2, 4):
        experiment = jcls.build({**tiny, 'accumulate': parts})
        found[parts] = experiment.train_step(experiment.init(), batch_of(experiment))
    for parts in (2, 4):
        for name, value in found[1][1].items():
            assert float(found[parts][1][name]) == pytest.approx(float(value), rel=1e-5), name
        for a, b in zip(*(jax.tree.leaves(found[p][0].params) for p in (1, parts)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_micro_batch_is_every_other_row(tiny):
    """The statistics of two micro-batches, one after the other, are those of rows 0::2, 1::2."""
    halves = jcls.build({**tiny, 'accumulate': 2})
    batch = batch_of(halves)
    state, _ = halves.train_step(halves.init(), batch)
    variables = halves.init().variables
    images = normalise(batch['image'], halves.data.mean, halves.data.std)
    for part in (images[0::2], images[1::2]):
        _, updated = halves.model.apply(
            variables, part, train=True, mutable=['batch_stats'],
            rngs={'dropout': jax.random.key(0)},
        )  # fmt: skip
        variables = {**variables, **updated}
    for a, b in zip(
        jax.tree.leaves(state.batch_stats), jax.tree.leaves(variables['batch_stats']), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_ghost_groups_are_the_same_with_and_without_micro_batches(tiny):
    """They stay whole in micro-batches: loss and gradient do not depend on `accumulate`; and the
    copies of an image stay in different groups."""
    tiny |= {'batch_size': 16, 'norm': {'batch_size': 4}, 'data': {'name': 'digits', 'repeats': 4}}
    found = []
    for parts in (1, 2, 4):
        experiment = jcls.build({**tiny, 'accumulate': parts})
        found.append(experiment.train_step(experiment.init(), batch_of(experiment)))
    for state, metrics in found[1:]:
        for name, value in metrics.items():
            assert float(value) == pytest.approx(float(found[0][1][name]), rel=1e-5), name
        for a, b in zip(*(jax.tree.leaves(s.params) for s in (state, found[0][0])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    rows = experiment.train_sampler(process_shard(16))(0).indices.reshape(4, 4)
    assert all(len(set(group)) == 4 for group in rows)


@pytest.mark.parametrize('parts', [3, 0, 16])
def test_micro_batches_that_do_not_divide_the_batch_are_refused(parts, tiny):
    """accumulate=3 of 8 examples: the message says what must divide what."""
    with pytest.raises(
        ValueError, match=rf'config.accumulate={parts} does not divide the 8 exampl'
    ):
        jcls.build({**tiny, 'accumulate': parts})


def test_ghost_groups_must_divide_a_micro_batch(tiny):
    """Groups of 8 fit into the batch of 8, not into its halves."""
    with pytest.raises(ValueError, match=r'norm.batch_size=8: .*must divide the batch of 4'):
        jcls.build({**tiny, 'accumulate': 2, 'norm': {'batch_size': 8}})

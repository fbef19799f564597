"""The teacher of a distillation: a trained model that gives its logits for every batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from jcls.distributed import agree
from jcls.distributed.mesh import batch_split, replicated
from jcls.training.distill import Distillation
from jcls.training.step import normalise
from jcls.weights.classes import require_same
from jcls.weights.load import read, usable


class Teacher(NamedTuple):
    """A teacher at work.

    Attributes:
      logits: the function from images uint8 [N, H, W, C] to logits [N, K].
      step: the step of its checkpoint; 'last' if it is a single set of weights.
    """

    logits: Callable[[jax.Array], jax.Array]
    step: int | str


def create(
    distillation: Distillation, classes: tuple[str, ...], channels: int, mesh: Mesh
) -> Teacher:
    """The teacher, which computes its logits over `mesh`.

    Raises:
      ValueError: if the teacher knows other classes than `classes`, in whatever order, or other
        channels.
    """
    where = f'config.distill.teacher={distillation.teacher}'
    try:
        metadata, saved = read(distillation.teacher, distillation.step)
        model, variables = usable(metadata, saved, distillation.teacher)
    except ValueError as error:
        begun = isinstance(distillation.step, int)  # config.distill.step is a str
        cure = (
            '. This run began with that checkpoint: bring it back from a copy, or begin again in '
            'another --workdir'
        )
        raise ValueError(f'{where}: {error}{cure * begun}') from None
    order = np.array(require_same(metadata['classes'], classes, where))
    in_order = bool((order == np.arange(len(order))).all())
    if len(metadata['mean']) != channels:
        raise ValueError(
            f'{where} takes images of {len(metadata["mean"])} channel(s), the data have {channels}'
        )

    def logits(variables: dict[str, Any], images: jax.Array) -> jax.Array:
        values = normalise(images, tuple(metadata['mean']), tuple(metadata['std']))
        theirs = model.apply(variables, values, train=False)
        return theirs if in_order else theirs[:, order]

    everywhere, split = replicated(mesh), batch_split(mesh)
    compiled = jax.jit(logits, in_shardings=(everywhere, split), out_shardings=split)
    agree.require_same(where, variables)
    placed = jax.device_put(jax.device_get(variables), everywhere)
    return Teacher(functools.partial(compiled, placed), metadata.get('step', distillation.step))

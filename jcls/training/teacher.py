"""The teacher of a distillation: a trained model that gives its logits for every batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jcls.distributed.mesh import batch_split, replicated
from jcls.training.distill import Distillation
from jcls.training.step import normalise
from jcls.weights.classes import require_same
from jcls.weights.load import find, is_run, read, usable


def checkpoint_step(distillation: Distillation) -> int | str:
    """The step of the teacher's checkpoint; 'last' if the teacher is a single set of weights."""
    if not is_run(distillation.teacher):
        return distillation.step
    try:
        _, step, checkpoints = find(distillation.teacher, distillation.step)
    except ValueError as error:
        raise ValueError(f'config.distill.teacher={distillation.teacher}: {error}') from None
    checkpoints.close()
    return step


def create(
    distillation: Distillation, classes: tuple[str, ...], channels: int, mesh: Mesh
) -> Callable[[jax.Array], jax.Array]:
    """The function from images uint8 [N, H, W, C] to the teacher's logits [N, K], over `mesh`.

    Raises:
      ValueError: if the teacher knows other classes than `classes`, in whatever order, or other
        channels.
    """
    where = f'config.distill.teacher={distillation.teacher}'
    try:
        metadata, saved = read(distillation.teacher, distillation.step)
        model, variables = usable(metadata, saved, distillation.teacher)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from None
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
    return functools.partial(compiled, jax.device_put(jax.device_get(variables), everywhere))

"""The teacher of a distillation: a trained model that gives its logits for every batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from jcls.distributed.mesh import batch_split, replicated
from jcls.training.distill import Distillation
from jcls.training.step import normalise
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
      ValueError: if the teacher knows other classes than `classes`, or other channels.
    """
    where = f'config.distill.teacher={distillation.teacher}'
    try:
        metadata, saved = read(distillation.teacher, distillation.step)
        model, variables = usable(metadata, saved, distillation.teacher)
    except ValueError as error:
        raise ValueError(f'{where}: {error}') from None
    if list(metadata['classes']) != list(classes):
        raise ValueError(
            f'{where} knows {len(metadata["classes"])} classes '
            f'({", ".join(metadata["classes"][:3])}, ...), the data have {len(classes)} '
            f'({", ".join(classes[:3])}, ...): they must be the same'
        )
    if len(metadata['mean']) != channels:
        raise ValueError(
            f'{where} takes images of {len(metadata["mean"])} channel(s), the data have {channels}'
        )

    def logits(variables: dict[str, Any], images: jax.Array) -> jax.Array:
        return model.apply(
            variables,
            normalise(images, tuple(metadata['mean']), tuple(metadata['std'])),
            train=False,
        )

    everywhere, split = replicated(mesh), batch_split(mesh)
    compiled = jax.jit(logits, in_shardings=(everywhere, split), out_shardings=split)
    return functools.partial(compiled, jax.device_put(jax.device_get(variables), everywhere))

"""The train step and the evaluation step: pure functions, compiled over a mesh.

    uint8 images -> normalise -> model -> logits -> loss -> gradients -> direction -> state

Everything that the loop, the benchmarks and the planner run is made here, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from jcls.optim.schedule import Schedule
from jcls.training import mesh as meshes
from jcls.training import metrics
from jcls.training.losses import Loss
from jcls.training.state import State, key

Batch = dict[str, Any]  # image [N, H, W, C] uint8, label, label2 [N] int32, lam, mask [N] f32
TrainStep = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]
EvalStep = Callable[[dict[str, Any], Batch], dict[str, jax.Array]]


def normalise(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """(images / 255 - mean) / std per channel: uint8 [N, H, W, C] -> parameter precision."""
    scale, offset = 1 / (255 * jnp.asarray(std)), jnp.asarray(mean) / jnp.asarray(std)
    return images.astype(scale.dtype) * scale - offset


def create_train_step(
    model: nn.Module,
    loss: Loss,
    direction: optax.GradientTransformation,
    schedule: Schedule,
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
) -> TrainStep:
    """``train_step(state, batch) -> (state, metrics)``; the state that goes in is donated.

    The batch is the global one, split over the mesh; the state is replicated. An example with mask
    0 adds nothing to loss, gradient or metrics. Metrics are scalars: loss, top1, top5 (fractions of
    the batch), gradient_norm (global, of the loss alone) and learning_rate (as applied).
    """

    def train_step(state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        images = normalise(batch['image'], mean, std)
        rng = jax.random.fold_in(key(seed), state.step)

        def objective(params: Any) -> tuple[jax.Array, Any]:
            logits, updated = model.apply(
                {'params': params, 'batch_stats': state.batch_stats},
                images,
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': rng},
            )
            target = targets(batch, logits)
            losses = loss(logits, target)
            # Of a mixed image the larger part counts, as in torchvision.
            means = metrics.batch_means(logits, target.argmax(-1), losses, batch['mask'])
            return means['loss'], (means, updated['batch_stats'])

        gradients, (means, batch_stats) = jax.grad(objective, has_aux=True)(state.params)
        step_direction, opt_state = direction.update(gradients, state.opt_state, state.params)
        lr = schedule(state.step)
        params = jax.tree.map(
            lambda p, d: p - (lr * d).astype(p.dtype), state.params, step_direction
        )
        measured = {**means, 'gradient_norm': optax.tree.norm(gradients), 'learning_rate': lr}
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        return new, measured

    everywhere, split = meshes.replicated(mesh), meshes.batch_split(mesh)
    return jax.jit(
        train_step,
        in_shardings=(everywhere, split),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
    )


def create_eval_step(
    model: nn.Module, mesh: Mesh, *, mean: tuple[float, ...], std: tuple[float, ...]
) -> EvalStep:
    """``eval_step(variables, batch) -> sums`` of loss, top1, top5 and examples, see metrics.

    The loss is the plain cross-entropy of the hard label whatever the training loss is, so that
    the numbers of different recipes compare.
    """

    def eval_step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        logits = model.apply(variables, normalise(batch['image'], mean, std), train=False)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch['label'])
        return metrics.batch_sums(logits, batch['label'], losses, batch['mask'])

    everywhere, split = meshes.replicated(mesh), meshes.batch_split(mesh)
    return jax.jit(eval_step, in_shardings=(everywhere, split), out_shardings=everywhere)


def targets(batch: Batch, logits: jax.Array) -> jax.Array:
    """The target distribution [N, K] in the dtype of the logits [N, K].

    Where images were mixed: lam of `label` and 1 - lam of `label2`.
    """

    def one_hot(labels: jax.Array) -> jax.Array:
        return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)

    if 'lam' not in batch:
        return one_hot(batch['label'])
    lam = batch['lam'].astype(logits.dtype)[:, None]
    return lam * one_hot(batch['label']) + (1 - lam) * one_hot(batch['label2'])

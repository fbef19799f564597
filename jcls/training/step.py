"""The train step and the evaluation step: pure functions, compiled over a mesh.

    uint8 images -> normalise -> model -> logits -> loss -> gradients -> direction -> state, ema

The loop, the benchmarks and the planner all run the steps that are made here.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jcls.distributed.mesh import batch_split, replicated
from jcls.optim.ema import Ema
from jcls.optim.optimizer import Optimizer
from jcls.optim.schedule import Schedule
from jcls.training.distill import Distillation
from jcls.training.losses import Loss
from jcls.training.metrics import METRICS, Metric, masked_sums, top1, top5
from jcls.training.state import State, key

# image uint8 [N, H, W, C]; label, label2 int32 [N]; lam, mask float32 [N]; teacher [N, K]
Batch = dict[str, Any]
TrainStep = Callable[[State, Batch], tuple[State, dict[str, jax.Array]]]
EvalStep = Callable[[dict[str, Any], Batch], dict[str, jax.Array]]


def normalise(images: jax.Array, mean: tuple[float, ...], std: tuple[float, ...]) -> jax.Array:
    """(images / 255 - mean) / std per channel: uint8 [N, H, W, C] -> parameter precision."""
    scale, offset = 1 / (255 * jnp.asarray(std)), jnp.asarray(mean) / jnp.asarray(std)
    return images.astype(scale.dtype) * scale - offset


def create_train_step(
    model: nn.Module,
    loss: Loss,
    optimizer: Optimizer,
    schedule: Schedule,
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    seed: int,
    accumulate: int = 1,
    rows_kept_together: int = 1,
    damage_tolerated: bool = False,
    ema: Ema | None = None,
    distillation: Distillation | None = None,
    compiler_options: dict[str, Any] | None = None,
) -> TrainStep:
    """``train_step(state, batch) -> (state, metrics)``; the state that goes in is donated.

    The batch is the global one, split over the mesh; the state is replicated. An example with mask
    0 adds nothing to loss, gradient or metrics. With `damage_tolerated` it also counts in no
    statistic of BatchNorm, see `TolerantStep`. Metrics are scalars: loss, top1, top5 (fractions of
    the batch), gradient_norm (the global norm of the loss's gradient, for trained parameters) and
    learning_rate (as applied).

    With `accumulate` = A, the gradient is the sum over A micro-batches. The batch is cut into units
    of `rows_kept_together` rows, and micro-batch m has the units m, m + A, ... So micro-batches are
    the same on any number of devices, and ghost groups stay whole. Each micro-batch has its own
    BatchNorm statistics, and a step moves the running ones A times.
    """

    def train_step(
        state: State, batch: Batch, *, masked: bool = False
    ) -> tuple[State, dict[str, jax.Array]]:
        rng = jax.random.fold_in(key(seed), state.step)
        trained = optimizer.groups(state.params).trained
        count = jnp.maximum(jnp.sum(batch['mask']), 1)

        def objective(params: Any, batch_stats: Any, part: Batch, rng: jax.Array) -> Any:
            # Frozen parameters need no gradient, and no work for one.
            params = jax.tree.map(lambda p, t: p if t else lax.stop_gradient(p), params, trained)
            logits, updated = model.apply(
                {'params': params, 'batch_stats': batch_stats},
                normalise(part['image'], mean, std),
                train=True,
                mutable=['batch_stats'],
                rngs={'dropout': rng},
                **({'mask': part['mask']} if masked else {}),
            )
            target = targets(part, logits)
            losses = loss(logits, target)
            if distillation is not None:
                losses = distillation.combine(losses, logits, part['teacher'])
            # For a mixed image the larger part counts, as in torchvision.
            label = target.argmax(-1)
            values = {'loss': losses, 'top1': top1(logits, label), 'top5': top5(logits, label)}
            sums = masked_sums(values, part['mask'].astype(losses.dtype))
            return sums['loss'] / count, (sums, updated['batch_stats'])

        gradient_of = jax.grad(objective, has_aux=True)
        if accumulate == 1:
            gradients, (sums, batch_stats) = gradient_of(
                state.params, state.batch_stats, batch, rng
            )
        else:

            def add(total: Any, numbered: Any) -> Any:
                gradients, sums, batch_stats = total
                index, part = numbered
                more, (part_sums, batch_stats) = gradient_of(
                    state.params, batch_stats, part, jax.random.fold_in(rng, index)
                )
                gradients, sums = jax.tree.map(jnp.add, (gradients, sums), (more, part_sums))
                return (gradients, sums, batch_stats), None

            parts = {
                name: _micro_batches(rows, accumulate, rows_kept_together, mesh)
                for name, rows in batch.items()
            }
            first = jax.tree.map(lambda rows: rows[0], parts)
            shapes = jax.eval_shape(gradient_of, state.params, state.batch_stats, first, rng)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            start = (zeros[0], zeros[1][0], state.batch_stats)
            (gradients, sums, batch_stats), _ = lax.scan(
                add, start, (jnp.arange(accumulate), parts)
            )
        lr = schedule(state.step)
        step_direction, opt_state = optimizer.direction.update(
            gradients, state.opt_state, state.params, lr=lr
        )
        params = jax.tree.map(
            lambda p, d: p - (lr * d).astype(p.dtype), state.params, step_direction
        )
        measured = {
            **{name: total / count for name, total in sums.items() if name != 'examples'},
            'gradient_norm': optax.tree.norm(gradients),
            'learning_rate': lr,
        }
        new = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
        )
        if ema is not None:
            new = dataclasses.replace(new, ema=ema.update(state.ema, new.variables, state.step))
        return new, measured

    everywhere, split = replicated(mesh), batch_split(mesh)
    compiled = functools.partial(
        jax.jit,
        in_shardings=(everywhere, split),
        out_shardings=(everywhere, everywhere),
        donate_argnums=0,
        compiler_options=compiler_options,
    )
    if not damage_tolerated:
        return compiled(train_step)
    return TolerantStep(compiled(train_step), compiled(functools.partial(train_step, masked=True)))


@dataclasses.dataclass(frozen=True)
class TolerantStep:
    """A train step for batches that may lack examples: one of two programs, as a batch needs it.

    A batch that lacks none runs the program of every other run, so it gives the same bits; the
    other program is compiled when it is first needed. Several processes cannot know each other's
    batches without waiting for each other, and always run the second one.
    """

    whole: Any
    holed: Any

    def __call__(self, state: State, batch: Batch) -> tuple[State, dict[str, jax.Array]]:
        lacks = jax.process_count() > 1 or not np.all(np.asarray(batch['mask']))
        return (self.holed if lacks else self.whole)(state, batch)

    def lower(self, *arguments: Any) -> Any:
        """The lowered program for whole batches, as `jax.jit` has it."""
        return self.whole.lower(*arguments)


def _micro_batches(rows: jax.Array, count: int, together: int, mesh: Mesh) -> jax.Array:
    """[N, ...] -> [count, N / count, ...]; micro-batch m has the units m, m + count, ...

    A unit is `together` rows. If every device holds a multiple of `count` units, no row moves to
    another device.
    """
    parts = rows.reshape(-1, count, together, *rows.shape[1:]).swapaxes(0, 1)
    parts = parts.reshape(count, -1, *rows.shape[1:])
    return lax.with_sharding_constraint(parts, NamedSharding(mesh, PartitionSpec(None, 'data')))


def create_eval_step(
    model: nn.Module,
    mesh: Mesh,
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    metrics: Mapping[str, Metric] = METRICS,
    compiler_options: dict[str, Any] | None = None,
) -> EvalStep:
    """``eval_step(variables, batch) -> sums`` of the `metrics` and of the number of examples."""

    def eval_step(variables: dict[str, Any], batch: Batch) -> dict[str, jax.Array]:
        logits = model.apply(variables, normalise(batch['image'], mean, std), train=False)
        label, mask = batch['label'], batch['mask'].astype(logits.dtype)
        values = {name: metric.function(logits, label) for name, metric in metrics.items()}
        return masked_sums(values, mask)

    everywhere, split = replicated(mesh), batch_split(mesh)
    return jax.jit(
        eval_step,
        in_shardings=(everywhere, split),
        out_shardings=everywhere,
        compiler_options=compiler_options,
    )


def targets(batch: Batch, logits: jax.Array) -> jax.Array:
    """The target distribution [N, K] in the dtype of the logits [N, K].

    For mixed images it is lam of `label` and 1 - lam of `label2`.
    """

    def one_hot(labels: jax.Array) -> jax.Array:
        return jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)

    if 'lam' not in batch:
        return one_hot(batch['label'])
    lam = batch['lam'].astype(logits.dtype)[:, None]
    return lam * one_hot(batch['label']) + (1 - lam) * one_hot(batch['label2'])

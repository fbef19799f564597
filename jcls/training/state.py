"""The state of a run: arrays only, so that a checkpoint is the state and nothing else."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """The state after `step` updates, replicated on every device of the mesh."""

    step: jax.Array  # int32 scalar
    params: Any
    batch_stats: Any
    opt_state: Any
    ema: Any  # the averaged variables, like `variables`; {} without an average

    @property
    def variables(self) -> dict[str, Any]:
        """The variables for `model.apply`."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def new_state(
    variables: dict[str, Any], direction: optax.GradientTransformation, *, ema: bool = False
) -> State:
    """The state before the first update; with `ema`, it has an average of the variables.

    This function is pure, so it runs under jit or eval_shape.
    """
    params, batch_stats = variables['params'], variables['batch_stats']
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=direction.init(params),
        ema=jax.tree.map(jnp.copy, {'params': params, 'batch_stats': batch_stats}) if ema else {},
    )


def initial_variables(model: nn.Module, shape: tuple[int, ...], seed: int) -> dict[str, Any]:
    """Random parameters and initial statistics for images of `shape` (H, W, C); a pure function."""
    return dict(model.init(key(seed), jnp.zeros((1, *shape)), train=False))


def key(seed: int) -> jax.Array:
    """The random key of a run, of one fixed implementation, whatever JAX's default is."""
    return jax.random.key(seed, impl='threefry2x32')

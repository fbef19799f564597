"""What a run is at a step: arrays only, so that a checkpoint is the state and nothing else."""

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
    """The state after `step` updates. Replicated on every device of the mesh."""

    step: jax.Array  # int32 scalar
    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict[str, Any]:
        """What `model.apply` takes."""
        return {'params': self.params, 'batch_stats': self.batch_stats}


def create(
    model: nn.Module, direction: optax.GradientTransformation, shape: tuple[int, ...], seed: int
) -> State:
    """A new state for images of `shape` (H, W, C); pure, so it runs under jit or eval_shape."""
    variables = model.init(key(seed), jnp.zeros((1, *shape)), train=False)
    params = variables['params']
    return State(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=variables['batch_stats'],
        opt_state=direction.init(params),
    )


def key(seed: int) -> jax.Array:
    """The run's random key; one implementation everywhere, whatever JAX's default."""
    return jax.random.key(seed, impl='threefry2x32')

"""The optimizers, each a function of its fields to a transformation of gradients into directions.

None knows the learning rate, except TensorFlow's RMSProp, whose momentum contains it. Each says
where weight decay enters. They compute what the named implementation does, and tests compare them
with it: torch's SGD, RMSprop, Adam, AdamW and Adadelta; timm's RMSpropTF, Lamb and Lars.

Papers: Sutskever et al. 2013 (momentum, Nesterov's form as torch computes it); Kingma & Ba 2014
(1412.6980, Adam); Zeiler 2012 (1212.5701, Adadelta); You et al. 2019 (1904.00962, LAMB); You et al.
2017 (1708.03888, LARS).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

Transformation: TypeAlias = optax.GradientTransformation


class Decay(NamedTuple):
    """Weight decay: `weights` is a tree of floats like the parameters; `order`, where it enters."""

    weights: Any
    order: str  # 'coupled': added to the gradient; 'decoupled': to the direction

    @property
    def coupled(self) -> Transformation:
        """A transformation that adds the decay to the gradient, if that is the order."""
        return self._added if self.order == 'coupled' else optax.identity()

    @property
    def decoupled(self) -> Transformation:
        """A transformation that adds the decay to the direction, if that is the order."""
        return self._added if self.order == 'decoupled' else optax.identity()

    @property
    def _added(self) -> Transformation:
        """A transformation of updates u, u <- u + w * p."""

        def add(u: jax.Array, p: jax.Array, w: float) -> jax.Array:
            return u + w * p if w else u

        return optax.stateless(lambda us, params: jax.tree.map(add, us, params, self.weights))


def sgd(decay: Decay, *, momentum: float = 0.9, nesterov: bool = False) -> Transformation:
    """m <- momentum * m + g; the direction is m, or g + momentum * m with `nesterov`.

    No dampening, and the buffer starts as the first gradient, as in torch.optim.SGD.
    """
    return optax.chain(decay.coupled, _momentum(momentum, nesterov), decay.decoupled)


def rmsprop(
    decay: Decay, *, rho: float = 0.99, epsilon: float = 1e-8, momentum: float = 0.0
) -> Transformation:
    """torch's RMSprop: v <- rho * v + (1 - rho) * g^2 from v = 0; g / (sqrt(v) + epsilon).

    With `momentum`, m <- momentum * m + that, and the direction is m.
    """
    _check(rho=rho, epsilon=epsilon)
    scaled = optax.scale_by_rms(rho, epsilon, eps_in_sqrt=False)
    return optax.chain(decay.coupled, scaled, _momentum(momentum), decay.decoupled)


def rmsprop_tf(
    decay: Decay, *, rho: float = 0.9, epsilon: float = 1e-3, momentum: float = 0.9
) -> Transformation:
    """TensorFlow's RMSProp: v starts at 1, g / sqrt(v + epsilon), and momentum holds the rate.

    v <- rho * v + (1 - rho) * g^2, and b <- momentum * b + lr * g / sqrt(v + epsilon); the
    parameters move by b. The direction is therefore b / lr (0 while the rate is 0). This is timm's
    RMSpropTF with its defaults, except for `epsilon` and `momentum`, which are those of its
    recipes.
    """
    _check(rho=rho, epsilon=epsilon, momentum=momentum)
    scaled = optax.scale_by_rms(rho, epsilon, initial_scale=1.0, eps_in_sqrt=True)

    def update(updates: Any, state: Any, params: Any = None, *, lr: Any, **_: Any) -> Any:
        del params
        state = jax.tree.map(lambda b, u: momentum * b + (lr * u).astype(b.dtype), state, updates)
        inverse = jnp.where(lr > 0, 1 / jnp.where(lr > 0, lr, 1), 0)
        return jax.tree.map(lambda b: (b * inverse).astype(b.dtype), state), state

    trace = optax.GradientTransformationExtraArgs(
        lambda params: jax.tree.map(jnp.zeros_like, params), update
    )
    return optax.chain(decay.coupled, scaled, trace, decay.decoupled)


def adam(
    decay: Decay, *, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8
) -> Transformation:
    """torch's Adam if decay is coupled: m / (sqrt(v) + epsilon) of bias-corrected moments.

    m <- b1 * m + (1 - b1) * g and v <- b2 * v + (1 - b2) * g^2.
    """
    _check(b1=b1, b2=b2, epsilon=epsilon)
    return optax.chain(decay.coupled, optax.scale_by_adam(b1, b2, epsilon), decay.decoupled)


def adamw(
    decay: Decay, *, b1: float = 0.9, b2: float = 0.999, epsilon: float = 1e-8
) -> Transformation:
    """torch's AdamW: `adam`, with its b1, b2 and epsilon, and decoupled decay."""
    if decay.order != 'decoupled':
        raise ValueError(
            "config.optimizer.decay='coupled': AdamW is Adam with decoupled decay; set decay="
            "'decoupled', or name='adam'"
        )
    return adam(decay, b1=b1, b2=b2, epsilon=epsilon)


def adadelta(decay: Decay, *, rho: float = 0.9, epsilon: float = 1e-6) -> Transformation:
    """torch's Adadelta: g times the ratio of root mean squares of past updates and gradients.

    `rho` is the decay of the means; `epsilon` is added under both roots.
    """
    _check(rho=rho, epsilon=epsilon)
    return optax.chain(decay.coupled, optax.scale_by_adadelta(rho, epsilon), decay.decoupled)


def lamb(
    decay: Decay,
    *,
    b1: float = 0.9,
    b2: float = 0.999,
    epsilon: float = 1e-6,
    max_norm: float | None = 1.0,
) -> Transformation:
    """Adam's direction plus decay, scaled for each parameter by |p| / |direction|.

    This is timm's Lamb, which trained the published A1 to A3. It first clips the gradients to a
    global norm of `max_norm`, and does not scale parameters without decay; `optax.lamb` does
    neither. Where either norm is 0, the ratio is 1.

    Args:
      decay: weight decay, 'decoupled' in the papers.
      b1: decay of the first moment.
      b2: decay of the second moment.
      epsilon: number added to the root of the second moment.
      max_norm: limit of the gradients' global norm; None not to clip.
    """
    _check(b1=b1, b2=b2, epsilon=epsilon)
    if max_norm is not None and not max_norm > 0:
        raise ValueError(f'config.optimizer.max_norm={max_norm}: must be positive, or None')
    clip = optax.identity() if max_norm is None else optax.clip_by_global_norm(max_norm)
    adapted = jax.tree.map(lambda w: w > 0, decay.weights)
    return optax.chain(
        clip,
        adam(decay, b1=b1, b2=b2, epsilon=epsilon),
        optax.masked(optax.scale_by_trust_ratio(), adapted),
    )


def lars(
    decay: Decay,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    trust: float = 1e-3,
    epsilon: float = 1e-8,
) -> Transformation:
    """Gradient plus decay, scaled for each parameter by trust * |p| / (|g| + w * |p|), then SGD.

    This is timm's Lars: parameters without decay are not scaled; where either norm is 0, the ratio
    is 1.

    Args:
      decay: weight decay, which must be 'coupled'.
      momentum: momentum, as in `sgd`.
      nesterov: Nesterov's momentum, as in `sgd`.
      trust: trust coefficient.
      epsilon: number added to the divisor.
    """
    _check(epsilon=epsilon)
    if decay.order != 'coupled':
        raise ValueError(
            "config.optimizer.decay='decoupled': in LARS the decay is part of the gradient; set "
            "decay='coupled'"
        )

    def scale(g: jax.Array, p: jax.Array, w: float) -> jax.Array:
        if not w:
            return g
        size, slope = jnp.linalg.norm(p.ravel()), jnp.linalg.norm(g.ravel())
        ratio = trust * size / (slope + w * size + epsilon)
        return jnp.where((size > 0) & (slope > 0), ratio, 1.0) * (g + w * p)

    scaled = optax.stateless(lambda gs, params: jax.tree.map(scale, gs, params, decay.weights))
    return optax.chain(scaled, _momentum(momentum, nesterov))


def _momentum(momentum: float, nesterov: bool = False) -> Transformation:
    _check(momentum=momentum)
    return optax.trace(momentum, nesterov) if momentum else optax.identity()


def _check(**fields: float) -> None:
    for field, value in fields.items():
        if field == 'epsilon' and not 0 < value < math.inf:
            raise ValueError(f'config.optimizer.epsilon={value}: must be positive')
        if field != 'epsilon' and not 0 <= value < 1:
            raise ValueError(f'config.optimizer.{field}={value}: must be in [0, 1)')


OPTIMIZERS: dict[str, Callable[..., Transformation]] = {
    'adadelta': adadelta,
    'adam': adam,
    'adamw': adamw,
    'lamb': lamb,
    'lars': lars,
    'rmsprop': rmsprop,
    'rmsprop_tf': rmsprop_tf,
    'sgd': sgd,
}

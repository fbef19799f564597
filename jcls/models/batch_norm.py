"""Batch normalisation over groups of examples, of activations or of a deferred 1x1 convolution.

Papers: Ioffe & Szegedy 2015 (1502.03167, batch normalisation); Hoffer et al. 2017 (1705.08741,
ghost batches).

Most of a bottleneck ResNet's memory traffic is the wide output of its last 1x1 convolution: batch
normalisation reads it twice more before it is added to the shortcut, and the backward pass four
times. None of that is needed. The product y = x w has the mean m w and the variance diag(w' C w),
with the mean m and the covariance C of the narrow x. Of y, the backward pass needs only the sum of
dy y, which is diag(w' x' dy), a by-product of the weight's gradient. So in `normalised_product` y
goes from the matrix product straight into the sum and is never stored.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jcls.models import cpu_gradients

EXACT = lax.Precision.HIGHEST  # for float32 products; else TPUs round the factors to bfloat16


def param_dtype() -> Any:
    """The dtype of parameters and statistics: float32, or float64 under ``jax_enable_x64``."""
    return jax.dtypes.canonicalize_dtype(float)


class DeferredConv1x1(NamedTuple):
    """A 1x1 convolution that batch normalisation will carry out."""

    rows: jax.Array  # [N, H, W, C]
    kernel: jax.Array  # [C, K], in the dtype of `rows`

    def compute(self) -> jax.Array:
        """Carry it out: [N, H, W, K]."""
        return cpu_gradients.multiply(self.rows, self.kernel)


class BatchNorm(nn.Module):
    """Batch normalisation over groups of `batch_size` examples (0: the whole, global batch).

    In training y = (x - mean) / sqrt(var + epsilon) * scale + bias, with the biased variance of the
    example's own group. Under ``jax.jit`` over a mesh the batch is the global one, so the default
    is cross-replica. A group inside one device needs no communication. Running statistics move as r
    <- momentum * r + (1 - momentum) * s, where s is the average over groups of each group's mean
    and *unbiased* variance (torch's convention, with momentum = 1 - torch's).

    Examples whose `mask` [N] is 0 count in no statistic. Statistics are computed and kept in
    parameter precision whatever the compute dtype. [N, H, W, C] or a `DeferredConv1x1` -> [N, H, W,
    C] in the compute dtype.

    Raises ValueError in training if a group has one value for each channel, whose variance is 0.
    """

    batch_size: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    zero_scale: bool = False
    frozen_stats: frozenset[str] = frozenset()  # paths of layers that keep their statistics

    @nn.compact
    def __call__(
        self, x: jax.Array | DeferredConv1x1, train: bool, mask: jax.Array | None = None
    ) -> jax.Array:
        features = x.kernel.shape[-1] if isinstance(x, DeferredConv1x1) else x.shape[-1]
        channels, dtype = (features,), param_dtype()
        scale_init = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        scale = self.param('scale', scale_init, channels, dtype)
        bias = self.param('bias', nn.initializers.zeros, channels, dtype)
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, dtype)
        running_var = self.variable('batch_stats', 'var', jnp.ones, channels, dtype)
        if not train or '/'.join(self.path) in self.frozen_stats:
            x = x.compute() if isinstance(x, DeferredConv1x1) else x
            multiplier = lax.rsqrt(running_var.value + self.epsilon) * scale
            return ((x - running_mean.value) * multiplier + bias).astype(x.dtype)

        shape = x.rows.shape if isinstance(x, DeferredConv1x1) else x.shape  # [N, H, W, ...]
        groups = group_count(shape[0], self.batch_size)
        count = shape[0] * shape[1] * shape[2] // groups  # rows of a group
        if count == 1 and not self.is_initializing():
            raise ValueError(
                f'{"/".join(self.path)}: {shape[0] // groups} example of {shape[1]} x {shape[2]} '
                'in a group is one value for each channel, which has no variance; use a larger '
                'config.batch_size, config.norm.batch_size or image'
            )
        keep: Any = self.momentum
        bessel = count / max(count - 1, 1)  # makes variances unbiased
        if mask is not None:
            x = x.compute() if isinstance(x, DeferredConv1x1) else x
            rows = mask.reshape(groups, -1, 1, 1, 1).astype(dtype)
            grouped = x.reshape(groups, -1, *x.shape[1:])
            y, means, variances, counts = self._masked(grouped, rows, scale, bias)
            present = (counts > 1).astype(dtype)  # a single value has no variance
            share = (groups * present / jnp.maximum(present.sum(), 1))[:, None]
            means = share * means
            variances = share * variances * (counts / jnp.maximum(counts - 1, 1))[:, None]
            keep, bessel = jnp.where(present.any(), keep, 1), 1
        # With fewer rows, normalising directly is faster.
        elif isinstance(x, DeferredConv1x1) and count >= features:
            rows = x.rows.reshape(groups, -1, *x.rows.shape[1:])
            y, means, variances = normalised_product(self.epsilon, rows, x.kernel, scale, bias)
        else:
            x = x.compute() if isinstance(x, DeferredConv1x1) else x
            grouped = x.reshape(groups, -1, *x.shape[1:])
            y, means, variances = self._normalised(grouped, scale, bias)
        if not self.is_initializing():
            unbiased = variances.mean(0) * bessel
            running_mean.value = keep * running_mean.value + (1 - keep) * means.mean(0)
            running_var.value = keep * running_var.value + (1 - keep) * unbiased
        return y.reshape(*shape[:3], features)

    def _masked(self, x: jax.Array, mask: jax.Array, scale: jax.Array, bias: jax.Array) -> Any:
        """As `_normalised`, by the examples with mask 1; also the number of their values [G]."""
        wide, axes = x.astype(param_dtype()), (1, 2, 3)
        counts = mask.sum(axes, keepdims=True) * (x.shape[2] * x.shape[3])
        divisor = jnp.maximum(counts, 1)
        mean = (wide * mask).sum(axes, keepdims=True) / divisor
        # Around the mean, so that nothing is lost where the fast path's formula would lose digits.
        var = (jnp.square(wide - mean) * mask).sum(axes, keepdims=True) / divisor
        y = (wide - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(x.dtype), mean.squeeze(axes), var.squeeze(axes), counts.reshape(-1)

    def _normalised(self, x: jax.Array, scale: jax.Array, bias: jax.Array) -> Any:
        """Normalised [G, N / G, H, W, C], and the mean and biased variance [G, C] of each group."""
        # Joining the axes would cost a copy in the layouts that XLA chooses.
        wide, axes = x.astype(param_dtype()), (1, 2, 3)
        mean = wide.mean(axes, keepdims=True)
        # E[x^2] - E[x]^2 reads the activations once; rounding may make it negative. The gradient of
        # jnp.maximum would ask whether the result equals this, which the compiler may compute twice
        # with other roundings.
        var = jnp.square(wide).mean(axes, keepdims=True) - jnp.square(mean)
        var = jnp.where(var < 0, 0, var)  # a NaN stays one
        y = (wide - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(x.dtype), mean.squeeze(axes), var.squeeze(axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def normalised_product(
    epsilon: float, x: jax.Array, w: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalise y = x w over the rows of each group; also gives y's mean and biased variance.

    Args:
      epsilon: number added to the variance.
      x: [G, N, H, W, C]: G groups of M = N H W rows.
      w: [C, K].
      scale: [K], in parameter precision, like `bias` and the statistics.
      bias: [K].

    Returns:
      [G, N, H, W, K] in the dtype of x, [G, K] and [G, K]. The latter two have no gradient.
    """
    return _forward(epsilon, x, w, scale, bias)[0]


def _forward(
    epsilon: float, x: jax.Array, w: jax.Array, scale: jax.Array, bias: jax.Array
) -> tuple[Any, Any]:
    dtype, count = param_dtype(), math.prod(x.shape[1:4])
    wide = w.astype(dtype)
    m = x.astype(dtype).mean((1, 2, 3))  # [G, C]
    square = _sum_of_products(x, x) / count
    covariance = square - m[:, :, None] * m[:, None, :]
    spread = jnp.matmul(covariance, wide, precision=EXACT)  # [G, C, K]
    mean = jnp.matmul(m, wide, precision=EXACT)
    # Rounding may make it negative.
    var = jnp.maximum(jnp.sum(wide * spread, axis=1), 0)
    inverse = lax.rsqrt(var + epsilon)
    y = (x @ w - _spread(mean)) * _spread(inverse * scale) + bias
    return (y.astype(x.dtype), mean, var), (x, w, scale, m, spread, mean, inverse)


def _backward(epsilon: float, residuals: Any, cotangents: Any) -> tuple[jax.Array, ...]:
    """With u = (y - mean) inverse, the normalised y: dy = a (dz - (sum dz + u sum(dz u)) / M)."""
    del epsilon
    x, w, scale, m, spread, mean, inverse = residuals
    dz = cotangents[0]  # [G, N, H, W, K]
    dtype, count = param_dtype(), math.prod(x.shape[1:4])
    wide, a = w.astype(dtype), inverse * scale
    total = dz.astype(dtype).sum((1, 2, 3))  # sum of dz: [G, K]
    product = _sum_of_products(x, dz)  # x' dz: [G, C, K]
    along = inverse * (jnp.sum(wide * product, axis=1) - mean * total)  # sum of dz u: [G, K]
    # dy w' is a term in dz, one in x (u is linear in x) and a constant one:
    weighted = (wide * a[:, None]).astype(x.dtype)
    turn = a * inverse * along / count
    through = -jnp.einsum('ck,gk,dk->gcd', wide, turn, wide, precision=EXACT).astype(x.dtype)
    constant = jnp.matmul(turn * mean - a * total / count, wide.T, precision=EXACT)
    dx = jnp.einsum('gnhwk,gck->gnhwc', dz, weighted)
    dx = dx + jnp.einsum('gnhwc,gcd->gnhwd', x, through) + _spread(constant)
    # x' dy, with x' u = M spread inverse:
    centred = product - m[:, :, None] * total[:, None] - spread * (inverse * along)[:, None]
    dw = jnp.sum(a[:, None] * centred, axis=0)
    return dx.astype(x.dtype), dw.astype(w.dtype), along.sum(0), total.sum(0)


def _sum_of_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """[G, N, H, W, C], [G, N, H, W, K] -> [G, C, K] in parameter precision, the sum over rows."""
    dtype = param_dtype()

    def default(x: jax.Array, y: jax.Array) -> jax.Array:
        exact = {'precision': EXACT, 'preferred_element_type': dtype}
        return jnp.einsum('gnhwc,gnhwk->gck', x, y, **exact)

    def cpu(x: jax.Array, y: jax.Array) -> jax.Array:
        return cpu_gradients.sum_of_products(x, y).astype(dtype)

    return cpu_gradients.on_cpu_or_else(cpu, default, x, y)


def _spread(x: jax.Array) -> jax.Array:
    """[G, K] -> [G, 1, 1, 1, K]."""
    return x[:, None, None, None]


normalised_product.defvjp(_forward, _backward)


def group_count(examples: int, batch_size: int) -> int:
    """How many ghost groups of `batch_size` a batch of `examples` makes (0: one group of all).

    Raises ValueError where the groups do not fill the batch.
    """
    if batch_size < 0 or (batch_size and examples % batch_size):
        divisors = [n for n in range(1, examples + 1) if examples % n == 0]
        raise ValueError(
            f'config.norm.batch_size={batch_size}: ghost groups must divide the batch of '
            f'{examples} examples; use 0 (the whole batch) or one of {divisors}'
        )
    return examples // batch_size if batch_size else 1


def batch_norm(
    frozen_stats: frozenset[str] = frozenset(),
    *,
    batch_size: int = 0,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
) -> Callable[..., BatchNorm]:
    """The ``norm`` section: a constructor of `BatchNorm` layers with these settings.

    Args:
      frozen_stats: paths, such as 'stem/norm1', of the layers that normalise with their running
        statistics and never update them.
      batch_size: examples a group is normalised over; 0 is the global batch (cross-replica).
      momentum: share of the old running statistics kept at each step (torch's 0.1 is 0.9 here).
      epsilon: number added to the variance.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f'config.norm.momentum={momentum}: must be in [0, 1)')
    if not 0 < epsilon < 1:
        raise ValueError(f'config.norm.epsilon={epsilon}: must be in (0, 1)')
    return functools.partial(
        BatchNorm,
        batch_size=batch_size,
        momentum=momentum,
        epsilon=epsilon,
        frozen_stats=frozen_stats,
    )

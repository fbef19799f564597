"""The layers a ResNet is made of: convolution, batch normalisation, drop path, classifier.

They differ from `flax.linen`'s where published weights need it (torch's explicit padding,
untruncated fan-out initialisation, unbiased running variance) and where speed does (1x1
convolutions as matrix products). Parameters live in the parameter dtype (float32; float64 under
``jax_enable_x64``), activations in the compute dtype of the input.

Papers: He et al. 2015 (1502.01852, initialisation); Ioffe & Szegedy 2015 (1502.03167, batch
normalisation); Hoffer et al. 2017 (1705.08741, ghost batches); Huang et al. 2016 (1603.09382,
stochastic depth).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

# He et al. 2015, section 2.2, "backward": std = sqrt(2 / (k * k * out_channels)).
conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# torch.nn.Linear's default: uniform within +-1 / sqrt(in_features), for weight and bias.
linear_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


def param_dtype() -> Any:
    """The dtype of parameters and statistics: float32, or float64 under ``jax_enable_x64``."""
    return jax.dtypes.canonicalize_dtype(float)


class Conv(nn.Module):
    """2-d convolution without bias, padded by ``(kernel - 1) // 2`` on every side as torch does.

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features], in the dtype of the input.
    The kernel is [kernel, kernel, C / groups, features].
    """

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        k, s = self.kernel, self.stride
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        weight = self.param('kernel', conv_init, shape, param_dtype()).astype(x.dtype)
        if k == 1 and self.groups == 1:
            # The same sum as a matrix product: XLA's convolution gradients are far slower for it.
            return x[:, ::s, ::s] @ weight[0, 0]
        return lax.conv_general_dilated(
            x,
            weight,
            window_strides=(s, s),
            padding=[((k - 1) // 2,) * 2] * 2,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            feature_group_count=self.groups,
        )


class BatchNorm(nn.Module):
    """Batch normalisation over groups of `batch_size` examples (0: the whole, global batch).

    Training: y = (x - mean) / sqrt(var + epsilon) * scale + bias with the biased variance of the
    example's own group. Under ``jax.jit`` over a mesh the batch is the global one, so the default
    is cross-replica; a group that lies inside one device needs no communication. Running statistics
    r <- momentum * r + (1 - momentum) * s, where s averages over groups each group's mean and
    *unbiased* variance (torch's convention; with momentum = 1 - torch's).

    Statistics are computed and kept in parameter precision whatever the compute dtype.
    """

    batch_size: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    zero_scale: bool = False
    still: frozenset[str] = frozenset()  # paths of layers that never train their statistics

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        channels, dtype = (x.shape[-1],), param_dtype()
        scale_init = nn.initializers.zeros if self.zero_scale else nn.initializers.ones
        scale = self.param('scale', scale_init, channels, dtype)
        bias = self.param('bias', nn.initializers.zeros, channels, dtype)
        running_mean = self.variable('batch_stats', 'mean', jnp.zeros, channels, dtype)
        running_var = self.variable('batch_stats', 'var', jnp.ones, channels, dtype)
        if not train or '/'.join(self.path) in self.still:
            multiplier = lax.rsqrt(running_var.value + self.epsilon) * scale
            return ((x - running_mean.value) * multiplier + bias).astype(x.dtype)

        groups = group_count(x.shape[0], self.batch_size)
        grouped = x.reshape(groups, -1, *x.shape[1:])  # [G, N/G, H, W, C]
        wide, axes = grouped.astype(dtype), (1, 2, 3)
        mean = wide.mean(axes, keepdims=True)  # [G, 1, 1, 1, C]
        # E[x^2] - E[x]^2 reads the activations once; rounding may take it just below zero.
        var = jnp.maximum(jnp.square(wide).mean(axes, keepdims=True) - jnp.square(mean), 0)
        if not self.is_initializing():
            count = wide.size // groups // wide.shape[-1]
            unbiased = var.mean((0, 1, 2, 3)) * (count / max(count - 1, 1))
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean.mean((0, 1, 2, 3))
            running_var.value = keep * running_var.value + (1 - keep) * unbiased
        y = (wide - mean) * (lax.rsqrt(var + self.epsilon) * scale) + bias
        return y.astype(x.dtype).reshape(x.shape)


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
    still: frozenset[str] = frozenset(),
    *,
    batch_size: int = 0,
    momentum: float = 0.9,
    epsilon: float = 1e-5,
) -> Callable[..., BatchNorm]:
    """The ``norm`` section: a constructor of `BatchNorm` layers with these settings.

    Args:
      still: paths of the layers that normalise with their running statistics and never move them,
        such as 'stem/norm1'.
      batch_size: examples a group is normalised over; 0 is the global batch (cross-replica).
      momentum: share of the old running statistics kept at each step (torch's 0.1 is 0.9 here).
      epsilon: added to the variance.
    """
    if not 0 <= momentum < 1:
        raise ValueError(f'config.norm.momentum={momentum}: must be in [0, 1)')
    if not 0 < epsilon < 1:
        raise ValueError(f'config.norm.epsilon={epsilon}: must be in (0, 1)')
    return functools.partial(
        BatchNorm, batch_size=batch_size, momentum=momentum, epsilon=epsilon, still=still
    )


class DropPath(nn.Module):
    """Stochastic depth: drop the whole branch of an example with probability `rate`.

    What is kept is divided by 1 - rate, so that the expectation is unchanged.
    """

    rate: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        if not train or self.rate == 0:
            return x
        keep = jax.random.bernoulli(self.make_rng('dropout'), 1 - self.rate, (len(x), 1, 1, 1))
        return jnp.where(keep, x / (1 - self.rate), 0).astype(x.dtype)


class Linear(nn.Module):
    """Fully connected layer in parameter precision: [N, C] -> logits [N, features]."""

    features: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        inputs, dtype = x.shape[-1], param_dtype()

        def bias_init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            bound = inputs**-0.5
            return jax.random.uniform(key, shape, dtype, -bound, bound)

        kernel = self.param('kernel', linear_init, (inputs, self.features), dtype)
        bias = self.param('bias', bias_init, (self.features,), dtype)
        return x.astype(dtype) @ kernel + bias

"""The layers of a ResNet except its norm: convolution, ReLU, drop path, classifier.

They differ from `flax.linen`'s where published weights need it (torch's explicit padding,
untruncated fan-out initialisation) or where speed does (1x1 convolutions as matrix products).
Parameters live in the parameter dtype (float32; float64 under ``jax_enable_x64``), activations in
the compute dtype of the input.

Papers: He et al. 2015 (1502.01852, initialisation); Huang et al. 2016 (1603.09382, stochastic
depth).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from jcls.models.batch_norm import DeferredConv1x1, param_dtype
from jcls.models.cpu_gradients import convolve

# He et al. 2015, section 2.2, "backward": std = sqrt(2 / (k * k * out_channels)).
conv_init = nn.initializers.variance_scaling(2.0, 'fan_out', 'normal')
# torch.nn.Linear's default: uniform within +-1 / sqrt(in_features), for weight and bias.
linear_init = nn.initializers.variance_scaling(1 / 3, 'fan_in', 'uniform')


class Conv(nn.Module):
    """2-d convolution without bias, padded by ``(kernel - 1) // 2`` on every side as torch does.

    With `padding` 'same' it is padded as TensorFlow does instead, with less before than behind
    where the stride is 2. With a stride of 1 both are the same.

    [N, H, W, C] -> [N, ceil(H / stride), ceil(W / stride), features], in the dtype of the input.
    The kernel is [kernel, kernel, C / groups, features]. With `defer`, a 1x1 convolution is left to
    the batch normalisation after it, as a `DeferredConv1x1`, which saves memory traffic. `convolve`
    says what `materialise_gradient` does.
    """

    features: int
    kernel: int = 1
    stride: int = 1
    groups: int = 1
    padding: str = 'torch'
    defer: bool = False
    materialise_gradient: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array | DeferredConv1x1:
        k, s = self.kernel, self.stride
        shape = (k, k, x.shape[-1] // self.groups, self.features)
        weight = self.param('kernel', conv_init, shape, param_dtype()).astype(x.dtype)
        if k == 1 and self.groups == 1:
            # A matrix product is the same sum, and its gradients are far faster in XLA.
            product = DeferredConv1x1(x[:, ::s, ::s], weight[0, 0])
            return product if self.defer else product.compute()
        if self.padding == 'same' and s > 1:
            return lax.conv_general_dilated(
                x,
                weight,
                (s, s),
                'SAME',
                dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
                feature_group_count=self.groups,
            )
        return convolve(x, weight, s, self.groups, self.materialise_gradient)


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """max(x, 0), stored once: the gradient takes its mask from the result, not from x."""
    return jnp.maximum(x, 0)


def _relu_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    # Without the barrier XLA stores the inputs of x and computes the result again at each use.
    y = lax.optimization_barrier(jnp.maximum(x, 0))
    return y, y


relu.defvjp(_relu_forward, lambda y, dy: (jnp.where(y > 0, dy, 0),))


class DropPath(nn.Module):
    """Stochastic depth: drop the whole branch of an example with probability `rate`.

    Branches that stay are divided by 1 - rate, so that the expectation is unchanged.
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

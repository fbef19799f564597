"""Convolution and max pooling, with gradients that are fast on a CPU.

XLA derives good gradients of these for TPUs and GPUs. For CPUs it turns the gradient of a kernel
into a convolution whose window is the whole image, after transposing both operands, and that of max
pooling into a search for the largest entry of every window and a scatter. The same sums, written as
they are here, are several times faster. The platform that a program is lowered for decides which
of the two runs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

LANES = 8  # partial sums of a batch, so that up to 8 cores or devices work in parallel
SUMS = 2 * 2**20  # bytes; where the partial sums take more, there is only one
PATCHES = 10 * 2**20  # bytes of patches at a time, so that they stay in a cache
ROWS = 2048  # rows of a partial sum; where there would be fewer, there is only one


def on_cpu_or_else(
    cpu: Callable[..., Any], default: Callable[..., Any], *operands: jax.Array
) -> Any:
    """Run `cpu` in a program that is lowered for CPUs, else `default`; both compute the same."""
    return lax.platform_dependent(*operands, cpu=cpu, default=default)


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[((len(kernel) - 1) // 2,) * 2] * 2,
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def convolve(
    x: jax.Array, kernel: jax.Array, stride: int, groups: int, materialise_gradient: bool = False
) -> jax.Array:
    """2-d convolution, padded by ``(k - 1) // 2`` on every side as torch does.

    [N, H, W, C], [k, k, C / groups, K] -> [N, ceil(H / stride), ceil(W / stride), K]. With
    `materialise_gradient` and a stride above 1, the gradient of x is stored before it is used;
    `jcls.distributed.compiler` says for which devices that is needed.
    """
    del materialise_gradient
    return _convolve(x, kernel, stride, groups)


def _convolve_forward(
    x: jax.Array, kernel: jax.Array, stride: int, groups: int, materialise_gradient: bool
) -> Any:
    del materialise_gradient
    return _convolve(x, kernel, stride, groups), (x, kernel)


def _convolve_backward(
    stride: int, groups: int, materialise_gradient: bool, residuals: Any, dy: jax.Array
) -> tuple[jax.Array, ...]:
    x, kernel = residuals

    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda w: _convolve(x, w, stride, groups), kernel)(dy)[0]

    def cpu(x: jax.Array, dy: jax.Array) -> jax.Array:
        return kernel_gradient(x, dy, len(kernel), stride)

    (dx,) = jax.linear_transpose(lambda x: _convolve(x, kernel, stride, groups), x)(dy)
    if materialise_gradient and stride > 1:
        dx = lax.optimization_barrier(dx)
    return dx, default(x, dy) if groups > 1 else on_cpu_or_else(cpu, default, x, dy)


convolve.defvjp(_convolve_forward, _convolve_backward)


def kernel_gradient(x: jax.Array, dy: jax.Array, size: int, stride: int) -> jax.Array:
    """The kernel's gradient of `convolve` with one group, from x and dy.

    [N, H, W, C], [N, h, w, K] -> [size, size, C, K]. It is a sum over parts of the rows of dy: the
    matrix of their patches in all images, times the matrix of dy there.
    """
    (n, h, w, features), channels = dy.shape, x.shape[-1]
    dtype, taps, width = _sum_dtype(x), range(size), size**2 * channels
    lanes = math.gcd(n, LANES) if LANES * features * width * dtype.itemsize <= SUMS else 1
    most = max(1, PATCHES // (n * w * width * x.dtype.itemsize))
    rows = max(count for count in range(1, h + 1) if h % count == 0 and count <= most)
    pad, down, across = (size - 1) // 2, stride * (rows - 1) + 1, stride * (w - 1) + 1
    x = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def add(total: jax.Array, i: jax.Array) -> tuple[jax.Array, None]:
        high = lax.dynamic_slice_in_dim(x, i * rows * stride, down + size - 1, 1)
        cuts = [high[:, a : a + down : stride, b : b + across : stride] for a in taps for b in taps]
        patches = jnp.concatenate(cuts, -1).reshape(lanes, -1, width)
        part = lax.dynamic_slice_in_dim(dy, i * rows, rows, 1).reshape(lanes, -1, features)
        return total + _products(part, patches), None

    start = jnp.zeros((lanes, features, width), dtype)
    total = lax.scan(add, start, jnp.arange(h // rows))[0].sum(0).astype(x.dtype)
    return total.reshape(features, size, size, channels).transpose(1, 2, 3, 0)


@jax.custom_vjp
def multiply(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """A 1x1 convolution, as a matrix product: [N, H, W, C], [C, K] -> [N, H, W, K]."""
    return x @ kernel


def _multiply_backward(residuals: Any, dy: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = residuals

    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.linear_transpose(lambda w: x @ w, kernel)(dy)[0]

    def cpu(x: jax.Array, dy: jax.Array) -> jax.Array:
        return sum_of_products(x[None], dy[None])[0].astype(kernel.dtype)

    (dx,) = jax.linear_transpose(lambda x: x @ kernel, x)(dy)
    return dx, on_cpu_or_else(cpu, default, x, dy)


multiply.defvjp(lambda x, kernel: (x @ kernel, (x, kernel)), _multiply_backward)


def sum_of_products(x: jax.Array, y: jax.Array) -> jax.Array:
    """[G, N, H, W, C], [G, N, H, W, K] -> [G, C, K], the sums over rows; of bfloat16 in float32."""
    groups, n, h, w, _ = x.shape
    lanes = math.gcd(n, LANES) if n * h * w >= LANES * ROWS else 1
    x, y = (z.reshape(groups * lanes, -1, z.shape[-1]) for z in (x, y))
    return _products(x, y).reshape(groups, lanes, x.shape[-1], y.shape[-1]).sum(1)


def _sum_dtype(x: jax.Array) -> Any:
    return jnp.promote_types(x.dtype, jnp.float32)


def _products(x: jax.Array, y: jax.Array) -> jax.Array:
    """[L, M, C], [L, M, K] -> [L, C, K], the sums over M."""
    return jnp.einsum('lmc,lmk->lck', x, y, preferred_element_type=_sum_dtype(x))


def _max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


@jax.custom_vjp
def max_pool(x: jax.Array) -> jax.Array:
    """3x3 by steps of 2, padded by 1: [N, H, W, C] -> [N, ceil(H / 2), ceil(W / 2), C]."""
    return _max_pool(x)


def _max_pool_forward(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _max_pool(x), x


def _max_pool_backward(x: jax.Array, dy: jax.Array) -> tuple[jax.Array]:
    def default(x: jax.Array, dy: jax.Array) -> jax.Array:
        return jax.vjp(_max_pool, x)[1](dy)[0]

    return (on_cpu_or_else(max_pool_gradient, default, x, dy),)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


def max_pool_gradient(x: jax.Array, dy: jax.Array) -> jax.Array:
    """The gradient of `max_pool` at x [N, H, W, C] for dy [N, h, w, C] -> [N, H, W, C].

    Each dy goes to the first of its window's largest entries, row by row, as with XLA and torch
    (but for NaNs). The place of that entry is found by order here, not by equality with the pooled
    values: the compiler may compute x twice, with other roundings, which makes all entries unequal
    but changes the order of nearly equal ones only.
    """
    (_, height, width, _), (_, h, w, _) = x.shape, dy.shape
    below, right = 2 * h + 1, 2 * w + 1  # of the padded images
    edges = ((0, 0), (1, below - height - 1), (1, right - width - 1), (0, 0))
    x = jnp.pad(x, edges, constant_values=-jnp.inf)
    places = [(a, b) for a in range(3) for b in range(3)]
    largest, first = jnp.full(dy.shape, -jnp.inf, x.dtype), jnp.zeros(dy.shape, jnp.int8)
    for i, (a, b) in enumerate(places):
        entry = x[:, a : below - 2 + a : 2, b : right - 2 + b : 2]
        first = jnp.where(entry > largest, jnp.int8(i), first)
        largest = jnp.maximum(largest, entry)
    zero, dx = jnp.zeros((), dy.dtype), jnp.zeros_like(x)
    for i, (a, b) in enumerate(places):
        spread = ((0, 0, 0), (a, 2 - a, 1), (b, 2 - b, 1), (0, 0, 0))
        dx += lax.pad(jnp.where(first == i, dy, zero), zero, spread)
    return dx[:, 1 : height + 1, 1 : width + 1]

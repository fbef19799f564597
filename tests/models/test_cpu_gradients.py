"""The gradients that are written out for CPUs: the numbers that XLA derives, in other programs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jcls.models import cpu_gradients


def derived(x: jax.Array, kernel: jax.Array, stride: int, groups: int) -> jax.Array:
    """A convolution whose gradients are XLA's."""
    pad = (len(kernel) - 1) // 2
    numbers = ('NHWC', 'HWIO', 'NHWC')
    return lax.conv_general_dilated(
        x, kernel, (stride,) * 2, [(pad, pad)] * 2,
        dimension_numbers=numbers, feature_group_count=groups,
    )  # fmt: skip


def both(ours: Callable[..., Any], theirs: Callable[..., Any], *args: jax.Array) -> float:
    """The largest difference of results and gradients, over 1 + their largest entries."""
    y, backward = jax.vjp(ours, *args)
    wanted, derive = jax.vjp(theirs, *args)
    dy = jnp.asarray(np.random.default_rng(1).normal(size=y.shape), y.dtype)
    pairs = zip((y, *backward(dy)), (wanted, *derive(dy)), strict=True)
    return max(float(jnp.abs(a - b).max() / (1 + jnp.abs(b).max())) for a, b in pairs)


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(sum(shape)).normal(size=shape))


@pytest.mark.parametrize(
    ('examples', 'side', 'channels', 'size', 'stride', 'groups', 'features'),
    [
        (16, 12, 3, 7, 2, 1, 8),  # a stem
        (3, 9, 4, 3, 1, 1, 6),  # one lane: 3 and 8 have no common divisor
        (4, 11, 4, 3, 2, 1, 6),  # an odd side
        (4, (6, 13), 4, 3, 2, 1, 6),
        (2, 5, 64, 3, 1, 1, 128),  # sums too large for more than one lane
        (4, 8, 8, 3, 2, 4, 12),  # groups
        (1, 1, 4, 3, 1, 1, 4),  # nothing but padding around one pixel
    ],
)
@pytest.mark.parametrize('patches', [1, 10 * 2**20])
def test_convolutions(
    examples: int,
    side: Any,
    channels: int,
    size: int,
    stride: int,
    groups: int,
    features: int,
    patches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of whatever shape, and of whatever rows of it at a time."""
    monkeypatch.setattr(cpu_gradients, 'PATCHES', patches)
    with jax.enable_x64(True):
        sides = side if isinstance(side, tuple) else (side, side)
        x = normal(examples, *sides, channels)
        kernel = normal(size, size, channels // groups, features)
        found = both(
            lambda x, w: cpu_gradients.convolve(x, w, stride, groups),
            lambda x, w: derived(x, w, stride, groups),
            x,
            kernel,
        )
        assert found < 1e-13


@pytest.mark.parametrize(('stride', 'barriers'), [(1, 0), (2, 1)])
def test_gradients_are_stored_where_asked(stride: int, barriers: int) -> None:
    """Of strided convolutions alone; the values are what they were."""
    x, kernel = normal(2, 8, 8, 3), normal(3, 3, 3, 4)

    def backward(materialise_gradient: bool) -> Callable[..., Any]:
        function = functools.partial(
            cpu_gradients.convolve,
            stride=stride,
            groups=1,
            materialise_gradient=materialise_gradient,
        )
        return jax.grad(lambda x: function(x, kernel).sum())

    for materialise_gradient in (False, True):
        program = str(jax.make_jaxpr(backward(materialise_gradient))(x))
        assert program.count('optimization_barrier') == (barriers if materialise_gradient else 0)
    assert jnp.array_equal(backward(True)(x), backward(False)(x))


@pytest.mark.parametrize('rows', [1, 2048])
def test_products(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """1x1 convolutions, in one lane and in several."""
    monkeypatch.setattr(cpu_gradients, 'ROWS', rows)
    with jax.enable_x64(True):
        x, kernel = normal(6, 5, 3, 7), normal(7, 4)
        assert both(cpu_gradients.multiply, jnp.matmul, x, kernel) < 1e-14


def flax_max_pool(x: jax.Array) -> jax.Array:
    return nn.max_pool(x, (3, 3), (2, 2), padding=((1, 1), (1, 1)))


@pytest.mark.parametrize('sides', [(8, 8), (7, 7), (6, 9), (9, 6), (1, 1), (2, 1)])
@pytest.mark.parametrize('ties', [False, True])
def test_max_pooling(sides: tuple[int, int], ties: bool) -> None:
    """The gradient of a window goes to the first of its largest entries, of which ReLU makes many.

    So it does with Flax, whose pooling torch's equals.
    """
    with jax.enable_x64(True):
        x = normal(2, *sides, 3)
        x = jnp.maximum(jnp.round(x), 0) if ties else x
        assert both(cpu_gradients.max_pool, flax_max_pool, x) < 1e-15


def test_bfloat16_is_summed_in_float32() -> None:
    x, kernel = normal(8, 16, 16, 4).astype(jnp.bfloat16), normal(3, 3, 4, 4).astype(jnp.bfloat16)
    y, backward = jax.vjp(lambda w: cpu_gradients.convolve(x, w, 1, 1), kernel)
    (found,) = backward(jnp.ones_like(y))
    exact = jax.vjp(lambda w: derived(x.astype('float32'), w, 1, 1), kernel.astype('float32'))[1]
    (wanted,) = exact(jnp.ones(y.shape, jnp.float32))
    assert found.dtype == jnp.bfloat16
    # One rounding of the sum, and not one of each of its 2048 terms.
    assert jnp.abs(found - wanted).max() <= 2**-8 * jnp.abs(wanted).max()


def test_every_platform_gets_its_own_program() -> None:
    """CPUs what is written here; others the gradients of XLA, which are good there."""

    def step(x: jax.Array, kernel: jax.Array) -> Any:
        def loss(x: jax.Array, kernel: jax.Array) -> jax.Array:
            return cpu_gradients.max_pool(cpu_gradients.convolve(x, kernel, 1, 1)).sum()

        return jax.grad(loss, argnums=(0, 1))(x, kernel)

    traced = jax.jit(step).trace(normal(4, 8, 8, 3), normal(3, 3, 3, 5))
    programs = {
        platform: traced.lower(lowering_platforms=(platform,)).as_text()
        for platform in ('cpu', 'tpu', 'cuda')
    }
    for platform, text in programs.items():
        assert ('select_and_scatter' in text) == (platform != 'cpu')
        assert ('stablehlo.while' in text) == (platform == 'cpu')
        assert text.count('stablehlo.convolution') == (2 if platform == 'cpu' else 3)

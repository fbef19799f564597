"""Batch normalisation of a product that is never stored: the same numbers as of one that is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from helpers import TESTS
from jcls.distributed.mesh import batch_split, create_mesh, replicated
from jcls.models import batch_norm
from jcls.models.layers import Conv, relu

EXAMPLES, SIDE, CHANNELS, FEATURES = 8, 6, 5, 12


def inputs(dtype: Any, seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Activations as after a ReLU, correlated, with their mean far from 0; and a kernel."""
    random = np.random.default_rng(seed)
    mixed = random.normal(size=(EXAMPLES, SIDE, SIDE, 3)) @ random.normal(size=(3, CHANNELS))
    noise = random.normal(size=(EXAMPLES, SIDE, SIDE, CHANNELS))
    rows = np.maximum(mixed + 0.3 * noise + 1, 0)
    kernel = random.normal(size=(CHANNELS, FEATURES)) / CHANNELS**0.5
    return jnp.asarray(rows, dtype), jnp.asarray(kernel, dtype)


def normalised(
    rows: jax.Array, kernel: jax.Array, scale: jax.Array, *, defer: bool, **settings: Any
) -> tuple[jax.Array, Any]:
    """The output and the new running statistics of a layer, training."""
    product = batch_norm.DeferredConv1x1(rows, kernel)
    layer = batch_norm.BatchNorm(**settings)
    x = product if defer else product.compute()
    variables = layer.init(jax.random.key(0), x, True)
    params = {'scale': scale, 'bias': jnp.linspace(-1, 1, FEATURES, dtype=scale.dtype)}
    return layer.apply({**variables, 'params': params}, x, True, mutable=['batch_stats'])


def gradients(rows: jax.Array, kernel: jax.Array, scale: jax.Array, **settings: Any) -> Any:
    """Of a function of the output whose gradient is different everywhere."""

    def objective(*args: jax.Array) -> jax.Array:
        y, _ = normalised(*args, **settings)
        return jnp.sum(jnp.sin(y + jnp.arange(y.size).reshape(y.shape)))

    return jax.grad(objective, argnums=(0, 1, 2))(rows, kernel, scale)


def apart(found: Any, wanted: Any) -> float:
    """The largest difference of any leaf, over its largest entry."""
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


@pytest.mark.parametrize('batch_size', [0, 4, 1])
@pytest.mark.parametrize('zero', [False, True])
def test_a_product_is_normalised_as_if_it_were_stored(batch_size: int, zero: bool) -> None:
    """Output, statistics and every gradient, over the batch and over ghost groups, in float64."""
    with jax.enable_x64(True):
        rows, kernel = inputs(jnp.float64)
        scale = jnp.linspace(0.0 if zero else 0.5, 2, FEATURES)
        settings = {'batch_size': batch_size, 'epsilon': 1e-3}
        found = normalised(rows, kernel, scale, defer=True, **settings)
        wanted = normalised(rows, kernel, scale, defer=False, **settings)
        assert apart(found, wanted) < 1e-13
        found = gradients(rows, kernel, scale, defer=True, **settings)
        assert apart(found, gradients(rows, kernel, scale, defer=False, **settings)) < 1e-12


def test_float32_loses_nothing_to_the_detour() -> None:
    """Against float64, the product's statistics are as exact as those of the stored one."""
    rows, kernel = inputs(jnp.float32)
    scale = jnp.ones(FEATURES)
    exact = np.asarray(rows, np.float64) @ np.asarray(kernel, np.float64)
    mean, var = exact.mean((0, 1, 2)), exact.var((0, 1, 2), ddof=1)
    for defer in (True, False):
        _, updated = normalised(rows, kernel, scale, defer=defer, momentum=0.0)
        stats = updated['batch_stats']
        assert np.abs(stats['mean'] - mean).max() < 1e-6 * np.sqrt(var.max())
        assert np.abs(stats['var'] / var - 1).max() < 1e-5


def test_bfloat16_is_as_near_to_the_truth_as_the_stored_product() -> None:
    """The output is in the compute dtype, and about as far from float32's either way."""
    rows, kernel = inputs(jnp.bfloat16)
    scale = jnp.ones(FEATURES)
    truth, _ = normalised(rows.astype(jnp.float32), kernel.astype(jnp.float32), scale, defer=False)
    errors = []
    for defer in (True, False):
        y, _ = normalised(rows, kernel, scale, defer=defer)
        assert y.dtype == jnp.bfloat16
        errors.append(float(jnp.abs(y.astype(jnp.float32) - truth).mean()))
    assert errors[0] < 1.05 * errors[1] < 0.01


@pytest.mark.parametrize('defer', [False, True])
def test_a_nan_is_not_hidden(defer: bool) -> None:
    """Where a negative variance is rounded up to 0, one that is no number stays so."""
    rows, kernel = inputs(jnp.float32)
    rows = rows.at[3, 2, 1, 0].set(jnp.nan)
    y, new = normalised(rows, kernel, jnp.ones(FEATURES), defer=defer)
    assert jnp.isnan(y).all()
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(new))


def test_few_rows_are_normalised_directly() -> None:
    """A group with fewer rows than features computes the product, and knows it: bit for bit."""
    rows, kernel = inputs(jnp.float32)
    rows, scale = rows[:, :1, :1], jnp.ones(FEATURES)  # 8 rows, 12 features
    found = normalised(rows, kernel, scale, defer=True)
    for a, b in zip(
        jax.tree.leaves(found),
        jax.tree.leaves(normalised(rows, kernel, scale, defer=False)),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


def apart_over_devices(batch_size: int) -> float:
    """The difference between a layer over all devices and on one, in float64."""
    with jax.enable_x64(True):
        rows, kernel = inputs(jnp.float64)
        scale = jnp.linspace(0.5, 2, FEATURES)
        settings = {'batch_size': batch_size, 'defer': True}
        mesh = create_mesh('any', EXAMPLES)
        everywhere, split = replicated(mesh), batch_split(mesh)

        def both(*args: jax.Array) -> Any:
            return normalised(*args, **settings), gradients(*args, **settings)

        spread = jax.jit(both, in_shardings=(split, everywhere, everywhere))
        return apart(jax.device_get(spread(rows, kernel, scale)), both(rows, kernel, scale))


ON_EIGHT = """
import sys
sys.path[:0] = sys.argv[1:]
import jax
import test_batch_norm
print(jax.device_count(), *(test_batch_norm.apart_over_devices(size) for size in (0, 2)))
"""


def test_over_devices_it_is_the_same_function(run_python: Callable[..., list[str]]) -> None:
    """Eight devices and one, over the global batch and over groups of two."""
    (output,) = run_python(ON_EIGHT, str(TESTS), str(TESTS / 'models'), devices=8)
    devices, *differences = output.split()
    assert devices == '8'
    assert 0 < max(map(float, differences)) < 1e-12


def test_a_lazy_convolution_is_a_product_only_where_it_is_one() -> None:
    """1x1 without groups, strided too; a 3x3 and a grouped one are carried out."""
    x = jnp.arange(2 * 4 * 4 * 4, dtype=jnp.float32).reshape(2, 4, 4, 4)
    for settings, is_product in (
        ({}, True),
        ({'stride': 2}, True),
        ({'kernel': 3}, False),
        ({'groups': 2}, False),
    ):
        defer, eager = (Conv(6, defer=defer, **settings) for defer in (True, False))
        variables = eager.init(jax.random.key(0), x)
        y = defer.apply(variables, x)
        assert isinstance(y, batch_norm.DeferredConv1x1) == is_product
        y = y.compute() if isinstance(y, batch_norm.DeferredConv1x1) else y
        np.testing.assert_array_equal(y, eager.apply(variables, x))
        weight = variables['params']['kernel']
        stride, pad, groups = (
            settings.get(k, d) for k, d in (('stride', 1), ('kernel', 1), ('groups', 1))
        )
        expected = lax.conv_general_dilated(
            x, weight, (stride, stride), [((pad - 1) // 2,) * 2] * 2,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=groups,
        )  # fmt: skip
        assert apart(y, expected) < 1e-6


def test_relu_and_its_gradient() -> None:
    """max(x, 0), and the gradient where x is above 0 and nowhere else."""
    x = jnp.array([-2.0, -0.0, 0.0, 1e-30, 3.0])
    y, pull = jax.vjp(relu, x)
    np.testing.assert_array_equal(y, jnp.maximum(x, 0))
    np.testing.assert_array_equal(pull(jnp.full(5, 7.0))[0], [0, 0, 0, 7, 7])
    np.testing.assert_array_equal(relu(x), y)

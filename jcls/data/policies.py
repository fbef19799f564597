"""Policies: augmentations that draw a few operations of `jcls.data.kernels` for each image.

Cubuk et al. 2018 (1805.09501, AutoAugment), 2019 (1909.13719, RandAugment); Mueller and Hutter 2021
(2103.10158, TrivialAugment). The tables are torchvision's (v0.29), or timm's where it says so.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from jcls.data import decode, kernels
from jcls.data.decode import Image
from jcls.data.kernels import INDEX, Step
from jcls.data.operation import (
    Draw,
    Fill,
    Operation,
    between_0_and_1,
    check_fill,
    positive,
    same_extent,
)
from jcls.data.runtime import tensorflow
from jcls.schema import choose

Plan = Callable[[Any, int, int], Step]  # uniforms, height, width -> what to do

TORCHVISION = ('identity', 'shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate',
               'brightness', 'color', 'contrast', 'sharpness', 'posterize', 'solarize',
               'autocontrast', 'equalize')  # fmt: skip
SIGNED = {'shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate',
          'brightness', 'color', 'contrast', 'sharpness'}  # fmt: skip
BLENDS = ('brightness', 'color', 'contrast', 'sharpness')
TIMM = ('autocontrast', 'equalize', 'invert', 'rotate', 'posterize', 'solarize', 'solarize_add',
        'color', 'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x',
        'translate_y')  # fmt: skip


def _policy(name: str, numbers: int, plan: Plan, interpolation: str, fill: Fill) -> Operation:
    """An operation that does what `plan` says for so many uniform numbers."""
    choose(dict.fromkeys(kernels.INTERPOLATIONS), interpolation, 'interpolation')
    check_fill(fill)

    @functools.cache
    def program() -> Any:
        def run(image: Any, u: Any, colour: Any) -> Any:
            return kernels.transform(image, plan(u, *image.shape[:2]), colour, interpolation)

        return tensorflow().function(run, jit_compile=True, autograph=False)

    def apply(image: Image, draw: Draw) -> Any:
        image = decode.pixels(image)
        channels = image.shape[-1]
        if channels not in (1, 3):
            raise ValueError(f'{name} takes images of 1 or 3 channels, not {channels}')
        image.shape.assert_is_fully_defined()
        return program()(image, draw.uniform(numbers), draw.colour(fill, channels))

    return Operation(apply, same_extent(name))


def _pick(u: Any, count: int) -> Any:
    """Uniform in [0, 1) -> int32 in 0..count-1."""
    tf = tensorflow()
    # In float32 the product can round up to `count`.
    return tf.minimum(tf.cast(u * count, tf.int32), count - 1)


def _natural(name: str, magnitude: Any, sign: Any) -> Any:
    """The value of an operation from its magnitude: a blend's factor is 1 + its magnitude."""
    return magnitude * sign + (1.0 if name in BLENDS else 0.0)


def _table(names: tuple[str, ...], magnitudes: dict[str, Any], bins: int) -> np.ndarray:
    """float32 [2, operations, bins]: the values for both signs."""
    rows = [
        [
            np.broadcast_to(
                _natural(name, magnitudes.get(name, 0.0), s if name in SIGNED else 1), bins
            )
            for name in names
        ]
        for s in (-1, 1)
    ]
    return np.array(rows, np.float32)


def _lookup(table: np.ndarray, sign: Any, operation: Any, level: Any) -> Any:
    tf = tensorflow()
    return tf.gather_nd(table, tf.stack([sign, operation, level], axis=-1))


def _numbers(names: tuple[str, ...]) -> np.ndarray:
    return np.array([INDEX[name] for name in names], np.int32)


def trivial_augment(*, interpolation: str = 'bilinear', fill: Fill = 0) -> Operation:
    """TrivialAugmentWide: one of 14 operations at one of 31 magnitudes, all equally likely."""
    table = _table(TORCHVISION, _wide(), 31)

    def plan(u: Any, height: int, width: int) -> Step:
        del height, width
        operation, level, sign = _pick(u[:1], 14), _pick(u[1:2], 31), _pick(u[2:3], 2)
        value = _lookup(table, sign, operation, level)
        return Step(tensorflow().gather(_numbers(TORCHVISION), operation), value, u[3:] < 0.5)

    return _policy('trivial_augment', 4, plan, interpolation, fill)


def _wide() -> dict[str, Any]:
    """TrivialAugment's magnitudes, 31 of each operation."""
    level = np.arange(31)
    return {
        **dict.fromkeys(('shear_x', 'shear_y', *BLENDS), 0.99 * level / 30),
        **dict.fromkeys(('translate_x', 'translate_y'), np.trunc(32 * level / 30)),
        'rotate': 135 * level / 30,
        'posterize': 8 - np.round(level / 5),
        'solarize': 255 - 8.5 * level,
    }


def rand_augment(
    *,
    num_ops: int = 2,
    magnitude: int = 9,
    bins: int = 31,
    interpolation: str = 'bilinear',
    fill: Fill = 0,
) -> Operation:
    """torchvision's RandAugment: `num_ops` of 14 operations, drawn with replacement.

    Args:
      num_ops: how many are applied to each image.
      magnitude: of each, in 0..bins-1.
      bins: how many magnitudes there are.
      interpolation: of geometric operations.
      fill: for what they leave empty.
    """
    positive(num_ops=num_ops)
    if bins < 2:
        raise ValueError(f'bins={bins}: at least 2')
    if not 0 <= magnitude < bins:
        raise ValueError(f'magnitude={magnitude}: must be in 0..{bins - 1} (bins={bins})')
    share = magnitude / (bins - 1)

    def plan(u: Any, height: int, width: int) -> Step:
        magnitudes = {
            **dict.fromkeys(('shear_x', 'shear_y'), 0.3 * share),
            **dict.fromkeys(BLENDS, 0.9 * share),
            'translate_x': np.trunc(150 / 331 * width * share),
            'translate_y': np.trunc(150 / 331 * height * share),
            'rotate': 30 * share,
            'posterize': 8 - np.round(magnitude / ((bins - 1) / 4)),
            'solarize': 255 * (1 - share),
        }
        table = _table(TORCHVISION, magnitudes, 1)
        operation, sign = _pick(u[:num_ops], 14), _pick(u[num_ops : 2 * num_ops], 2)
        value = _lookup(table, sign, operation, tensorflow().zeros_like(operation))
        which = tensorflow().gather(_numbers(TORCHVISION), operation)
        return Step(which, value, u[2 * num_ops :] < 0.5)

    return _policy('rand_augment', 3 * num_ops, plan, interpolation, fill)


def rand_augment_timm(
    *,
    num_ops: int = 2,
    magnitude: float = 9.0,
    magnitude_std: float = 0.5,
    probability: float = 0.5,
    interpolation: str = 'random',
    fill: Fill = 'mean',
) -> Operation:
    """timm's RandAugment with increasing severity: ``rand-m9-mstd0.5-inc1``.

    Each of `num_ops` of 15 operations, drawn with replacement, is applied with `probability` at a
    magnitude of its own, N(magnitude, magnitude_std) clipped to 0..10. Posterizing to 0 bits makes
    an image black, as it did in Pillow before it was refused there.

    Args:
      num_ops: how many are drawn.
      magnitude: the mean level, in 0..10.
      magnitude_std: its standard deviation.
      probability: of applying an operation that was drawn.
      interpolation: of geometric operations; 'random' is bilinear or bicubic, for each anew.
      fill: for what they leave empty.
    """
    positive(num_ops=num_ops)
    between_0_and_1(probability=probability)
    if not 0 <= magnitude <= 10:
        raise ValueError(f'magnitude={magnitude}: must be in 0..10')
    if magnitude_std < 0:
        raise ValueError(f'magnitude_std={magnitude_std}: must not be negative')

    def plan(u: Any, height: int, width: int) -> Step:
        tf = tensorflow()
        operation, sign, applied, normal, cubic = tf.unstack(tf.reshape(u, [5, num_ops]))
        operation, sign = _pick(operation, 15), tf.where(sign < 0.5, -1.0, 1.0)
        # Strictly inside (0, 1): the inverse of the normal distribution is infinite at 0.
        level = magnitude + magnitude_std * tf.math.ndtri(normal + 2.0**-25)
        level = tf.clip_by_value(level, 0.0, 10.0) / 10
        values = {
            'rotate': 30 * level * sign,
            'posterize': 4 - tf.floor(4 * level),
            'solarize': 256 - tf.floor(256 * level),
            'solarize_add': tf.minimum(tf.floor(110 * level), 128.0),
            **dict.fromkeys(BLENDS, tf.maximum(0.1, 1 + 0.9 * level * sign)),
            **dict.fromkeys(('shear_x', 'shear_y'), 0.3 * level * sign),
            'translate_x': 0.45 * width * level * sign,
            'translate_y': 0.45 * height * level * sign,
        }
        stacked = tf.stack([values.get(name, tf.zeros_like(level)) for name in TIMM])
        value = tf.gather_nd(stacked, tf.stack([operation, tf.range(num_ops)], axis=-1))
        which = tf.where(applied < probability, tf.gather(_numbers(TIMM), operation), 0)
        return Step(which, value, cubic < 0.5)

    return _policy('rand_augment_timm', 5 * num_ops, plan, interpolation, fill)

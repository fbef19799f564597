"""Policies: augmentations that draw a few operations of `policy_ops` for each image.

Cubuk et al. 2019 (1909.13719, RandAugment); Mueller and Hutter 2021 (2103.10158, TrivialAugment).
The tables are torchvision's (v0.29), or timm's (v1.0.31) where it says so. AutoAugment is
in `jcls.data.augment.autoaugment`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jcls.data.augment import policy_ops
from jcls.data.augment.geometry import check_interpolation
from jcls.data.augment.operation import (
    Fill,
    Operation,
    Rng,
    between_0_and_1,
    check_fill,
    pick,
    positive,
    prepared,
    same_size,
)
from jcls.data.augment.policy_ops import INDEX, Step
from jcls.data.decode import Image
from jcls.host.tensorflow import tf

Plan = Callable[[Any, int, int], Step]  # uniforms, height, width -> what to do

# What torchvision's policies draw from. The first nine have a sign; only AutoAugment inverts.
TORCHVISION = ('shear_x', 'shear_y', 'translate_x', 'translate_y', 'rotate',
               'brightness', 'color', 'contrast', 'sharpness', 'posterize', 'solarize',
               'identity', 'autocontrast', 'equalize', 'invert')  # fmt: skip
SIGNED = TORCHVISION[:9]
BLENDS = ('brightness', 'color', 'contrast', 'sharpness')
TIMM = ('autocontrast', 'equalize', 'invert', 'rotate', 'posterize', 'solarize', 'solarize_add',
        'color', 'contrast', 'brightness', 'sharpness', 'shear_x', 'shear_y', 'translate_x',
        'translate_y')  # fmt: skip


def planned(name: str, numbers: int, plan: Plan, interpolation: str, fill: Fill) -> Operation:
    """The operation that does the steps of `plan`, which takes this many uniform `numbers`."""
    check_interpolation(interpolation)
    check_fill(fill)

    def apply(image: Image, rng: Rng) -> Any:
        image = prepared(image, name)
        steps = plan(rng.uniform(numbers), *image.shape[:2])
        return policy_ops.transform(image, steps, rng.colour(fill, image.shape[-1]), interpolation)

    return Operation(apply, same_size(name), compiles=True)


def spread(first: float, last: float, bins: int) -> np.ndarray:
    """float32 [bins] numbers from first to last, as ``torch.linspace`` computes them on a CPU.

    Their rounding matters because translations are cut off to whole pixels: 15.999999 is 15.
    """
    bin_ = np.arange(bins)
    first, last = float(np.float32(first)), float(np.float32(last))
    step = float(np.float32(last - first) / np.float32(bins - 1))
    # float64 until here, since torch multiplies and adds in one instruction, which rounds once.
    halves = bin_ < bins // 2, first + step * bin_, last - step * (bins - 1 - bin_)
    return np.where(*halves).astype(np.float32)


def space(
    bins: int,
    *,
    shear: float,
    translate: tuple[float, float],
    rotate: float,
    blend: float,
    bits: int,
) -> np.ndarray:
    """Values of torchvision's operations, float32 [2 signs, operations of `TORCHVISION`, bins].

    Each operation grows stronger with the bin, from no change to the number given here.

    Args:
      bins: number of magnitudes.
      shear: largest shear, in pixels per pixel.
      translate: largest translation (x, y) in pixels, cut off to whole ones.
      rotate: largest angle, in degrees.
      blend: largest difference of a factor from 1.
      bits: largest number of the 8 bits that posterizing removes.
    """
    magnitudes = {
        **dict.fromkeys(('shear_x', 'shear_y'), spread(0, shear, bins)),
        # torchvision's translations go right and down, ours left and up.
        'translate_x': -np.trunc(spread(0, translate[0], bins)),
        'translate_y': -np.trunc(spread(0, translate[1], bins)),
        'rotate': spread(0, rotate, bins),
        **dict.fromkeys(BLENDS, spread(0, blend, bins)),
        'posterize': 8 - np.round(np.arange(bins) / ((bins - 1) / bits)),
        'solarize': spread(255, 0, bins),
    }
    values = np.zeros((2, len(TORCHVISION), bins), np.float32)
    for name, magnitude in magnitudes.items():
        for index, sign in enumerate((-1, 1)):
            signed = magnitude * (sign if name in SIGNED else 1)
            values[index, TORCHVISION.index(name)] = signed + (name in BLENDS)
    return values


def lookup(values: np.ndarray, sign: Any, operation: Any, level: Any) -> tuple[Any, Any]:
    """`Step.which` and `Step.value` of operations of a `space`, from int32 of one shape."""
    value = tf.gather_nd(values, tf.stack([sign, operation, level], axis=-1))
    return tf.gather(_numbers(TORCHVISION), operation), value


def _numbers(names: tuple[str, ...]) -> np.ndarray:
    return np.array([INDEX[name] for name in names], np.int32)


def trivial_augment(*, interpolation: str = 'bilinear', fill: Fill = 0) -> Operation:
    """TrivialAugmentWide: one of 14 operations at one of 31 magnitudes, all equally likely.

    Args:
      interpolation: interpolation of geometric operations.
      fill: colour of the places that they leave empty.
    """
    values = space(31, shear=0.99, translate=(32, 32), rotate=135, blend=0.99, bits=6)

    def plan(u: Any, height: int, width: int) -> Step:
        del height, width
        operation, level, sign = pick(u[:1], 14), pick(u[1:2], 31), pick(u[2:3], 2)
        return Step(*lookup(values, sign, operation, level), u[3:] < 0.5)

    return planned('trivial_augment', 4, plan, interpolation, fill)


def searched_space(height: int, width: int, bins: int) -> np.ndarray:
    """The `space` of torchvision's RandAugment and AutoAugment for images of this size."""
    reach = (150 / 331 * width, 150 / 331 * height)
    return space(bins, shear=0.3, translate=reach, rotate=30, blend=0.9, bits=4)


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
      num_ops: number of operations on each image.
      magnitude: magnitude of each operation, in 0..bins-1.
      bins: number of magnitudes.
      interpolation: interpolation of geometric operations.
      fill: colour of the places that they leave empty.
    """
    positive(num_ops=num_ops)
    if bins < 2:
        raise ValueError(f'bins={bins}: at least 2')
    if not 0 <= magnitude < bins:
        raise ValueError(f'magnitude={magnitude}: must be in 0..{bins - 1} (bins={bins})')

    def plan(u: Any, height: int, width: int) -> Step:
        values = searched_space(height, width, bins)
        operation, sign = pick(u[:num_ops], 14), pick(u[num_ops : 2 * num_ops], 2)
        level = tf.fill([num_ops], magnitude)
        return Step(*lookup(values, sign, operation, level), u[2 * num_ops :] < 0.5)

    return planned('rand_augment', 3 * num_ops, plan, interpolation, fill)


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

    It draws `num_ops` of 15 operations with replacement and applies each with `probability`, at a
    magnitude drawn from N(magnitude, magnitude_std) and clipped to 0..10. Posterizing to 0 bits
    makes an image black, as it did in Pillow before Pillow refused it.

    Args:
      num_ops: number of operations that are drawn.
      magnitude: mean magnitude, in 0..10.
      magnitude_std: standard deviation of the magnitude.
      probability: probability of applying an operation that was drawn.
      interpolation: interpolation of geometric operations; 'random' draws bilinear or bicubic for
        each of them.
      fill: colour of the places that they leave empty.
    """
    positive(num_ops=num_ops)
    between_0_and_1(probability=probability)
    if not 0 <= magnitude <= 10:
        raise ValueError(f'magnitude={magnitude}: must be in 0..10')
    if magnitude_std < 0:
        raise ValueError(f'magnitude_std={magnitude_std}: must not be negative')

    def plan(u: Any, height: int, width: int) -> Step:
        operation, sign, applied, normal, cubic = tf.unstack(tf.reshape(u, [5, num_ops]))
        operation, sign = pick(operation, 15), tf.where(sign < 0.5, -1.0, 1.0)
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

    return planned('rand_augment_timm', 5 * num_ops, plan, interpolation, fill)

"""Colour jitter, grey, blur, lighting, and 3-Augment, which draws one of three operations.

Szegedy et al. 2014 (1409.4842, jitter, after Howard 2013, 1312.5402); Krizhevsky et al. 2012
(lighting); Chen et al. 2020 (2002.05709, SimCLR: grey and blur); Touvron et al. 2022 (2204.07118,
DeiT III: 3-Augment). The arithmetic, in `jcls.data.augment.levels`, is Pillow's.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

from jcls.data.augment import levels
from jcls.data.augment.operation import (
    Operation,
    Rng,
    between_0_and_1,
    pick,
    prepared,
    same_size,
)
from jcls.data.decode import Image
from jcls.host.tensorflow import tf

# Of the covariance of ImageNet's colours, in 0..1. Columns are eigenvectors; rows are R, G, B.
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = (
    (-0.5675, 0.7192, 0.4009),
    (-0.5808, -0.0045, -0.8140),
    (-0.5836, -0.6948, 0.4203),
)


def color_jitter(
    *, brightness: float = 0.4, contrast: float = 0.4, saturation: float = 0.4, hue: float = 0.0
) -> Operation:
    """torchvision's ColorJitter: change brightness, contrast, saturation and hue in random order.

    A strength s makes a factor that is uniform in max(0, 1 - s)..1 + s (see
    `jcls.data.augment.policy_ops.NAMES`). The hue turns by a part of a circle that is uniform in
    -hue..hue. A strength of 0 leaves a change out; an image of one channel has no saturation or
    hue.

    Args:
      brightness: strength, at least 0.
      contrast: strength, at least 0.
      saturation: strength, at least 0.
      hue: largest part of a circle, in 0..0.5.
    """
    strengths = {'brightness': brightness, 'contrast': contrast, 'saturation': saturation}
    for name, strength in strengths.items():
        if strength < 0:
            raise ValueError(f'{name}={strength}: must not be negative')
    if not 0 <= hue <= 0.5:
        raise ValueError(f'hue={hue}: must be in [0, 0.5]')
    functions = {
        'brightness': levels.brightness,
        'contrast': levels.contrast,
        'saturation': levels.color,
        'hue': levels.hue,
    }
    ranges = {name: (max(0.0, 1 - s), 1 + s) for name, s in strengths.items() if s}
    if hue:
        ranges['hue'] = (-hue, hue)
    if not ranges:
        raise ValueError('color_jitter: brightness, contrast, saturation and hue are all 0')
    low, high = np.array(list(ranges.values()), np.float32).T
    orders = np.array(list(itertools.permutations(range(len(ranges)))), np.int32)

    def run(image: Any, u: Any) -> Any:
        order = tf.gather(orders, pick(u[0], len(orders)))
        values = low + (high - low) * u[1:]

        def step(place: Any, image: Any) -> tuple[Any, Any]:
            branches = [
                functools.partial(functions[name], image, values[index])
                for index, name in enumerate(ranges)
            ]
            return place + 1, tf.switch_case(order[place], branches)

        return tf.while_loop(lambda i, _: i < len(ranges), step, (tf.constant(0), image))[1]

    return _compiling('color_jitter', run, lambda rng: rng.uniform(1 + len(ranges)))


def grey(*, probability: float = 0.1) -> Operation:
    """Make an image grey with this probability; it keeps its channels."""
    between_0_and_1(probability=probability)

    def run(image: Any, u: Any) -> Any:
        return tf.cond(u < probability, lambda: levels.grey(image), lambda: image)

    return _compiling('grey', run, lambda rng: rng.uniform())


def gaussian_blur(
    *, probability: float = 0.5, sigma: tuple[float, float] = (0.1, 2.0)
) -> Operation:
    """Blur an image, as Pillow's ``ImageFilter.GaussianBlur`` does.

    Args:
      probability: probability of blurring.
      sigma: bounds (low, high) of the standard deviation, which is uniform, in pixels.
    """
    between_0_and_1(probability=probability)
    if not 0 <= sigma[0] <= sigma[1]:
        raise ValueError(f'sigma={sigma}: 0 <= low <= high expected')

    def run(image: Any, u: Any) -> Any:
        chosen = u[0] < probability
        return tf.cond(chosen, lambda: _blurred(image, u[1], sigma), lambda: image)

    return _compiling('gaussian_blur', run, lambda rng: rng.uniform(2))


def _blurred(image: Any, u: Any, sigma: tuple[float, float]) -> Any:
    return levels.blur(image, sigma[0] + (sigma[1] - sigma[0]) * u, sigma[1])


def lighting(*, std: float = 0.1) -> Operation:
    """Add one colour to all pixels: the sum of ImageNet's principal components p_i a_i l_i.

    a_i is drawn from N(0, std^2), and l_i is the component's eigenvalue. The sum is a fraction of
    255 levels. An image of one channel gets the mean of the three. The result is rounded and
    clipped.
    """
    if std < 0:
        raise ValueError(f'std={std}: must not be negative')

    def run(image: Any, normal: Any) -> Any:
        scaled = np.float32(255 * std) * np.array(EIGENVALUES, np.float32) * normal
        colour = tf.linalg.matvec(np.array(EIGENVECTORS, np.float32), scaled)
        if image.shape[2] == 1:
            colour = tf.reduce_mean(colour)
        levels = tf.round(tf.cast(image, tf.float32) + colour)
        return tf.cast(tf.clip_by_value(levels, 0, 255), tf.uint8)

    return _compiling('lighting', run, lambda rng: rng.normal(3))


def three_augment() -> Operation:
    """DeiT III's 3-Augment: grey, or solarized from level 128 on, or blurred, equally likely.

    The blur's standard deviation is uniform in 0.1..2 pixels. DeiT III jitters colours, too: that
    is `color_jitter` with 0.3 for brightness, contrast and saturation.
    """

    def run(image: Any, u: Any) -> Any:
        branches = (
            lambda: levels.grey(image),
            lambda: levels.solarize(image, 128.0),
            lambda: _blurred(image, u[1], (0.1, 2.0)),
        )
        return tf.switch_case(pick(u[0], 3), branches)

    return _compiling('three_augment', run, lambda rng: rng.uniform(2))


def _compiling(
    name: str, run: Callable[[Any, Any], Any], numbers: Callable[[Rng], Any]
) -> Operation:
    """The operation that does `run` to an image and the random `numbers` that it needs."""

    def apply(image: Image, rng: Rng) -> Any:
        return run(prepared(image, name), numbers(rng))

    return Operation(apply, same_size(name), compiles=True)

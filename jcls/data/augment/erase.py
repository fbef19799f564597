"""Paint over boxes of an image: random erasing and Cutout.

Zhong et al. 2017 (1708.04896, random erasing, with the distribution of torchvision v0.29 and the
noise of timm v1.0.31); DeVries and Taylor 2017 (1708.04552, Cutout). `jcls.data.augment.grids`
paints over grids.

The default colour is the data's mean, which is 0 after normalisation. Erasing belongs after all
other operations, which would change the colour.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jcls.config.parts import choose
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
from jcls.data.decode import Image
from jcls.host.tensorflow import tf

TRIES = 10  # tries for each box before it is left out
MODES = ('constant', 'channel', 'pixel')


def random_erasing(
    *,
    probability: float = 0.1,
    scale: tuple[float, float] = (0.02, 0.33),
    ratio: tuple[float, float] = (0.3, 3.3),
    count: int = 1,
    mode: str = 'constant',
    fill: Fill = 'mean',
    noise_std: tuple[float, ...] = (0.229, 0.224, 0.225),
) -> Operation:
    """Paint over random boxes with this probability.

    The number of boxes is uniform in 1..count. The area of each is U(scale) of the image's, over
    the number of boxes; its height / width is exp(U(log ratio)); its sides are rounded half to
    even. For each, the first of ten tries that is lower and narrower than the image is placed
    uniformly; if there is none, this box is left out.

    Args:
      probability: probability of painting.
      scale: bounds of the area, as a share of the image's.
      ratio: bounds of height / width.
      count: largest number of boxes.
      mode: 'constant' paints with `fill`; 'channel' with one random colour for each box; 'pixel'
        with one for each pixel. Random colours are N(fill, 255 noise_std), rounded and clipped.
      fill: the colour, or the mean of the random colours.
      noise_std: standard deviation of each channel, as a share of 255; usually the data's own.
    """
    between_0_and_1(probability=probability)
    positive(count=count)
    choose(dict.fromkeys(MODES), mode, 'mode')
    check_fill(fill)
    if not 0 <= scale[0] <= scale[1] <= 1:
        raise ValueError(f'scale={scale}: 0 <= low <= high <= 1 expected')
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f'ratio={ratio}: 0 < low <= high expected')
    if not all(std >= 0 for std in noise_std):
        raise ValueError(f'noise_std={noise_std}: must not be negative')

    def run(image: Any, u: Any, colour: Any, *normal: Any) -> Any:
        palette = colour[None]  # [n, C]
        if normal:
            std = 255 * np.array(noise_std, np.float32)
            levels = tf.round(tf.cast(colour, tf.float32) + std * normal[0])
            palette = tf.cast(tf.clip_by_value(levels, 0, 255), tf.uint8)
        height, width, _ = image.shape
        boxes = random_boxes(height, width, u, scale, ratio, count)
        used = 0
        for i in range(count):
            top, left, bottom, right = tf.unstack(boxes[i])
            number: Any = i if mode == 'channel' else 0
            if mode == 'pixel':
                row, column = tf.range(height)[:, None] - top, tf.range(width) - left
                number = tf.maximum(row * (right - left) + column, 0) + used
                number = tf.minimum(number, palette.shape[0] - 1)
                used += (bottom - top) * (right - left)
            inside = _box(image, top, left, bottom, right)
            image = painted(image, inside, tf.gather(palette, number))
        return image

    def apply(image: Image, rng: Rng) -> Any:
        image = prepared(image, 'random_erasing')
        height, width, channels = image.shape
        if mode != 'constant' and len(noise_std) != channels:
            raise ValueError(f'noise_std={noise_std}: {channels} numbers, one for each channel')
        # Sides are rounded, so a box may exceed its area by half of its height and width.
        most = int(scale[1] * height * width) + count * (height + width)

        def erased() -> Any:
            u = rng.uniform(1 + count * (2 * TRIES + 2), stream=1)
            normal = [rng.normal(colours, channels, stream=2)] if colours else []
            return run(image, u, rng.colour(fill, channels), *normal)

        colours = {'constant': 0, 'channel': count, 'pixel': most}[mode]
        return tf.cond(rng.uniform() < probability, erased, lambda: image)

    return Operation(apply, same_size('random_erasing'), compiles=True)


def random_boxes(
    height: int,
    width: int,
    u: Any,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    count: int = 1,
) -> Any:
    """Boxes int32 [count, (top, left, bottom, right)] from 1 + count (2 TRIES + 2) uniforms.

    A box that does not fit is empty, and so are those beyond the number of boxes drawn.
    """
    number = 1 + pick(u[0], count)
    u = tf.reshape(u[1:], [count, 2 * TRIES + 2])
    area = height * width * (scale[0] + (scale[1] - scale[0]) * u[:, :TRIES])
    area /= tf.cast(number, tf.float32)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(low + (high - low) * u[:, TRIES : 2 * TRIES])
    heights = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    widths = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (heights < height) & (widths < width)
    first = tf.argmax(fits, axis=1, output_type=tf.int32)[:, None]  # the first of those that fit
    there = tf.reduce_any(fits, axis=1) & (tf.range(count) < number)
    h, w = (tf.gather(sides, first, batch_dims=1)[:, 0] for sides in (heights, widths))
    h, w = tf.where(there, h, 0), tf.where(there, w, 0)
    top, left = pick(u[:, -2], height - h + 1), pick(u[:, -1], width - w + 1)
    return tf.stack([top, left, top + h, left + w], axis=1)


def cutout(
    *, length: int = 112, holes: int = 1, probability: float = 1.0, fill: Fill = 'mean'
) -> Operation:
    """Paint over squares whose centres are uniform in the image, so that parts may lie outside.

    A square reaches length // 2 pixels to each side of its centre (an odd length counts as the even
    one below it).

    Args:
      length: length of a side, in pixels.
      holes: number of squares.
      probability: probability of painting.
      fill: the colour.
    """
    between_0_and_1(probability=probability)
    positive(holes=holes)
    check_fill(fill)
    if length < 2:
        raise ValueError(f'length={length}: at least 2')

    def run(image: Any, u: Any, colour: Any) -> Any:
        height, width, _ = image.shape
        y, x, half = pick(u[:holes], height), pick(u[holes:], width), length // 2
        for i in range(holes):
            inside = _box(image, y[i] - half, x[i] - half, y[i] + half, x[i] + half)
            image = painted(image, inside, colour)
        return image

    return sometimes('cutout', run, 2 * holes, probability, fill)


def sometimes(
    name: str, run: Callable[..., Any], numbers: int, probability: float, fill: Fill
) -> Operation:
    """The operation that does `run`, with this probability, to (image, uniforms, colour)."""

    def apply(image: Image, rng: Rng) -> Any:
        image = prepared(image, name)

        def erased() -> Any:
            u = rng.uniform(numbers, stream=1)
            return run(image, u, rng.colour(fill, image.shape[-1]))

        return tf.cond(rng.uniform() < probability, erased, lambda: image)

    return Operation(apply, same_size(name), compiles=True)


def _box(image: Any, top: Any, left: Any, bottom: Any, right: Any) -> Any:
    """A mask, bool [H, W], that is true inside the box."""
    row, column = tf.range(image.shape[0])[:, None], tf.range(image.shape[1])[None]
    return (row >= top) & (row < bottom) & (column >= left) & (column < right)


def painted(image: Any, inside: Any, colour: Any) -> Any:
    """The image with `colour`, uint8 [C] or [H, W, C], where `inside`, bool [H, W], is true."""
    return tf.where(inside[..., None], colour, image)

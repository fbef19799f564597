"""Paint over a grid, or over some squares of one: GridMask and Hide-and-Seek.

Chen et al. 2020 (2001.04086, GridMask); Singh and Lee 2017 (1704.04232, Hide-and-Seek); both as in
PaddleClas. Like everything that paints over an image (`jcls.data.augment.erase`), they come last.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jcls.data.augment.erase import painted, sometimes
from jcls.data.augment.geometry import rotated
from jcls.data.augment.operation import (
    Fill,
    Operation,
    Rng,
    between_0_and_1,
    check_fill,
    pick,
    prepared,
    same_size,
)
from jcls.data.decode import Image
from jcls.host.tensorflow import tf


def grid_mask(
    *,
    d: tuple[int, int] = (96, 224),
    ratio: float = 0.5,
    rotate: float = 0.0,
    mode: int = 0,
    probability: float = 1.0,
    fill: Fill = 'mean',
) -> Operation:
    """Paint over a grid of bands (mode 0), or over the squares between them (mode 1).

    Bands of int(d ratio + 0.5) pixels lie every d pixels, across and along, at a random phase. The
    grid turns about the centre by an angle uniform in 0..rotate. The defaults are PaddleClas's,
    which paint over 75 % of an image (25 % with mode=1). The paper's setting is milder: mode=1,
    ratio=0.4, rotate=360, probability=0.8. Both raise the probability from 0 over the first 80 % of
    the run. Here it is constant, since an operation does not know the epoch.

    Args:
      d: bounds (low, high) of the period in pixels, which is uniform in low..high-1.
      ratio: width of a band over the period, in 0..1.
      rotate: largest angle, in degrees.
      mode: 0 or 1, as above.
      probability: probability of painting.
      fill: the colour.
    """
    between_0_and_1(ratio=ratio, probability=probability)
    check_fill(fill)
    if not 2 <= d[0] < d[1]:
        raise ValueError(f'd={d}: 2 <= low < high expected')
    if not 0 <= rotate <= 360:
        raise ValueError(f'rotate={rotate}: must be in [0, 360]')
    if mode not in (0, 1):
        raise ValueError(f'mode={mode}: must be 0 or 1')

    def run(image: Any, u: Any, colour: Any) -> Any:
        height, width, _ = image.shape
        period = tf.cast(d[0] + pick(u[0], d[1] - d[0]), tf.float32)
        band = tf.floor(period * ratio + 0.5)
        y = tf.range(height, dtype=tf.float32)[:, None] + 0.5
        x = tf.range(width, dtype=tf.float32)[None] + 0.5
        if rotate:
            a, b, c, d_, e, f = rotated(rotate * u[3], height, width)
            x, y = a * x + b * y + c, d_ * x + e * y + f

        def banded(place: Any, phase: Any) -> Any:
            place = tf.floor(place) + tf.floor(phase * period)
            return place - period * tf.floor(place / period) < band

        bands = banded(y, u[1]) | banded(x, u[2])
        return painted(image, bands if mode == 0 else ~bands, colour)

    return sometimes('grid_mask', run, 4, probability, fill)


def hide_and_seek(
    *,
    grid_sizes: tuple[int, ...] = (0, 16, 32, 44, 56),
    probability: float = 0.5,
    fill: Fill = 'mean',
) -> Operation:
    """Divide the image into squares, from its upper left corner on, and paint over some of them.

    Args:
      grid_sizes: possible sides of the squares in pixels, of which one is drawn; with 0 nothing is
        painted.
      probability: probability of painting over a square.
      fill: the colour.
    """
    between_0_and_1(probability=probability)
    check_fill(fill)
    if not any(grid_sizes) or min(grid_sizes) < 0:
        raise ValueError(f'grid_sizes={grid_sizes}: none may be negative, and not all of them 0')
    finest = min(size for size in grid_sizes if size)

    def run(image: Any, u: Any, colour: Any) -> Any:
        size = tf.gather(np.array(grid_sizes, np.int32), pick(u[0], len(grid_sizes)))
        hidden = tf.reshape(u[1:] < probability, [-1, -(-image.shape[1] // finest)])
        side = tf.where(size > 0, size, finest)
        row, column = (tf.range(length) // side for length in image.shape[:2])
        inside = tf.gather(tf.gather(hidden, row), column, axis=1)
        return painted(image, inside & (size > 0), colour)

    def apply(image: Image, rng: Rng) -> Any:
        image = prepared(image, 'hide_and_seek')
        rows, columns = (-(-length // finest) for length in image.shape[:2])
        u = rng.uniform(1 + rows * columns)
        return run(image, u, rng.colour(fill, image.shape[-1]))

    return Operation(apply, same_size('hide_and_seek'), compiles=True)

"""Geometric operations on one image: every output pixel is looked up in the input.

They work as Pillow's ``Image.transform``: samples are at pixel centres, bilinear values are
truncated, cubic kernels have a = -1, and places outside the image have the fill colour.

`affine` is for use inside a compiled function; policies use it, too.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from jcls.config.parts import choose
from jcls.data.augment.operation import Fill, Operation, Rng, check_fill, prepared, same_size
from jcls.data.decode import Image
from jcls.host.tensorflow import tf

INTERPOLATIONS = ('nearest', 'bilinear', 'bicubic', 'random')  # 'random': one of the last two

# One 64-bit word holds all channels of a pixel, so that each neighbour costs one load and one
# product. A channel has 21 bits: 8 for its level and 11 or 12 for the weight. Cubic weights may be
# negative; the bias keeps the sum of a channel from borrowing from the next one.
SPACING = 21
WEIGHT_BITS = {'nearest': 0, 'bilinear': 12, 'bicubic': 11}
BIAS = {'nearest': 0, 'bilinear': 0, 'bicubic': 3 << 17}


def rotation(
    *, degrees: float = 15.0, interpolation: str = 'bilinear', fill: Fill = 0
) -> Operation:
    """Turn an image about its centre by an angle uniform in -degrees..degrees; its size stays.

    Args:
      degrees: largest angle, in 0..180.
      interpolation: 'nearest', 'bilinear', 'bicubic', or 'random' for one of the last two, drawn
        for each image.
      fill: colour of the corners that are left empty.
    """
    if not 0 <= degrees <= 180:
        raise ValueError(f'degrees={degrees}: must be in [0, 180]')
    check_interpolation(interpolation)
    check_fill(fill)

    def apply(image: Image, rng: Rng) -> Any:
        image, u = prepared(image, 'rotation'), rng.uniform(2)
        matrix = tf.stack(rotated((2 * u[0] - 1) * degrees, *image.shape[:2]))
        colour = rng.colour(fill, image.shape[-1])
        return affine(image, matrix, colour, interpolation, u[1] < 0.5)

    return Operation(apply, same_size('rotation'), compiles=True)


def check_interpolation(interpolation: str) -> None:
    """Raise ValueError for an unknown interpolation."""
    choose(dict.fromkeys(INTERPOLATIONS), interpolation, 'interpolation')


def rotated(degrees: Any, height: int, width: int) -> list[Any]:
    """The six entries of the matrix that turns counter-clockwise about the centre; see `affine`."""
    angle = degrees * (math.pi / 180)
    # Rounding makes quarter turns exact, which decides whether a place is inside the image.
    cos, sin = (tf.round(part * 2.0**22) / 2.0**22 for part in (tf.cos(angle), tf.sin(angle)))
    x, y = width / 2, height / 2
    return [cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y]


def affine(image: Any, matrix: Any, fill: Any, kind: str, cubic: Any = False) -> Any:
    """Look the output pixel (x, y), measured at pixel centres, up at (ax+by+c, dx+ey+f) in `image`.

    Args:
      image: uint8 [H, W, 3 or 1], H and W static.
      matrix: float32 [6]: a, b, c, d, e, f.
      fill: uint8 [3 or 1], the colour of places outside the image.
      kind: one of `INTERPOLATIONS`.
      cubic: whether 'random' is bicubic here; else it is bilinear.
    """
    if kind == 'random':
        return tf.cond(
            cubic,
            lambda: affine(image, matrix, fill, 'bicubic'),
            lambda: affine(image, matrix, fill, 'bilinear'),
        )
    height, width, channels = image.shape
    bits, bias = WEIGHT_BITS[kind], BIAS[kind]

    def pack(levels: Any) -> Any:
        return tf.add_n([_word(levels[..., c]) * _word(1 << SPACING * c) for c in range(channels)])

    def sampled() -> Any:
        if kind == 'nearest':
            inside, neighbours = _nearest(matrix, height, width)
        else:
            inside, neighbours = _around(matrix, height, width, kind)
        total = _word(0)
        for index, weight in neighbours:
            total += tf.gather(packed, index) * weight
        return tf.where(inside, total, pack(fill) * _word(1 << bits)) + offset

    packed = tf.reshape(pack(image), [-1])
    offset = _word(sum(bias << SPACING * c for c in range(channels)))
    # XLA would fuse the packing into every load, and the loads into the unpacking of every channel,
    # which is five times slower. The operands and results of a conditional are computed once.
    words = tf.cond(
        tf.math.is_finite(matrix[0]), sampled, lambda: tf.reshape(packed, [height, width])
    )
    out = []
    for c in range(channels):
        shifted = tf.bitwise.right_shift(words, _word(SPACING * c))
        level = tf.cast(tf.bitwise.bitwise_and(shifted, _word((1 << SPACING) - 1)), tf.int32)
        out.append(tf.clip_by_value(tf.bitwise.right_shift(level - bias, bits), 0, 255))
    return tf.cast(tf.stack(out, -1), tf.uint8)


class _Places(NamedTuple):
    """Where each output pixel is looked up: tensors [H, W].

    Attributes:
      inside: bool, whether the place is inside the image.
      neighbours: (index of a pixel, its weight as a word), whose weights sum to 2 ** bits.
    """

    inside: Any
    neighbours: list[tuple[Any, Any]]


def _nearest(matrix: Any, height: int, width: int) -> _Places:
    """The nearest pixel. As in Pillow, rounding to 16 binary places decides between two."""

    def fixed(number: Any) -> Any:
        return tf.cast(tf.floor(number * 65536 + 0.5), tf.int32)

    def place(a: Any, b: Any, c: Any) -> Any:
        x, y = tf.range(width)[None], tf.range(height)[:, None]
        return tf.bitwise.right_shift(fixed(a) * x + fixed(b) * y + fixed(c + 0.5 * (a + b)), 16)

    column, row = place(*tf.unstack(matrix[:3])), place(*tf.unstack(matrix[3:]))
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = tf.clip_by_value(row, 0, height - 1) * width + tf.clip_by_value(column, 0, width - 1)
    return _Places(inside, [(index, _word(1))])


def _around(matrix: Any, height: int, width: int, kind: str) -> _Places:
    """The four or sixteen pixels that a bilinear or bicubic value is made of."""
    xs = tf.range(width, dtype=tf.float32)[None] + 0.5
    ys = tf.range(height, dtype=tf.float32)[:, None] + 0.5
    x = matrix[0] * xs + matrix[1] * ys + matrix[2]
    y = matrix[3] * xs + matrix[4] * ys + matrix[5]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    axes = []
    for at, length in ((x - 0.5, width), (y - 0.5, height)):
        first = tf.floor(at)
        d = at - first
        if kind == 'bilinear':
            places: tuple[int, ...] = (0, 1)
            weights: tuple[Any, ...] = (1 - d, d)
        else:  # the cubic with a = -1, as Pillow's transform
            places = (-1, 0, 1, 2)
            weights = (
                d * (-1 + d * (2 - d)),
                1 + d * d * (d - 2),
                d * (1 + d * (1 - d)),
                d * d * (d - 1),
            )
        first = tf.cast(first, tf.int32)
        axes.append(
            [
                (tf.clip_by_value(first + p, 0, length - 1), w)
                for p, w in zip(places, weights, strict=True)
            ]
        )
    pixels = []
    rest = tf.constant(1 << WEIGHT_BITS[kind], tf.int32)
    for row, across in axes[1]:
        for column, along in axes[0]:
            weight = tf.cast(tf.round(along * across * (1 << WEIGHT_BITS[kind])), tf.int32)
            rest -= weight
            pixels.append((row * width + column, weight))
    # Rounding must not make a plain area lighter or darker, so the nearest pixel gets the rest.
    main = len(pixels) // 2 - (0 if kind == 'bilinear' else 3)
    pixels[main] = (pixels[main][0], pixels[main][1] + rest)
    return _Places(inside, [(index, _word(weight)) for index, weight in pixels])


def _word(value: Any) -> Any:
    return tf.constant(value, tf.uint64) if isinstance(value, int) else tf.cast(value, tf.uint64)

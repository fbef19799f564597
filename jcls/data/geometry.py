"""Geometric operations on one image: every output pixel is looked up in the input.

As Pillow's ``Image.transform``: samples at pixel centres, bilinear values truncated, cubic ones
with a = -1, and the fill colour wherever the place looked up lies outside of the image.
"""

from __future__ import annotations

from typing import Any

from jcls.data.runtime import tensorflow

# Geometry. All channels of a pixel travel in one 64-bit word, so that each neighbour costs one load
# and one product: 21 bits a channel, of which 8 are the level's and 11 or 12 its weight's. Cubic
# weights are negative, too; the bias keeps each channel's sum from borrowing from the next.
SPACING = 21
WEIGHT_BITS = {'nearest': 0, 'bilinear': 12, 'bicubic': 11}
BIAS = {'nearest': 0, 'bilinear': 0, 'bicubic': 3 << 17}


def affine(image: Any, matrix: Any, fill: Any, kind: str, cubic: Any = False) -> Any:
    """Look every output pixel up in `image`; see `_matrix` and `transform`."""
    tf = tensorflow()
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
        xs = tf.range(width, dtype=tf.float32)[None] + 0.5
        ys = tf.range(height, dtype=tf.float32)[:, None] + 0.5
        x = matrix[0] * xs + matrix[1] * ys + matrix[2]
        y = matrix[3] * xs + matrix[4] * ys + matrix[5]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        total = _word(0)
        for index, weight in _neighbours(x, y, height, width, kind):
            total += tf.gather(packed, index) * weight
        return tf.where(inside, total, pack(fill) * _word(1 << bits)) + offset

    packed = tf.reshape(pack(image), [-1])
    offset = _word(sum(bias << SPACING * c for c in range(channels)))
    # XLA would fuse the packing into every load and the loads into the unpacking of every channel,
    # five times slower; a conditional's operands and results are computed once, into memory.
    words = tf.cond(
        tf.math.is_finite(matrix[0]), sampled, lambda: tf.reshape(packed, [height, width])
    )
    out = []
    for c in range(channels):
        shifted = tf.bitwise.right_shift(words, _word(SPACING * c))
        level = tf.cast(tf.bitwise.bitwise_and(shifted, _word((1 << SPACING) - 1)), tf.int32)
        out.append(tf.clip_by_value(tf.bitwise.right_shift(level - bias, bits), 0, 255))
    return tf.cast(tf.stack(out, -1), tf.uint8)


def _neighbours(x: Any, y: Any, height: int, width: int, kind: str) -> list[tuple[Any, Any]]:
    """(index of the pixel, weight as a word) of each neighbour; weights sum to 2 ** bits."""
    tf = tensorflow()
    if kind == 'nearest':
        column, row = (tf.cast(tf.floor(at), tf.int32) for at in (x, y))
        column, row = tf.clip_by_value(column, 0, width - 1), tf.clip_by_value(row, 0, height - 1)
        return [(row * width + column, _word(1))]
    axes = []
    for at, extent in ((x - 0.5, width), (y - 0.5, height)):
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
                (tf.clip_by_value(first + p, 0, extent - 1), w)
                for p, w in zip(places, weights, strict=True)
            ]
        )
    found = []
    rest = tf.constant(1 << WEIGHT_BITS[kind], tf.int32)
    for row, across in axes[1]:
        for column, along in axes[0]:
            weight = tf.cast(tf.round(along * across * (1 << WEIGHT_BITS[kind])), tf.int32)
            rest -= weight
            found.append((row * width + column, weight))
    # Rounding must not make a plain area lighter or darker: what is left goes to the nearest.
    main = len(found) // 2 - (0 if kind == 'bilinear' else 3)
    found[main] = (found[main][0], found[main][1] + rest)
    return [(index, _word(weight)) for index, weight in found]


def _word(value: Any) -> Any:
    tf = tensorflow()
    return tf.constant(value, tf.uint64) if isinstance(value, int) else tf.cast(value, tf.uint64)

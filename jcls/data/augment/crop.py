"""Crops, resizes and flips. They bring images to one size, and decode no more than they need.

Sources: torchvision's transforms (v0.29), from which the crop's distribution and all rounding are
taken; Szegedy et al. 2014 (1409.4842, scale and aspect jitter); He et al. 2015 (1512.03385, section
4.2, pad and crop).
"""

from __future__ import annotations

import math
from typing import Any

from jcls.config.parts import choose
from jcls.data import decode as decoding
from jcls.data.augment.operation import Operation, Rng, Size, between_0_and_1, positive
from jcls.data.decode import Image
from jcls.host.tensorflow import tf

INTERPOLATIONS = ('bilinear', 'bicubic')
LARGEST = 2**22  # pixels of a resized image, about: they take 50 MB in float32
TRIES = 10  # boxes that the random-resized crop tries before it takes a central one


def random_resized_crop(
    *,
    size: int = 224,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    interpolation: str = 'bilinear',
    decode: str = 'exact',
) -> Operation:
    """A random box of the image, resized to [size, size].

    It draws ten boxes of area * U(scale) and aspect exp(U(log ratio)), sides rounded half to even.
    The first that fits into the image is placed uniformly. If none fits, the box is the largest
    central one within `ratio`.

    Args:
      size: height and width afterwards.
      scale: bounds of the box's area, as a share of the image's.
      ratio: bounds of the box's width over its height.
      interpolation: 'bilinear', 'bicubic', or 'random' for one of them, drawn for each image.
      decode: 'exact' gives Pillow's pixels (antialiased); 'fast' shrinks large boxes while it
        decodes a JPEG, without an antialiasing filter. Other formats are always decoded exactly.
    """
    positive(size=size)
    if not 0 < scale[0] <= scale[1]:
        raise ValueError(f'scale={scale}: 0 < low <= high expected')
    if not 0 < ratio[0] <= ratio[1]:
        raise ValueError(f'ratio={ratio}: 0 < low <= high expected')
    choose(dict.fromkeys((*INTERPOLATIONS, 'random')), interpolation, 'interpolation')
    fast = choose({'exact': False, 'fast': True}, decode, 'decode')

    def apply(image: Image, rng: Rng) -> Any:
        height, width = decoding.size(image)
        u = rng.uniform(2 * TRIES + 3)
        box = tf.unstack(random_box(height, width, u[:-1], scale, ratio))

        def resized(method: str) -> Any:
            def exactly() -> Any:
                cropped = decoding.crop(image, *box)
                return decoding.resize(cropped, size, size, method=method)

            def quickly() -> Any:
                cropped = decoding.fast_crop(image, *box, target=size)
                return decoding.resize(cropped, size, size, method=method, antialias=False)

            if fast and decoding.is_encoded(image):
                return tf.cond(tf.io.is_jpeg(image), quickly, exactly)
            return exactly()

        if interpolation == 'random':
            return tf.cond(u[-1] < 0.5, lambda: resized('bilinear'), lambda: resized('bicubic'))
        return resized(interpolation)

    return Operation(apply, lambda _: (size, size))


def random_box(
    height: Any, width: Any, u: Any, scale: tuple[float, float], ratio: tuple[float, float]
) -> Any:
    """torchvision's box from 2 * TRIES + 2 uniforms `u`: int32 [top, left, height, width]."""
    height_f, width_f = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    area = height_f * width_f * (scale[0] + (scale[1] - scale[0]) * u[:TRIES])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    aspect = tf.exp(low + (high - low) * u[TRIES : 2 * TRIES])
    widths = tf.cast(tf.round(tf.sqrt(area * aspect)), tf.int32)
    heights = tf.cast(tf.round(tf.sqrt(area / aspect)), tf.int32)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first = tf.argmax(fits, output_type=tf.int32)  # the first of those that fit

    def placed() -> Any:
        h, w = heights[first], widths[first]
        room = tf.cast([height - h + 1, width - w + 1], tf.float32)
        # U[0, 1) * n can round up to n in float32.
        corner = tf.minimum(tf.cast(u[2 * TRIES :] * room, tf.int32), [height - h, width - w])
        return tf.stack([corner[0], corner[1], h, w])

    def central() -> Any:
        whole = width_f / height_f
        w = tf.where(whole > ratio[1], tf.round(height_f * ratio[1]), width_f)
        h = tf.where(whole < ratio[0], tf.round(width_f / ratio[0]), height_f)
        w, h = tf.cast(w, tf.int32), tf.cast(h, tf.int32)
        return tf.stack([(height - h) // 2, (width - w) // 2, h, w])

    return tf.cond(tf.reduce_any(fits), placed, central)


def resize(
    *, size: int = 256, interpolation: str = 'bilinear', antialias: bool = True
) -> Operation:
    """Resize the shorter side to `size` pixels, the longer one to int(size * long / short).

    Of a thin strip that would become very long only the middle is made. What a center_crop takes
    from it is the same.

    Args:
      size: length of the shorter side.
      interpolation: 'bilinear' or 'bicubic'.
      antialias: filter what becomes smaller, as Pillow does; OpenCV and TensorFlow do not.
    """
    positive(size=size)
    choose(dict.fromkeys(INTERPOLATIONS), interpolation, 'interpolation')

    def apply(image: Image, rng: Rng) -> Any:
        del rng
        image = decoding.pixels(image)
        height, width = decoding.size(image)
        short, long = (tf.cast(f(height, width), tf.int64) for f in (tf.minimum, tf.maximum))
        whole = size * long // short
        kept = whole - tf.maximum(_surplus(whole, size), 0)
        portrait = height >= width

        def resized(image: Any, **options: Any) -> Any:
            other = tf.cast(kept, tf.int32)
            return decoding.resize(
                image,
                tf.where(portrait, other, size),
                tf.where(portrait, size, other),
                method=interpolation,
                antialias=antialias,
                **options,
            )

        def middle() -> Any:
            scale = tf.cast(whole, tf.float64) / tf.cast(long, tf.float64)
            start = tf.cast((whole - kept) // 2, tf.float64)
            margin = 2 * tf.maximum(1 / scale, 1) + 1  # pixels that the widest filter looks at
            first = tf.maximum(tf.floor(start / scale - margin), 0)
            end = tf.math.ceil((start + tf.cast(kept, tf.float64)) / scale + margin)
            begin, end = tf.cast(first, tf.int32), tf.cast(end, tf.int32)
            part = tf.cond(portrait, lambda: image[begin:end], lambda: image[:, begin:end])
            long_side = decoding.Window(scale, start - first * scale)
            shorter = tf.cast(size, tf.float64) / tf.cast(short, tf.float64)
            short_side = decoding.Window(shorter, tf.constant(0.0, tf.float64))
            return tf.cond(
                portrait,
                lambda: resized(part, windows=(long_side, short_side)),
                lambda: resized(part, windows=(short_side, long_side)),
            )

        return tf.cond(kept < whole, middle, lambda: resized(image))

    def output_size(before: Size) -> Size:
        return None if before is None else _resized(*before, size)

    return Operation(apply, output_size)


def _resized(height: int, width: int, size: int) -> tuple[int, int]:
    whole = size * max(height, width) // min(height, width)
    other = whole - max(_surplus(whole, size), 0)
    return (other, size) if height >= width else (size, other)


def _surplus(whole: Any, size: int) -> Any:
    """How many pixels of a resized image's longer side are not made; none if it is not positive.

    It is a multiple of 4, so that half of it is even: a central box is rounded to the same place.
    """
    return (whole - max(LARGEST // size, 16 * size) + 3) // 4 * 4


def center_crop(*, size: int = 224) -> Operation:
    """Take the central [size, size] box, whose corner is at round((side - size) / 2), half to even.

    A smaller image is first padded with black, half of it (rounded down) at the top and the left.
    """
    positive(size=size)

    def apply(image: Image, rng: Rng) -> Any:
        del rng
        height, width = decoding.size(image)

        def padded() -> Any:
            missing = tf.maximum(size - tf.stack([height, width]), 0)
            before = missing // 2
            pad = tf.stack([before, missing - before], axis=1)
            return tf.pad(decoding.pixels(image), tf.concat([pad, [[0, 0]]], axis=0))

        if decoding.is_encoded(image):
            small = (height < size) | (width < size)
            return tf.cond(small, lambda: _central(padded(), size), lambda: _central(image, size))
        return _central(padded(), size)

    return Operation(apply, lambda _: (size, size))


def _central(image: Image, size: int) -> Any:
    spare = tf.stack(decoding.size(image)) - size
    corner = tf.cast(tf.round(tf.cast(spare, tf.float32) / 2), tf.int32)
    return decoding.crop(image, corner[0], corner[1], size, size)


def pad_and_crop(*, size: int = 32, padding: int = 4) -> Operation:
    """Pad every side with `padding` black pixels; take a [size, size] box, placed uniformly."""
    positive(size=size)
    if padding < 0:
        raise ValueError(f'padding={padding}: must not be negative')

    def apply(image: Image, rng: Rng) -> Any:
        padded = tf.pad(decoding.pixels(image), [[padding] * 2, [padding] * 2, [0, 0]])
        height, width = decoding.size(padded)
        check = decoding.require(
            padded,
            lambda h, w: (h >= size) & (w >= size),
            f'pad_and_crop: size={size} is larger than a padded image of',
        )
        with tf.control_dependencies(check):
            room = tf.stack([height, width]) - size
        chosen = tf.cast(rng.uniform(2) * tf.cast(room + 1, tf.float32), tf.int32)
        corner = tf.minimum(chosen, room)
        # Not a slice: XLA would compile another one for each corner.
        rows = tf.gather(padded, corner[0] + tf.range(size))
        return tf.gather(rows, corner[1] + tf.range(size), axis=1)

    def output_size(before: Size) -> Size:
        if before is not None and min(before) + 2 * padding < size:
            raise ValueError(
                f'pad_and_crop: size={size} is larger than images of {before[0]} x {before[1]} '
                f'with padding={padding} on every side'
            )
        return size, size

    return Operation(apply, output_size, compiles=True)


def flip(*, probability: float = 0.5) -> Operation:
    """Mirror left and right with this probability."""
    return _mirrored(probability, axis=1)


def flip_vertical(*, probability: float = 0.5) -> Operation:
    """Turn upside down, as in a mirror, with this probability."""
    return _mirrored(probability, axis=0)


def _mirrored(probability: float, axis: int) -> Operation:
    between_0_and_1(probability=probability)

    def apply(image: Image, rng: Rng) -> Any:
        image = decoding.pixels(image)
        mirror = rng.uniform() < probability
        return tf.cond(mirror, lambda: tf.reverse(image, axis=[axis]), lambda: image)

    return Operation(apply, lambda size: size, compiles=True)

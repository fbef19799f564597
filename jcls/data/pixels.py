"""Operations on the levels of an image, each as Pillow (13.0) computes it.

`value` is in the unit that `jcls.data.kernels.NAMES` gives. Blends are truncated, not rounded. For
use inside of a compiled function: uint8 [H, W, 3 or 1] -> the same, H and W static.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jcls.data.runtime import tensorflow


def _blend(degenerate: Any, image: Any, factor: Any) -> Any:
    """degenerate + factor (image - degenerate), clipped and truncated; uint8."""
    tf = tensorflow()
    image = tf.cast(image, tf.float32)
    levels = tf.clip_by_value(degenerate + factor * (image - degenerate), 0, 255)
    return tf.cast(tf.cast(levels, tf.int32), tf.uint8)


def luma(image: Any) -> Any:
    """The grey level of uint8 [H, W, 3 or 1]: int32 [H, W], ITU-R 601 as Pillow's 'L'."""
    tf = tensorflow()
    levels = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    if len(levels) == 1:
        return levels[0]
    red, green, blue = levels
    return tf.bitwise.right_shift(19595 * red + 38470 * green + 7471 * blue + 0x8000, 16)


def brightness(image: Any, value: Any) -> Any:
    """`value` times the image."""
    return _blend(0.0, image, value)


def color(image: Any, value: Any) -> Any:
    """Away from, or beyond, its own greys."""
    grey = tensorflow().cast(luma(image), tensorflow().float32)
    return _blend(grey[..., None], image, value)


def contrast(image: Any, value: Any) -> Any:
    """Away from, or beyond, its mean grey level, rounded."""
    tf = tensorflow()
    total = tf.cast(tf.reduce_sum(luma(image)), tf.float32)
    return _blend(tf.floor(total / (image.shape[0] * image.shape[1]) + 0.5), image, value)


def sharpness(image: Any, value: Any) -> Any:
    """Away from, or beyond, the image smoothed with [1 1 1; 1 5 1; 1 1 1] / 13, border kept."""
    tf = tensorflow()
    height, width, _ = image.shape
    levels = tf.cast(image, tf.int32)
    columns = levels[:, :-2] + levels[:, 1:-1] + levels[:, 2:]
    around = columns[:-2] + columns[1:-1] + columns[2:]
    total = around + 4 * levels[1:-1, 1:-1]
    smooth = (2 * total + 13) // 26  # round half up
    rows, places = tf.range(height), tf.range(width)
    inner = ((rows > 0) & (rows < height - 1))[:, None] & ((places > 0) & (places < width - 1))
    padded = tf.pad(smooth, [[1, 1], [1, 1], [0, 0]])
    degenerate = tf.where(inner[..., None], padded, levels)
    return _blend(tf.cast(degenerate, tf.float32), image, value)


def posterize(image: Any, value: Any) -> Any:
    """Keep the `value` highest bits; 0 makes it black."""
    tf = tensorflow()
    mask = 256 - tf.bitwise.left_shift(1, 8 - tf.cast(value, tf.int32))
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: Any, value: Any) -> Any:
    """Invert the levels of at least `value`."""
    tf = tensorflow()
    return tf.where(tf.cast(image, tf.float32) < value, image, 255 - image)


def solarize_add(image: Any, value: Any) -> Any:
    """Add `value` to the levels below 128, at most to 255."""
    tf = tensorflow()
    added = tf.minimum(tf.cast(image, tf.int32) + tf.cast(value, tf.int32), 255)
    return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def autocontrast(image: Any, _: Any) -> Any:
    """Stretch each channel so that its darkest level becomes 0 and its lightest 255."""
    tf = tensorflow()
    levels = tf.cast(image, tf.float32)
    low, high = tf.reduce_min(levels, [0, 1]), tf.reduce_max(levels, [0, 1])
    # A multiple of 1 / 255 or more, so that rounding errors stay on the right side of 0.001.
    stretched = (levels - low) * (255 / tf.maximum(high - low, 1.0)) + 0.001
    chosen = tf.where(high > low, stretched, levels)
    return tf.cast(tf.cast(chosen, tf.int32), tf.uint8)


def equalize(image: Any, _: Any) -> Any:
    """Equalise the histogram of each channel."""
    tf = tensorflow()
    levels = tf.cast(image, tf.int32)
    channels = image.shape[2]
    numbered = tf.reshape(levels + 256 * tf.range(channels), [-1])
    counts = tf.math.unsorted_segment_sum(tf.ones_like(numbered), numbered, 256 * channels)
    counts = tf.reshape(counts, [channels, 256])
    present = tf.where(counts > 0, tf.range(256), -1)
    last = tf.reduce_max(present, axis=1, keepdims=True)
    of_last = tf.reduce_sum(tf.where(tf.range(256) == last, counts, 0), axis=1, keepdims=True)
    step = (image.shape[0] * image.shape[1] - of_last) // 255
    # XLA's cumulative sums take quadratic time: 16 of 16 are faster than one of 256.
    blocks = tf.reshape(counts, [channels, 16, 16])
    within = tf.cumsum(blocks, axis=2, exclusive=True)
    sums = tf.reduce_sum(blocks, axis=2, keepdims=True)
    before = tf.reshape(within + tf.cumsum(sums, axis=1, exclusive=True), [channels, 256])
    table = (before + step // 2) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
    return tf.cast(tf.reshape(tf.gather(tf.reshape(table, [-1]), numbered), levels.shape), tf.uint8)


def invert(image: Any, _: Any) -> Any:
    """255 minus the image."""
    return 255 - image


PIXEL: dict[str, Callable[[Any, Any], Any]] = {
    'brightness': brightness,
    'color': color,
    'contrast': contrast,
    'sharpness': sharpness,
    'posterize': posterize,
    'solarize': solarize,
    'solarize_add': solarize_add,
    'autocontrast': autocontrast,
    'equalize': equalize,
    'invert': invert,
}

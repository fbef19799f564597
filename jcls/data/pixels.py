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


def _rows(image: Any) -> Any:
    """[H, W, C] -> [H, W C]: XLA's loops over three channels of a pixel are many times slower."""
    height, width, channels = image.shape
    return tensorflow().reshape(image, [height, width * channels])


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
    height, width, channels = image.shape
    if min(height, width) < 3:
        return image
    rows = _rows(image)
    levels = tf.cast(rows, tf.float32)
    columns = levels[:-2] + levels[1:-1] + levels[2:]
    around = (
        columns[:, : -2 * channels] + columns[:, channels:-channels] + columns[:, 2 * channels :]
    )
    inner = levels[1:-1, channels:-channels]
    smooth = tf.floor((around + 4 * inner) * (1 / 13) + 0.5)  # 13 is odd: there are no halves
    inside = [rows[1:-1, :channels], _blend(smooth, inner, value), rows[1:-1, -channels:]]
    whole = tf.concat([rows[:1], tf.concat(inside, axis=1), rows[-1:]], axis=0)
    return tf.reshape(whole, image.shape)


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
    _, width, channels = image.shape
    rows = _rows(image)

    def extreme(reduce: Callable[..., Any]) -> Any:
        lanes = tf.reshape(reduce(rows, axis=0), [width, channels])
        return tf.cast(reduce(lanes, axis=0), tf.float32)

    low, high = extreme(tf.reduce_min), extreme(tf.reduce_max)
    stretch = high > low
    scale = tf.where(stretch, 255 / tf.maximum(high - low, 1.0), 1.0)
    low = tf.where(stretch, low, 0.0)
    # A multiple of 1 / 255 or more, so that rounding errors stay on the right side of 0.001.
    levels = tf.cast(rows, tf.float32) - tf.tile(low, [width])
    stretched = levels * tf.tile(scale, [width]) + 0.001
    return tf.reshape(tf.cast(tf.cast(stretched, tf.int32), tf.uint8), image.shape)


def equalize(image: Any, _: Any) -> Any:
    """Equalise the histogram of each channel."""
    tf = tensorflow()
    height, width, channels = image.shape
    numbered = tf.cast(image, tf.int32) + 256 * tf.range(channels)
    flat = tf.reshape(numbered, [-1])
    counts = tf.math.unsorted_segment_sum(tf.ones_like(flat), flat, 256 * channels)
    counts = tf.reshape(counts, [channels, 256])
    up_to = counts  # how many pixels have this level or a lower one
    for shift in (1, 2, 4, 8, 16, 32, 64, 128):  # XLA's own cumulative sum takes quadratic time
        up_to += tf.pad(up_to, [[0, 0], [shift, 0]])[:, :256]
    last = tf.reduce_max(tf.where(counts > 0, tf.range(256), -1), axis=1, keepdims=True)
    of_last = tf.reduce_sum(tf.where(tf.range(256) == last, counts, 0), axis=1, keepdims=True)
    step = (height * width - of_last) // 255
    table = (up_to - counts + step // 2) // tf.maximum(step, 1)
    table = tf.where(step > 0, tf.minimum(table, 255), tf.range(256))
    table = tf.cast(tf.reshape(table, [-1]), tf.uint8)
    # Without the condition XLA would make an entry of the table anew, divisions and all, for each
    # pixel: a conditional's operands are computed once.
    return tf.cond(tf.reduce_any(step > 0), lambda: tf.gather(table, numbered), lambda: image)


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

"""Operations on the levels of an image, each as Pillow (13.0) computes it.

Each takes and returns an image, uint8 [H, W, 3 or 1] with static H and W, inside a compiled
function. `value` is in the unit that `jcls.data.augment.policy_ops.NAMES` gives. Blends are
truncated, not rounded. Policies draw from the table `PIXEL`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from jcls.host.tensorflow import tf


def _blend(degenerate: Any, image: Any, factor: Any) -> Any:
    """degenerate + factor (image - degenerate) as uint8, clipped and truncated."""
    image = tf.cast(image, tf.float32)
    levels = tf.clip_by_value(degenerate + factor * (image - degenerate), 0, 255)
    return tf.cast(tf.cast(levels, tf.int32), tf.uint8)


def _rows(image: Any) -> Any:
    """[H, W, C] -> [H, W C], since XLA's loops over a pixel's channels are many times slower."""
    height, width, channels = image.shape
    return tf.reshape(image, [height, width * channels])


def luma(image: Any) -> Any:
    """The grey level of uint8 [H, W, 3 or 1]: int32 [H, W], ITU-R 601 as Pillow's 'L'."""
    levels = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    if len(levels) == 1:
        return levels[0]
    red, green, blue = levels
    return tf.bitwise.right_shift(19595 * red + 38470 * green + 7471 * blue + 0x8000, 16)


def brightness(image: Any, value: Any) -> Any:
    """The image times `value`."""
    return _blend(0.0, image, value)


def color(image: Any, value: Any) -> Any:
    """Blend the image with its grey version."""
    grey = tf.cast(luma(image), tf.float32)
    return _blend(grey[..., None], image, value)


def contrast(image: Any, value: Any) -> Any:
    """Blend the image with its mean grey level, rounded."""
    total = tf.cast(tf.reduce_sum(luma(image)), tf.float32)
    return _blend(tf.floor(total / (image.shape[0] * image.shape[1]) + 0.5), image, value)


def sharpness(image: Any, value: Any) -> Any:
    """Blend the image with itself smoothed by [1 1 1; 1 5 1; 1 1 1] / 13; the border stays."""
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
    """Keep the `value` highest bits of each level; 0 makes the image black."""
    mask = 256 - tf.bitwise.left_shift(1, 8 - tf.cast(value, tf.int32))
    return tf.bitwise.bitwise_and(image, tf.cast(mask, tf.uint8))


def solarize(image: Any, value: Any) -> Any:
    """Invert the levels of at least `value`."""
    return tf.where(tf.cast(image, tf.float32) < value, image, 255 - image)


def solarize_add(image: Any, value: Any) -> Any:
    """Add `value` to the levels below 128, at most to 255."""
    added = tf.minimum(tf.cast(image, tf.int32) + tf.cast(value, tf.int32), 255)
    return tf.where(image < 128, tf.cast(added, tf.uint8), image)


def autocontrast(image: Any, _: Any) -> Any:
    """Stretch each channel so that its darkest level becomes 0 and its lightest 255."""
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
    # Without the scatter, which is computed once into memory, XLA would compute an entry again,
    # with its divisions, for each pixel.
    places = tf.range(256 * channels)[:, None]
    table = tf.scatter_nd(places, tf.cast(tf.reshape(table, [-1]), tf.uint8), [256 * channels])
    return tf.gather(table, numbered)


def invert(image: Any, _: Any) -> Any:
    """Invert every level: 255 minus the image."""
    return 255 - image


def grey(image: Any) -> Any:
    """Put the grey level of each pixel into every channel."""
    return tf.tile(tf.cast(luma(image), tf.uint8)[..., None], [1, 1, image.shape[2]])


def hue(image: Any, value: Any) -> Any:
    """Turn the hue by `value` whole turns, from -0.5 to 0.5.

    Hue, saturation and value have 8 bits each, so even 0 turns change the image. Every number has
    Pillow's precision, float or double: at a sixth of a turn a rounding error makes another colour.
    """
    if image.shape[2] == 1:
        return image

    def double(number: Any) -> Any:
        return tf.cast(number, tf.float64)

    red, green, blue = tf.unstack(tf.cast(image, tf.int32), axis=-1)
    high, low = (of(red, of(green, blue)) for of in (tf.maximum, tf.minimum))
    spread = tf.cast(high - low, tf.float32)
    r, g, b = (tf.cast(high - level, tf.float32) / spread for level in (red, green, blue))
    not_red = tf.where(green == high, 2 + double(r) - double(b), 4 + double(g) - double(r))
    turn = double(tf.where(red == high, b - g, tf.cast(not_red, tf.float32))) / 6 + 1
    turn = double(tf.cast(turn - tf.floor(turn), tf.float32))
    saturation = spread / tf.cast(high, tf.float32)
    chromatic = high > low
    h, s = (tf.cast(255 * double(part), tf.int32) for part in (turn, saturation))
    h, s = tf.where(chromatic, h, 0), tf.where(chromatic, s, 0)
    h = tf.bitwise.bitwise_and(h + tf.cast(255 * value, tf.int32), 255)

    sixths = double(h) * 6 / 255
    whole = tf.cast(sixths, tf.int32)
    part = tf.cast(sixths - double(whole), tf.float32)
    s_share = tf.cast(double(s) / 255, tf.float32)

    def darker(share: Any) -> Any:
        return tf.cast(double(high) * (1 - share) + 0.5, tf.int32)

    p, q = darker(double(s_share)), darker(double(s_share * part))
    t = darker(double(s_share) * double(1 - part))
    # For each sixth of the turn.
    channels = ((high, q, p, p, t, high), (t, high, high, q, p, p), (p, p, t, high, high, q))
    colours = []
    for levels in channels:
        level = levels[0]  # of the sixths 0 and 6
        for sixth in range(1, 6):
            level = tf.where(whole == sixth, levels[sixth], level)
        colours.append(tf.where(s == 0, high, level))
    return tf.cast(tf.stack(colours, axis=-1), tf.uint8)


def blur(image: Any, value: Any, most: float) -> Any:
    """Pillow's Gaussian blur with a standard deviation of `value` <= `most` pixels.

    It is three box blurs in each direction, rounded to whole levels in between. A box is the mean
    of the pixels within its radius, of which the outermost two count in part; weights have 24 bits.
    """
    height, width, channels = image.shape
    reach = int((math.sqrt(4 * most**2 + 1) - 1) / 2) + 1  # pixels to each side, largest box
    variance = value**2 / 3
    inner = tf.floor((tf.sqrt(12 * variance + 1) - 1) / 2)
    outer = (2 * inner + 1) * (inner * (inner + 1) - 3 * variance)
    radius = inner + outer / (6 * (variance - (inner + 1) ** 2))
    whole = tf.cast(radius, tf.int32)
    full = tf.cast(2**24 / (2 * radius + 1), tf.int32)
    rest = (2**24 - (2 * whole + 1) * full) // 2
    places = tf.range(reach + 1)
    weights = tf.where(places <= whole, full, tf.where(places == whole + 1, rest, 0))
    weights = tf.cast(weights, tf.uint32)

    def padded(rows: Any, axis: int, stride: int) -> Any:
        first, last = (rows[:1], rows[-1:]) if axis == 0 else (rows[:, :stride], rows[:, -stride:])
        return tf.concat([*[first] * reach, rows, *[last] * reach], axis)

    def box(rows: Any, axis: int, stride: int, length: int) -> Any:
        def at(place: int) -> Any:
            start = (reach + place) * stride
            here = slice(start, start + length)
            return tf.cast(rows[here] if axis == 0 else rows[:, here], tf.uint32)

        total = at(0) * weights[0] + tf.constant(1 << 23, tf.uint32)
        for place in range(1, reach + 1):
            total += (at(-place) + at(place)) * weights[place]
        return tf.cast(tf.bitwise.right_shift(total, tf.constant(24, tf.uint32)), tf.uint8)

    rows = _rows(image)
    for axis, stride, length in ((1, channels, width * channels), (0, 1, height)):
        # The results of a loop are computed once; XLA would compute the first box again for the
        # second.
        rows = tf.while_loop(
            lambda i, _: i < 3,
            lambda i, rows, a=axis, s=stride, n=length: (i + 1, padded(box(rows, a, s, n), a, s)),
            (tf.constant(0), padded(rows, axis, stride)),
        )[1]
        here = slice(reach * stride, reach * stride + length)
        rows = rows[here] if axis == 0 else rows[:, here]
    return tf.reshape(rows, image.shape)


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

"""Images, encoded or not: their size, their pixels, crops and resizes.

An *image* here is a tf string scalar (an encoded image of `jcls.data.formats`) or a uint8 tensor
[H, W, C]. `crop` decodes no more of a JPEG than it needs. Pixels agree with Pillow's: decoding
uses the accurate integer DCT, and resizing an antialiased triangle filter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jcls.data import formats
from jcls.host.tensorflow import tf

Image = Any  # a tf string scalar or a tf uint8 tensor [H, W, C]
DCT = 'INTEGER_ACCURATE'  # libjpeg's slow-integer DCT, which Pillow uses


def is_encoded(image: Image) -> bool:
    """Whether the image is still a file's content."""
    return image.dtype == tf.string


def size(image: Image) -> tuple[Any, Any]:
    """(height, width) as int32 scalars; for a JPEG from its header alone."""
    if not is_encoded(image):
        shape = tf.shape(image)
        return shape[0], shape[1]
    extent = tf.cond(
        tf.io.is_jpeg(image),
        lambda: _bounded(tf.image.extract_jpeg_shape(image)[:2]),
        lambda: tf.shape(_decode_other(image))[:2],
    )
    return extent[0], extent[1]


def _bounded(extent: Any) -> Any:
    """The (height, width) that a file's header says, int32 [2]; an error if they are too many.

    Nothing of that size must have been allocated before: a damaged header may say anything.
    """
    product = tf.reduce_prod(tf.cast(extent, tf.int64))
    words = [extent[0], 'x', extent[1], f'pixels, {formats.TOO_LARGE}']
    check = tf.debugging.Assert(
        (product <= formats.MOST_PIXELS) & tf.reduce_all(extent >= 0), words
    )
    with tf.control_dependencies([] if check is None else [check]):
        return tf.identity(extent)


def require(image: Image, holds: Callable[[Any, Any], Any], complaint: str) -> list[Any]:
    """Control inputs that fail with `complaint` unless ``holds(height, width)``.

    In a graph that knows the size, it is a ValueError when the graph is traced, because XLA leaves
    assertions out.
    """
    traced = not tf.executing_eagerly()
    if traced and not is_encoded(image) and image.shape.is_fully_defined():
        height, width = image.shape[:2]
        if not holds(height, width):
            raise ValueError(f'{complaint} {height} {width}')
        return []
    height, width = size(image)
    check = tf.debugging.Assert(holds(height, width), [complaint, height, width])
    return [] if check is None else [check]


def pixels(image: Image) -> Any:
    """The whole image as uint8 [H, W, C], C = 3 if it was encoded; a damaged file is an error."""
    if not is_encoded(image):
        return image

    def jpeg() -> Any:
        with tf.control_dependencies([_bounded(tf.image.extract_jpeg_shape(image)[:2])]):
            return tf.io.decode_jpeg(image, channels=3, dct_method=DCT)

    decoded = tf.cond(tf.io.is_jpeg(image), jpeg, lambda: _decode_other(image))
    return tf.ensure_shape(decoded, [None, None, 3])


def crop(image: Image, top: Any, left: Any, height: Any, width: Any) -> Any:
    """The box as uint8 [height, width, C]; it must lie inside the image.

    Around the box of a JPEG one pixel more is decoded on every side, so that colours at the border
    are interpolated from the same neighbours as in a decode of the whole image.
    """

    def part() -> Any:
        rows, columns = size(image)
        y, x = tf.maximum(top - 1, 0), tf.maximum(left - 1, 0)
        box = [
            y,
            x,
            tf.minimum(top + height + 1, rows) - y,
            tf.minimum(left + width + 1, columns) - x,
        ]
        around = tf.image.decode_and_crop_jpeg(image, box, channels=3, dct_method=DCT)
        return around[top - y : top - y + height, left - x : left - x + width]

    return _crop(image, top, left, height, width, part)


def fast_crop(image: Image, top: Any, left: Any, height: Any, width: Any, *, target: int) -> Any:
    """The box, shrunk and rounded to whole pixels, for resizing without an antialiasing filter.

    The inverse DCT itself decodes a JPEG at a half, a quarter or an eighth of its size, as long as
    both sides of the box keep at least `target` pixels. Where a file has colours at half the
    resolution, neighbouring pixels share a colour.
    """

    def at(ratio: int) -> Callable[[], Any]:
        corner = [(side + ratio // 2) // ratio for side in (top, left)]  # the nearest pixel
        box = [*corner, height // ratio, width // ratio]
        return lambda: tf.image.decode_and_crop_jpeg(
            image, box, channels=3, ratio=ratio, dct_method=DCT, fancy_upscaling=False
        )

    def part() -> Any:
        fold = tf.minimum(height, width) // target
        case = tf.reduce_sum(tf.cast(fold >= [2, 4, 8], tf.int32))
        return tf.switch_case(case, [at(1), at(2), at(4), at(8)])

    return _crop(image, top, left, height, width, part)


def _crop(
    image: Image, top: Any, left: Any, height: Any, width: Any, part: Callable[[], Any]
) -> Any:
    """The box of an image, decoded by `part` if it is a JPEG that is whole."""
    if not is_encoded(image):
        return image[top : top + height, left : left + width]
    # A JPEG cut off below the crop would decode without complaint. One without its end marker is
    # therefore decoded whole, which finds the damage whatever the crop.
    whole = tf.strings.substr(image, -2, 2) == b'\xff\xd9'
    decoded = tf.cond(
        tf.logical_and(tf.io.is_jpeg(image), whole),
        part,
        lambda: pixels(image)[top : top + height, left : left + width],
    )
    return tf.ensure_shape(decoded, [None, None, 3])


class Window(NamedTuple):
    """Where one side of a part of a resized image comes from, all in double precision.

    Attributes:
      scale: length of a side of the whole resized image over the length before.
      start: where the part begins, in resized pixels from the corner of the image that is given.
    """

    scale: Any
    start: Any


def resize(
    image: Any,
    height: Any,
    width: Any,
    *,
    method: str = 'bilinear',
    antialias: bool = True,
    windows: tuple[Window, Window] | None = None,
) -> Any:
    """Resize uint8 [H, W, C] to [height, width, C]; with `antialias` the result is Pillow's.

    With `windows`, of rows and of columns, the result is that part of the resized image alone.

    As in Pillow, the width is resized first, then the height, with rounding in between; Pillow 13
    begins with the height where that shrinks much more. Each direction is resized as an image of
    one column, so that TensorFlow adds up whole rows at once. That takes two thirds of the time of
    both directions together.
    """

    def levels(scaled: Any) -> Any:
        if method != 'bilinear':
            scaled = tf.clip_by_value(scaled, 0.0, 255.0)
        return tf.cast(scaled + 0.5, tf.uint8)

    def along(image: Any, length: Any, window: Window | None) -> Any:
        """Resize uint8 [L, M, C] along its first axis to [length, M, C]."""
        shape = tf.shape(image)
        rows = tf.reshape(image, [shape[0], 1, shape[1] * shape[2]])
        if window is None:
            scaled = tf.image.resize(rows, [length, 1], method=method, antialias=antialias)
        else:
            scaled = tf.raw_ops.ScaleAndTranslate(
                images=rows[None],
                size=[length, 1],
                scale=tf.cast([window.scale, 1.0], tf.float32),
                translation=tf.cast([-window.start, 0.0], tf.float32),
                kernel_type={'bilinear': 'triangle', 'bicubic': 'keyscubic'}[method],
                antialias=antialias,
            )
        return tf.reshape(levels(scaled), [length, shape[1], shape[2]])

    if antialias or windows:
        down, across = windows or (None, None)
        columns = along(tf.transpose(image, [1, 0, 2]), width, across)
        resized = along(tf.transpose(columns, [1, 0, 2]), height, down)
    else:
        resized = levels(tf.image.resize(image, [height, width], method=method))
    known = [n if isinstance(n, int) else None for n in (height, width)]
    return tf.ensure_shape(resized, [*known, image.shape[-1]])


def _decode_other(image: Image) -> Any:
    """The pixels, uint8 [H, W, 3], of a PNG by TensorFlow, of any other format by Pillow.

    TensorFlow takes a BMP's palette indices for grey levels, and ignores the transparency of a GIF.
    """

    def by_pillow() -> Any:
        decoded, complaint = tf.py_function(_decode_by_pillow, [image], [tf.uint8, tf.string])
        check = tf.debugging.Assert(tf.size(decoded) > 0, [complaint])
        with tf.control_dependencies([] if check is None else [check]):
            return tf.ensure_shape(tf.identity(decoded), [None, None, 3])

    def png() -> Any:
        # Its header begins with width and height, most significant byte first.
        start = tf.io.decode_raw(tf.strings.substr(image, 16, 8), tf.uint8)
        sides = tf.reshape(tf.cast(start, tf.int32), [2, 4])
        width, height = tf.unstack(tf.reduce_sum(sides * [1 << 24, 1 << 16, 1 << 8, 1], axis=1))
        with tf.control_dependencies([_bounded(tf.stack([height, width]))]):
            return tf.ensure_shape(tf.io.decode_png(image, channels=3), [None, None, 3])

    has_header = tf.strings.length(image) >= 24  # Pillow says what is wrong with a shorter one
    is_png = tf.strings.substr(image, 0, 4) == b'\x89PNG'
    return tf.cond(is_png & has_header, png, by_pillow)


def _decode_by_pillow(content: Any) -> tuple[np.ndarray, str]:
    """(pixels uint8 [H, W, 3], '') of a tf string scalar; (empty, why not) if it is no image."""
    try:
        return formats.pixels(content.numpy()), ''
    except ValueError as error:
        return np.zeros((0, 0, 3), np.uint8), f'not a readable image: {error}'

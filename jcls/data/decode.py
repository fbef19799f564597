"""Images, encoded or not: their size, their pixels, a crop of them, a resize.

An *image* here is a tf string scalar (an encoded JPEG, PNG, BMP or GIF) or a uint8 tensor
[H, W, C]. `crop` decodes no more of a JPEG than it needs. Pixels agree with Pillow's: the accurate
integer DCT and, on resizing, an antialiased triangle filter.
"""

from __future__ import annotations

from typing import Any

from jcls.data.runtime import tensorflow

Image = Any  # a tf string scalar or a tf uint8 tensor [H, W, C]
DCT = 'INTEGER_ACCURATE'  # libjpeg's slow-integer DCT, which Pillow uses


def is_encoded(image: Image) -> bool:
    """Whether the image is still a file's content."""
    return image.dtype == tensorflow().string


def size(image: Image) -> tuple[Any, Any]:
    """(height, width), int32 scalars; of a JPEG from its header alone."""
    tf = tensorflow()
    if not is_encoded(image):
        shape = tf.shape(image)
        return shape[0], shape[1]
    extent = tf.cond(
        tf.io.is_jpeg(image),
        lambda: tf.image.extract_jpeg_shape(image)[:2],
        lambda: tf.shape(_decode_other(image))[:2],
    )
    return extent[0], extent[1]


def pixels(image: Image) -> Any:
    """The whole image as uint8 [H, W, C]; C is 3 for encoded ones. A damaged file is an error."""
    tf = tensorflow()
    if not is_encoded(image):
        return image
    decoded = tf.cond(
        tf.io.is_jpeg(image),
        lambda: tf.io.decode_jpeg(image, channels=3, dct_method=DCT),
        lambda: _decode_other(image),
    )
    return tf.ensure_shape(decoded, [None, None, 3])


def crop(image: Image, top: Any, left: Any, height: Any, width: Any) -> Any:
    """The box as uint8 [height, width, C]; it must lie inside the image."""
    tf = tensorflow()
    if not is_encoded(image):
        return image[top : top + height, left : left + width]
    # A JPEG cut off below the crop would decode without complaint: without its end marker it is
    # decoded whole, which finds the damage whatever the crop.
    whole = tf.strings.substr(image, -2, 2) == b'\xff\xd9'
    decoded = tf.cond(
        tf.logical_and(tf.io.is_jpeg(image), whole),
        lambda: tf.image.decode_and_crop_jpeg(
            image, [top, left, height, width], channels=3, dct_method=DCT
        ),
        lambda: pixels(image)[top : top + height, left : left + width],
    )
    return tf.ensure_shape(decoded, [None, None, 3])


def resize(image: Any, height: Any, width: Any) -> Any:
    """uint8 [H, W, C] -> uint8 [height, width, C], bilinear with antialiasing, as Pillow's."""
    tf = tensorflow()
    scaled = tf.image.resize(image, [height, width], method='bilinear', antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(scaled), 0, 255), tf.uint8)


def _decode_other(image: Image) -> Any:
    """PNG, BMP or GIF (its first frame) as uint8 [H, W, 3]; grey is repeated, alpha dropped."""
    tf = tensorflow()
    decoded = tf.io.decode_image(image, channels=0, expand_animations=False)
    decoded = tf.ensure_shape(decoded, [None, None, None])
    grey = tf.shape(decoded)[2] < 3
    rgb = tf.cond(grey, lambda: tf.repeat(decoded[:, :, :1], 3, axis=2), lambda: decoded[:, :, :3])
    return tf.ensure_shape(rgb, [None, None, 3])

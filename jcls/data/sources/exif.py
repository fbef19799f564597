"""Turning images upright as their EXIF orientation says, as Pillow's ImageOps.exif_transpose does.

It is off by default, since no published recipe uses the orientation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jcls.data import decode
from jcls.data.sources.source import Source
from jcls.host.tensorflow import tf

# An orientation stands behind one of these; most images contain none of them.
SIGNS = (b'Exif\0\0', b'eXIf', b'Raw profile type', b'http://ns.adobe.com/xap', b'adobe.xmp')
TRANSPOSED, MIRRORED, UPSIDE_DOWN = (5, 6, 7, 8), (2, 3, 6, 7), (3, 4, 7, 8)  # done in this order


def upright(source: Source) -> Source:
    """The source with every image turned as its orientation says.

    An image that is turned becomes an uncompressed PNG of its pixels. All others stay as they are;
    an image that cannot be read fails when it is decoded.
    """

    def read(index: Any) -> tuple[Any, Any]:
        image, label = source.read(index)
        return (_turned(image) if decode.is_encoded(image) else image), label

    # A quarter turn swaps height and width.
    square = source.image_size is not None and source.image_size[0] == source.image_size[1]
    return dataclasses.replace(source, read=read, image_size=source.image_size if square else None)


def orientation(content: Any) -> np.int32:
    """The orientation of an encoded image (bytes, or an array of one), 1 to 8; 1 is upright."""
    from PIL import Image as pillow  # noqa: N813

    content = content if isinstance(content, bytes) else content.item()
    if not any(sign in content for sign in SIGNS):
        return np.int32(1)
    try:
        with pillow.open(io.BytesIO(content)) as image:
            value = image.getexif().get(0x0112, 1)
    except (OSError, SyntaxError, ValueError, KeyError, TypeError, struct.error, EOFError,
            ZeroDivisionError, pillow.DecompressionBombError):  # fmt: skip
        return np.int32(1)
    return np.int32(value if isinstance(value, int) and 1 <= value <= 8 else 1)


def noting(source: Source, turned: set[int]) -> Source:
    """The source; when an image is read that says that it is turned, `turned` gets its index."""

    def note(index: Any, content: Any) -> np.bool_:
        if orientation(content) > 1:
            turned.add(int(index))
        return np.bool_(True)

    def read(index: Any) -> tuple[Any, Any]:
        image, label = source.read(index)
        with tf.control_dependencies([tf.numpy_function(note, [index, image], tf.bool)]):
            return tf.identity(image), label

    return dataclasses.replace(source, read=read)


def turned(files: Iterable[str]) -> int:
    """How many image files say that they are turned; those that cannot be read do not."""
    count = 0
    for file in files:
        with contextlib.suppress(OSError):
            count += int(orientation(Path(file).read_bytes()) > 1)
    return count


def _turned(image: Any) -> Any:
    """The encoded image, a tf string scalar, turned upright."""
    tag = tf.ensure_shape(tf.numpy_function(orientation, [image], tf.int32, stateful=False), [])

    def within(some: tuple[int, ...]) -> Any:
        return tf.reduce_any(tag == tf.constant(some))

    def turn() -> Any:
        pixels = decode.pixels(image)
        turned = tf.cond(
            within(TRANSPOSED), lambda: tf.transpose(pixels, [1, 0, 2]), lambda: pixels
        )
        turned = tf.cond(within(MIRRORED), lambda: turned[:, ::-1], lambda: turned)
        turned = tf.cond(within(UPSIDE_DOWN), lambda: turned[::-1], lambda: turned)
        return tf.io.encode_png(turned, compression=0)

    return tf.cond(tag > 1, turn, lambda: image)

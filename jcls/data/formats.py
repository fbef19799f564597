"""Which files are images, and their pixels as Pillow reads them.

JPEG and PNG are read by TensorFlow, see `jcls.data.decode`; every other format is read here.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError

# Pillow's names of the raster formats that photographs, scans and data sets come in. An MPO begins
# with a JPEG. Formats that draw, play or start other programs (EPS, WMF, MPEG) are not among them.
FORMATS = (
    'JPEG', 'MPO', 'PNG', 'BMP', 'DIB', 'GIF', 'WEBP', 'TIFF', 'AVIF', 'JPEG2000', 'PPM', 'TGA',
    'PCX', 'SGI', 'QOI',
)  # fmt: skip
NO_EXTENSION = ''
# An image of more is refused by its header. One of so many takes 0.4 GB, and about 1 GB when it is
# resized; several are read at once.
MOST_PIXELS = 2**27
TOO_LARGE = 'more than the 134,217,728 that are decoded (jcls.data.formats.MOST_PIXELS)'


def pillow_formats() -> tuple[str, ...]:
    """The `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def recogniser() -> Callable[[str, Callable[[], BinaryIO]], bool]:
    """A function that says whether a file is an image, from its name and, if need be, its content.

    A name with an image's extension is one. A name without any extension is one if the content
    begins like an image. Other extensions are something else, whatever the content: the picture in
    a raw photograph (.cr2, .dng) or in a video's thumbnail (.thm) is not what a user means.
    """
    formats = pillow_formats()
    known = {end for end, name in Image.registered_extensions().items() if name in formats}

    def is_image(name: str, opened: Callable[[], BinaryIO]) -> bool:
        end = extension(name)
        return end in known or (end == NO_EXTENSION and _begins_like_an_image(opened, formats))

    return is_image


def extension(name: str) -> str:
    """The extension of a file's name in lower case, with its dot, or ''.

    What follows the last dot is an extension if it is a short word: 'scan.2019' and 'v1.0 final'
    have none.
    """
    found = re.search(r'.(\.[a-z0-9]{1,5})\s*$', name.lower())
    return found[1] if found and re.search('[a-z]', found[1]) else NO_EXTENSION


def _begins_like_an_image(opened: Callable[[], BinaryIO], formats: tuple[str, ...]) -> bool:
    try:
        with opened() as file, Image.open(file, formats=formats):
            return True
    except Exception:  # what is no image may make Pillow raise anything
        return False


def pixels(content: bytes) -> np.ndarray:
    """The pixels, uint8 [H, W, 3], of an image file's content: its first frame, as stored.

    Raises:
      ValueError: if it is no image of `FORMATS`, is too large or damaged, or has no 8-bit colours.
    """
    try:
        with Image.open(io.BytesIO(content), formats=pillow_formats()) as image:
            require_size(image)
            return np.asarray(flat(image).convert('RGB'))
    except UnidentifiedImageError:
        raise ValueError('its content is of no known format') from None
    except TooLargeError:
        raise
    except Image.DecompressionBombError as error:
        raise TooLargeError(bomb(error)) from None
    except Exception as error:  # a damaged file may make Pillow raise anything
        raise ValueError(f'{type(error).__name__}: {error}') from None


class TooLargeError(ValueError):
    """An image has more pixels than `MOST_PIXELS`."""


def require_size(image: Any) -> None:
    """Raise TooLargeError if a Pillow image, of which only the header was read, is too large."""
    width, height = image.size
    if width * height > MOST_PIXELS:
        raise TooLargeError(f'{height} x {width} pixels, {TOO_LARGE}')


def bomb(error: Image.DecompressionBombError) -> str:
    """What Pillow says of an image of more than 2^27 * 4 / 3 pixels, with our limit."""
    return re.sub(r'\D*(\d+) pixels.*', rf'\1 pixels, {TOO_LARGE}', str(error), flags=re.DOTALL)


def flat(image: Any) -> Any:
    """A Pillow image as training sees it: mode 'L' or 'RGB', without its transparency.

    Of 16 bits the upper 8 count, as TensorFlow has it for PNG; Pillow would cut off at 255. Its
    mode 'I' is 16 bits where it opened a PNG or PPM, and otherwise 32.

    Raises:
      ValueError: for pixels of 32 bits, which have no usual range.
    """
    if image.mode in ('L', 'RGB'):
        return image.copy()
    if image.mode in ('1', 'LA', 'La'):
        return image.convert('L')
    if image.mode == 'I' and image.format not in ('PNG', 'PPM'):
        raise ValueError('pixels of 32 bits: store them with 8 or 16 bits')
    if image.mode.startswith('I'):
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode == 'F':
        raise ValueError('pixels are floating-point numbers: store them with 8 or 16 bits')
    return image.convert('RGB')

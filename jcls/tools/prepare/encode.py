"""Encoding an image anew, by Pillow: to make it smaller, or because TensorFlow cannot read it.

Everything else keeps its bytes. The EXIF orientation is not applied, as training does not apply it,
but kept, with all of EXIF. Transparency is dropped and the colours below it kept, as TensorFlow
does with three channels.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image

from jcls.tools.prepare.inspect import ORIENTATION, READABLE, Facts, pillow_formats

LOSSY = ('WEBP', 'AVIF', 'JPEG2000')  # the formats of photos: what is converted becomes JPEG, too
MAX_EXIF = 65_533  # bytes that a JPEG has room for


def change(facts: Facts, max_side: int) -> str:
    """What happens to an image: 'shrunk', 'converted' or '' (kept).

    Args:
      facts: of the image.
      max_side: limit of the shorter side in pixels, 0 for none.
    """
    if max_side and min(facts.width, facts.height) > max_side:
        return 'shrunk'
    return '' if facts.format in READABLE else 'converted'


def estimate(facts: Facts, size: int, max_side: int) -> int:
    """The bytes that `size` bytes of an image become, roughly."""
    what = change(facts, max_side)
    if what == 'shrunk':
        return int(size * min(1.0, 1.5 * (max_side / min(facts.width, facts.height)) ** 2))
    return 2 * size if what else size


def encode(content: bytes, facts: Facts, *, max_side: int, quality: int) -> bytes:
    """The content to write for an image.

    Args:
      content: of the file.
      facts: of the image.
      max_side: of the shorter side in pixels; 0 for any. A longer one is resized to it (Lanczos,
        antialiased), the other in proportion, and the image becomes a JPEG.
      quality: of JPEG, for all that is encoded anew and was photographic; else it becomes PNG.
    """
    what = change(facts, max_side)
    if not what:
        return content
    with Image.open(io.BytesIO(content), formats=pillow_formats()) as image:
        exif = image.info.get('exif', b'')
        profile = image.info.get('icc_profile')
        compression = image.info.get('compression', '')
        flat = _flat(image)
        keep_profile = profile and (image.mode, flat.mode) in (('RGB', 'RGB'), ('L', 'L'))
    if what == 'shrunk':
        factor = max_side / min(flat.size)
        width, height = (max(max_side, round(side * factor)) for side in flat.size)
        flat = flat.resize((width, height), Image.Resampling.LANCZOS)
    jpeg = what == 'shrunk' or compression == 'jpeg' or facts.format in LOSSY
    if facts.format == 'WEBP' and content[12:16] == b'VP8L' and what != 'shrunk':
        jpeg = False  # WebP's lossless kind
    more: dict[str, Any] = {'exif': _exif(exif, facts.orientation)}
    if keep_profile:
        more['icc_profile'] = profile
    buffer = io.BytesIO()
    if jpeg:
        flat.save(buffer, 'JPEG', quality=quality, **more)
    else:
        flat.save(buffer, 'PNG', **more)
    return buffer.getvalue()


def _exif(exif: bytes, orientation: int) -> bytes:
    """The EXIF block as it was; the orientation alone if that is elsewhere or does not fit."""
    exif = exif if exif.startswith(b'Exif\0\0') or not exif else b'Exif\0\0' + exif
    if exif and len(exif) <= MAX_EXIF:
        return exif
    if orientation == 1:
        return b''
    short = Image.Exif()
    short[ORIENTATION] = orientation
    return short.tobytes()


def _flat(image: Image.Image) -> Image.Image:
    """Grey or colour with 8 bits a channel and no transparency: what training would see."""
    if image.mode in ('L', 'RGB'):
        return image.copy()
    if image.mode in ('1', 'LA'):
        return image.convert('L')
    if image.mode.startswith('I'):
        # 16-bit grey, which Pillow would cut off at 255. TensorFlow, too, takes the upper byte.
        return Image.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == 'F':
        return Image.fromarray(np.asarray(image).clip(0, 255).astype(np.uint8))
    return image.convert('RGB')

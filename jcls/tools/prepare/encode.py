"""Encoding an image again with Pillow, to shrink it or because TensorFlow cannot read it.

All other images keep their bytes. The EXIF orientation is kept but not applied, since training does
not apply it. Transparency is dropped and the colours below it are kept, as TensorFlow does when it
decodes three channels.
"""

from __future__ import annotations

import io
from typing import Any

from PIL import Image

from jcls.data.formats import flat as flattened
from jcls.data.formats import pillow_formats
from jcls.tools.prepare.inspect import ORIENTATION, READABLE, ImageInfo

LOSSY = ('WEBP', 'AVIF', 'JPEG2000')  # formats of photos, which are converted to JPEG
MAX_EXIF = 65_533  # bytes, at most, in a JPEG


def change(info: ImageInfo, max_side: int) -> str:
    """How an image changes: 'shrunk', 'converted' or '' (kept).

    Args:
      info: properties of the image.
      max_side: limit of the shorter side in pixels; 0 for no limit.
    """
    if max_side and min(info.width, info.height) > max_side:
        return 'shrunk'
    return '' if info.format in READABLE else 'converted'


def estimate(info: ImageInfo, size: int, max_side: int) -> int:
    """The approximate bytes of an image of `size` bytes once it is written."""
    what = change(info, max_side)
    if what == 'shrunk':
        return int(size * min(1.0, 1.5 * (max_side / min(info.width, info.height)) ** 2))
    return 2 * size if what else size


def encode(content: bytes, info: ImageInfo, *, max_side: int, quality: int) -> bytes:
    """The content to write for an image.

    Args:
      content: content of the file.
      info: properties of the image.
      max_side: limit of the shorter side in pixels; 0 for no limit. A larger image is resized to it
        (Lanczos, antialiased) and becomes a JPEG.
      quality: quality of JPEG, for shrunk images and for photos that are converted; other images
        that are converted become PNG.
    """
    what = change(info, max_side)
    if not what:
        return content
    with Image.open(io.BytesIO(content), formats=pillow_formats()) as image:
        exif = image.info.get('exif', b'')
        profile = image.info.get('icc_profile')
        compression = image.info.get('compression', '')
        flat = flattened(image)
        keep_profile = profile and (image.mode, flat.mode) in (('RGB', 'RGB'), ('L', 'L'))
    if what == 'shrunk':
        factor = max_side / min(flat.size)
        width, height = (max(max_side, round(side * factor)) for side in flat.size)
        flat = flat.resize((width, height), Image.Resampling.LANCZOS)
    jpeg = what == 'shrunk' or compression == 'jpeg' or info.format in LOSSY
    if info.format == 'WEBP' and content[12:16] == b'VP8L' and what != 'shrunk':
        jpeg = False  # a lossless WebP
    more: dict[str, Any] = {'exif': _exif(exif, info.orientation)}
    if keep_profile:
        more['icc_profile'] = profile
    buffer = io.BytesIO()
    if jpeg:
        flat.save(buffer, 'JPEG', quality=quality, **more)
    else:
        flat.save(buffer, 'PNG', **more)
    return buffer.getvalue()


def _exif(exif: bytes, orientation: int) -> bytes:
    """The EXIF block as it was, or the orientation alone if it is elsewhere or does not fit."""
    exif = exif if exif.startswith(b'Exif\0\0') or not exif else b'Exif\0\0' + exif
    if exif and len(exif) <= MAX_EXIF:
        return exif
    if orientation == 1:
        return b''
    short = Image.Exif()
    short[ORIENTATION] = orientation
    return short.tobytes()

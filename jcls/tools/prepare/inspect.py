"""Inspecting images one by one: their properties, and whether training can read them.

An image is damaged if Pillow cannot open it or training's decoder (`jcls.data.decode`) refuses it.
That decoder tolerates some damage: libjpeg then fills the picture with grey and complains on
standard error, where `Inspector` listens.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import NamedTuple

from PIL import Image, UnidentifiedImageError

from jcls.data import decode, formats
from jcls.data.sources.layout import File
from jcls.host import tensorflow
from jcls.host.tensorflow import tf
from jcls.tools.prepare.find import read

READABLE = ('JPEG', 'MPO', 'PNG', 'BMP', 'GIF')  # by TensorFlow; an MPO begins with a JPEG
MOVING = ('GIF', 'PNG', 'WEBP', 'AVIF', 'TIFF')  # formats that may have frames or pages
ORIENTATION = 0x0112  # the tag in EXIF
MAX_BYTES = 1 << 29  # of a file, at most
BATCH = 32  # images to inspect between two looks at standard error
COMPLAINTS = ('Corrupt JPEG data', 'Premature end', 'Invalid SOS', 'Inconsistent progression')


class ImageInfo(NamedTuple):
    """The properties of an image.

    Attributes:
      digest: hash of the content; equal digests are exact duplicates.
      format: Pillow's name of the format; '' if it is not an image.
      width: width as stored, before any EXIF orientation.
      height: height as stored, before any EXIF orientation.
      mode: Pillow's mode, or 'YCCK'.
      bits: bits of a channel.
      alpha: whether it has transparency.
      frames: number of frames or pages.
      orientation: EXIF orientation; 1 is upright.
      damage: why it cannot be read; '' if it can.
      complaint: libjpeg's complaint about an image that can be read nevertheless.
    """

    digest: str
    format: str = ''
    width: int = 0
    height: int = 0
    mode: str = ''
    bits: int = 8
    alpha: bool = False
    frames: int = 1
    orientation: int = 1
    damage: str = ''
    complaint: str = ''


def examine(content: bytes) -> ImageInfo:
    """The properties of an image file's content."""
    info = ImageInfo(digest(content))
    if not content:
        return info._replace(damage='zero bytes')
    try:
        info = _header(content, info)
    except UnidentifiedImageError:
        return info._replace(damage=_what_it_is(content))
    except Image.DecompressionBombError as error:
        return info._replace(damage=f'too large: {formats.bomb(error)}')
    except formats.TooLargeError as error:
        return info._replace(damage=f'too large: {error}')
    except Exception as error:  # a damaged file may make Pillow raise anything
        return info._replace(damage=_damage(content, f'{type(error).__name__}: {error}'))
    return info._replace(damage=_undecodable(content))


def digest(content: bytes) -> str:
    """A 128-bit hash of a file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _header(content: bytes, info: ImageInfo) -> ImageInfo:
    with Image.open(io.BytesIO(content), formats=formats.pillow_formats()) as image:
        formats.require_size(image)
        kind, mode = str(image.format), image.mode
        info = info._replace(format=kind, width=image.width, height=image.height)
        bits = 16 if mode[0] in 'IF' else 8
        if kind == 'PNG':
            bits = max(content[24], 8)  # from IHDR, since Pillow opens 16-bit colour as 8-bit
        elif kind == 'TIFF':
            bits = max((8, *image.tag_v2.get(258, (8,))))  # type: ignore[attr-defined]
        if mode == 'CMYK' and image.info.get('adobe_transform') == 2:
            mode = 'YCCK'
        # getexif would decode all pixels of a PNG without EXIF, to look behind them.
        exif = image.getexif() if kind != 'PNG' or 'exif' in image.info else {}
        orientation = exif.get(ORIENTATION, 1)
        return info._replace(
            mode=mode,
            bits=int(bits),
            alpha=image.has_transparency_data,
            frames=_frames(image) if kind in MOVING else 1,
            orientation=orientation if orientation in range(1, 9) else 1,
        )


def _frames(image: Image.Image) -> int:
    try:
        return getattr(image, 'n_frames', 1)
    except Exception:  # damage behind the first frame, the only one that counts
        return 2


def _undecodable(content: bytes) -> str:
    """Why the pixels cannot be decoded, or ''."""
    try:
        decode.pixels(tf.constant(content))
    except tf.errors.OpError as error:
        first = re.sub(r'\{\{.*?\}\} |\[Op:.*', '', str(error.message)).split('\n')[0]
        return _damage(content, f'{first.strip()}')
    return ''


def _damage(content: bytes, detail: str) -> str:
    """Whether a file is cut short or damaged otherwise, judged by the format's end mark."""
    marks = {b'\xff\xd8': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82', b'GIF8': b';'}
    end = next((end for start, end in marks.items() if content.startswith(start)), b'')
    cut = 'truncated' in detail if not end else end not in content[-64:]
    return f'truncated ({len(content):,} bytes)' if cut else f'corrupt: {detail}'


def _what_it_is(content: bytes) -> str:
    """Why Pillow cannot read this file: it is damaged, a web page, text or something else."""
    if content.startswith((b'\xff\xd8\xff', b'\x89PNG', b'GIF8', b'BM')):
        return _damage(content, 'its header cannot be read')
    start = content[:512].decode(errors='replace')
    if '<html' in start.lower() or '<!doctype' in start.lower():
        return 'not an image, but a web page'
    words = start[:-3].replace('\ufffd', '\0').split()
    return f'not an image{", but text" if all(word.isprintable() for word in words) else ""}'


class Inspector:
    """Examines files in several threads, in batches, so that complaints find their image."""

    def __init__(self, pool: Executor, workers: int) -> None:
        self._pool, self._batch = pool, BATCH * workers
        tensorflow.load()  # now, since it takes seconds

    def run(
        self,
        files: Sequence[File],
        known: Callable[[File], ImageInfo | None],
        record: Callable[[list[tuple[File, ImageInfo]]], None],
        advance: Callable[[int], None],
    ) -> None:
        """Examine the files that are not `known`, and call `record` with the results of each batch.

        `advance` is called with the number of files that are done since its last call.
        """
        todo = [file for file in files if known(file) is None]
        advance(len(files) - len(todo))
        for start in range(0, len(todo), self._batch):
            batch = todo[start : start + self._batch]
            with warnings.catch_warnings(), _listening() as complaint:
                warnings.simplefilter('ignore')  # Pillow warns about EXIF and large images
                infos = list(self._pool.map(_examine_file, batch))
                if complaint():  # examine them one by one to find whose it is
                    for i, file in enumerate(batch):
                        _examine_file(file)
                        infos[i] = infos[i]._replace(complaint=complaint())
            record(list(zip(batch, infos, strict=True)))
            advance(len(batch))


def _examine_file(file: File) -> ImageInfo:
    if file.size > MAX_BYTES:
        return ImageInfo('', damage=f'not an image: {file.size:,} bytes are too many')
    try:
        content = read(file)
    except OSError as error:
        reason = file.problem or f'unreadable: {error.strerror}'
        return ImageInfo('', damage=reason)
    if len(content) < file.size:
        return ImageInfo('', damage=f'unreadable: ends after {len(content)} of {file.size} bytes')
    return examine(content)


@contextmanager
def _listening() -> Iterator[Callable[[], str]]:
    """Catch standard error of C libraries; gives a function that returns libjpeg's complaint.

    It returns the first complaint since its last call, or ''. Other lines are TensorFlow's about
    files that it refuses, which are reported anyway.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)

        def complaint() -> str:
            caught.seek(0)
            lines = caught.read().decode(errors='replace').splitlines()
            caught.seek(0)
            caught.truncate()
            mine = [line for line in lines if line.startswith(COMPLAINTS)]
            return mine[0] if mine else ''

        try:
            yield complaint
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)

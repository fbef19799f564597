"""Looking at images one by one: what each is, and whether training can read it.

An image is damaged when Pillow cannot open it or training's own decoder (`jcls.data.decode`)
refuses it. Some damage that decoder puts up with: libjpeg then fills the picture with grey and
complains on standard error, where `Inspector` listens.
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

from jcls.data import decode
from jcls.host import tensorflow
from jcls.host.tensorflow import tf
from jcls.tools.prepare.listing import File

READABLE = ('JPEG', 'MPO', 'PNG', 'BMP', 'GIF')  # what training reads; MPO is a JPEG and more
FORMATS = (*READABLE, 'WEBP', 'TIFF', 'JPEG2000', 'AVIF', 'PPM')
MOVING = ('GIF', 'PNG', 'WEBP', 'AVIF', 'TIFF')  # may have frames, or pages
ORIENTATION = 0x0112  # of EXIF
MAX_BYTES = 1 << 29  # of a file
BATCH = 32  # images that a worker looks at between two looks at standard error
COMPLAINTS = ('Corrupt JPEG data', 'Premature end', 'Invalid SOS', 'Inconsistent progression')


class Facts(NamedTuple):
    """What an image is.

    Attributes:
      digest: of the content; equal digests are exact duplicates.
      format: Pillow's name for it, '' if it is not an image.
      width, height: as stored, before any EXIF orientation.
      mode: Pillow's, or 'YCCK'.
      bits: of a channel.
      alpha: whether it has transparency.
      frames: or pages.
      orientation: of EXIF; 1 is upright.
      damage: why it cannot be read, '' if it can.
      complaint: of libjpeg about an image that can be read all the same.
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


def examine(content: bytes) -> Facts:
    """The facts of one file's content."""
    facts = Facts(digest(content))
    if not content:
        return facts._replace(damage='zero bytes')
    try:
        facts = _header(content, facts)
    except UnidentifiedImageError:
        return facts._replace(damage=_what_it_is(content))
    except Image.DecompressionBombError as error:
        return facts._replace(damage=f'too large: {error}')
    except Exception as error:  # what a damaged file makes Pillow raise is anybody's guess
        return facts._replace(damage=_damage(content, f'{type(error).__name__}: {error}'))
    return facts._replace(damage=_undecodable(content, facts.format))


def digest(content: bytes) -> str:
    """A 128-bit hash of a file's content."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def pillow_formats() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _header(content: bytes, facts: Facts) -> Facts:
    with Image.open(io.BytesIO(content), formats=pillow_formats()) as image:
        kind, mode = str(image.format), image.mode
        facts = facts._replace(format=kind, width=image.width, height=image.height)
        bits = 16 if mode[0] in 'IF' else 8
        if kind == 'PNG':
            bits = max(content[24], 8)  # of IHDR; Pillow opens 16-bit colour as 8-bit
        elif kind == 'TIFF':
            bits = max((8, *image.tag_v2.get(258, (8,))))  # type: ignore[attr-defined]
        if mode == 'CMYK' and image.info.get('adobe_transform') == 2:
            mode = 'YCCK'
        # Of a PNG without EXIF, getexif would decode all the pixels to look behind them.
        exif = image.getexif() if kind != 'PNG' or 'exif' in image.info else {}
        orientation = exif.get(ORIENTATION, 1)
        return facts._replace(
            mode=mode,
            bits=int(bits),
            alpha=image.has_transparency_data,
            frames=_frames(image) if kind in MOVING else 1,
            orientation=orientation if orientation in range(1, 9) else 1,
        )


def _frames(image: Image.Image) -> int:
    try:
        return getattr(image, 'n_frames', 1)
    except Exception:  # damage behind the first frame, which alone counts, and is looked at later
        return 2


def _undecodable(content: bytes, kind: str) -> str:
    """Why the pixels cannot be had, or ''."""
    if kind not in READABLE:
        try:
            with Image.open(io.BytesIO(content), formats=(kind,)) as image:
                image.load()
        except Exception as error:  # see above
            return _damage(content, f'{type(error).__name__}: {error}')
        return ''
    try:
        decode.pixels(tf.constant(content))
    except tf.errors.OpError as error:
        first = re.sub(r'\{\{.*?\}\} |\[Op:.*', '', str(error.message)).split('\n')[0]
        return _damage(content, f'{first.strip()}')
    return ''


def _damage(content: bytes, detail: str) -> str:
    """Cut short or otherwise damaged: by the format's own end mark, if it has one."""
    marks = {b'\xff\xd8': b'\xff\xd9', b'\x89PNG': b'IEND\xaeB`\x82', b'GIF8': b';'}
    end = next((end for start, end in marks.items() if content.startswith(start)), b'')
    cut = 'truncated' in detail if not end else end not in content[-64:]
    return f'truncated ({len(content):,} bytes)' if cut else f'corrupt: {detail}'


def _what_it_is(content: bytes) -> str:
    """Of a file that Pillow does not take for an image."""
    if content.startswith((b'\xff\xd8\xff', b'\x89PNG', b'GIF8', b'BM')):
        return _damage(content, 'its header cannot be read')
    start = content[:512].decode(errors='replace')
    if '<html' in start.lower() or '<!doctype' in start.lower():
        return 'not an image, but a web page'
    words = start[:-3].replace('\ufffd', '\0').split()
    return f'not an image{", but text" if all(word.isprintable() for word in words) else ""}'


class Inspector:
    """Examines files in several threads; a batch at a time, so that complaints find their image."""

    def __init__(self, pool: Executor, workers: int) -> None:
        self._pool, self._batch = pool, BATCH * workers
        tensorflow.load()  # which takes seconds

    def run(
        self,
        files: Sequence[File],
        known: Callable[[File], Facts | None],
        found: Callable[[list[tuple[File, Facts]]], None],
        advance: Callable[[int], None],
    ) -> None:
        """Examine the files that are not `known`, telling each batch to `found`.

        And to `advance` how many more files are done.
        """
        todo = [file for file in files if known(file) is None]
        advance(len(files) - len(todo))
        for start in range(0, len(todo), self._batch):
            batch = todo[start : start + self._batch]
            with warnings.catch_warnings(), _listening() as complaint:
                warnings.simplefilter('ignore')  # Pillow's, about EXIF and large images
                facts = list(self._pool.map(_examine_file, batch))
                if complaint():  # whose? looked at one by one, they tell
                    for i, file in enumerate(batch):
                        _examine_file(file)
                        facts[i] = facts[i]._replace(complaint=complaint())
            found(list(zip(batch, facts, strict=True)))
            advance(len(batch))


def _examine_file(file: File) -> Facts:
    if file.size > MAX_BYTES:
        return Facts('', damage=f'not an image: {file.size:,} bytes are too many')
    try:
        content = file.read()
    except OSError as error:
        reason = file.problem or f'unreadable: {error.strerror}'
        return Facts('', damage=reason)
    if len(content) < file.size:
        return Facts('', damage=f'unreadable: ends after {len(content)} of {file.size} bytes')
    return examine(content)


@contextmanager
def _listening() -> Iterator[Callable[[], str]]:
    """Catch what C libraries print on standard error; gives libjpeg's first complaint since asked.

    The other lines are TensorFlow's about files that it refuses, which is reported anyway.
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

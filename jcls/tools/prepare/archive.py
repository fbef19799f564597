"""Tars, which are read in place; nothing is unpacked, so no member can write anywhere.

A member is an `Entry` with its place in the tar, from which its content is read. The members of an
inner ``<class>.tar``, as in ImageNet's training tar, count as files of a folder ``<class>/``. A
compressed tar cannot be read at a place, so it is decompressed once, as a whole.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import os
import posixpath
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jcls.data.sources.tree import Entry

INNER = '.tar'
COMPRESSED = ('.tar.gz', '.tgz', '.tar.bz2', '.tbz2', '.tar.xz', '.txz', '.tar.zst', '.tzst')
MAGIC = {b'\x1f\x8b': gzip, b'BZh': bz2, b'\xfd7zXZ\x00': lzma}


def plain(path: Path, work: Path) -> Path:
    """The tar itself or, if it is compressed, a decompressed copy in the folder `work`."""
    with path.open('rb') as file:
        start = file.read(6)
    if start.startswith(b'(\xb5/\xfd'):
        raise ValueError(f'{path} is compressed with zstd: decompress it first (unzstd {path})')
    opener = next((module for magic, module in MAGIC.items() if start.startswith(magic)), None)
    if opener is None:
        return path
    status = path.stat()
    identity = f'{path.resolve()} {status.st_size} {status.st_mtime_ns}'
    copy = work / f'source-{hashlib.sha256(os.fsencode(identity)).hexdigest()[:16]}.tar'
    if not copy.exists():
        unfinished = copy.with_suffix('.unfinished')
        try:
            with opener.open(path) as packed, unfinished.open('wb') as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        except (EOFError, lzma.LZMAError, zlib.error, OSError) as error:
            unfinished.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk is at fault, not the content
            raise ValueError(f'{path} is damaged or cut short: {error}') from None
        os.utime(unfinished, ns=(status.st_mtime_ns, status.st_mtime_ns))
        unfinished.rename(copy)
    return copy


def entries(path: Path, source: str) -> Iterator[Entry]:
    """All members of a plain tar and its inner tars; `source` names it in messages."""
    with path.open('rb') as file:
        status = path.stat()
        whole = _Span(str(path), 0, status.st_size, status.st_mtime_ns)
        for entry in _members(file, whole, source):
            inner, suffix = os.path.splitext(entry.path)  # noqa: PTH122
            if entry.path.lower().endswith(COMPRESSED):
                raise ValueError(
                    f'{source}: {entry.path} is a compressed tar inside a tar, which cannot be '
                    'read in place: unpack the outer one'
                )
            if entry.kind != 'file' or entry.problem or suffix.lower() != INNER:
                yield entry
                continue
            yield Entry(inner, 'folder')
            span = whole._replace(start=entry.offset, size=entry.size)
            for member in _members(file, span, f'{source}: {entry.path}'):
                yield member._replace(path=f'{inner}/{member.path}')


class _Span(NamedTuple):
    """The place of a tar, a file or a part of one, and the file's time of modification."""

    where: str
    start: int
    size: int
    time: int


class _Window(io.RawIOBase):
    """A part of an open file as a file."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size, self._at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._size)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(self._size - self._at, 0)
        self._file.seek(self._start + self._at)
        content = self._file.read(left if size < 0 else min(size, left))
        self._at += len(content)
        return content


def _members(file: BinaryIO, span: _Span, source: str) -> Iterator[Entry]:
    """The members of one tar, with links to files of the same tar resolved."""
    window = _Window(file, span.start, span.size)
    files: dict[str, Entry] = {}
    links: list[tuple[str, str]] = []
    try:
        with tarfile.open(fileobj=window, mode='r:') as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep a million
                path = _safe(member.name, source)
                if member.islnk():
                    links.append((path, _normal(member.linkname)))
                elif member.issym():
                    links.append((path, _normal(f'{posixpath.dirname(path)}/{member.linkname}')))
                elif not path:
                    continue
                else:
                    entry = _entry(path, member, span)
                    if entry.kind == 'file':
                        files[path] = entry
                    yield entry
            _check_end(window, tar.offset, source)
    except tarfile.TarError as error:
        raise ValueError(f'{source} is not a readable tar: {error}') from None
    targets = dict(links)
    for path, target in links:
        for _ in range(10):  # links may form a chain or a circle
            target = targets.get(target, target)
        outside = Entry(path, 'file', problem='unreadable: a link to no file of the tar')
        yield files.get(target, outside)._replace(path=path)


def _entry(path: str, member: tarfile.TarInfo, span: _Span) -> Entry:
    if member.isdir():
        return Entry(path, 'folder')
    if not member.isreg():
        return Entry(path, 'neither a file nor a folder')
    if member.issparse():
        return Entry(path, 'file', problem='unreadable: a sparse file in a tar')
    offset = span.start + member.offset_data
    return Entry(path, 'file', member.size, span.time + offset, span.where, offset)


def _safe(name: str, source: str) -> str:
    """A member's path without './' and leading slashes; a ValueError for '..'."""
    parts = [part for part in name.split('/') if part not in ('', '.')]
    if '..' in parts:
        raise ValueError(
            f'{source} has a member {name!r}, which points outside: a tar of images has none such; '
            'make it again'
        )
    return '/'.join(parts)


def _normal(path: str) -> str:
    return posixpath.normpath(path).lstrip('/')


def _check_end(window: _Window, offset: int, source: str) -> None:
    """Check that a tar ends in a block of zeros, since tarfile takes a damaged header for the end.

    Raises:
      ValueError: if there is no such block, or something comes after it.
    """
    window.seek(offset)
    block = window.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or any(block):
        raise ValueError(
            f'{source} is damaged or cut short at byte {offset:,}: members are missing'
        )
    while block := window.read(1 << 20):
        if any(block):
            raise ValueError(
                f'{source} goes on behind its end at byte {offset:,}: several tars in one file? '
                'Give them one by one, or unpack them'
            )

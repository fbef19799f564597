"""The files below a folder: each of them once, and the reason for everything that is left out.

A folder and a tar are both sequences of `Entry`. `walk` makes those of a folder; `images` are the
images among them. Training, evaluation, ``jcls predict`` and ``jcls prepare`` all read folders
through here, so that they agree.
"""

from __future__ import annotations

import functools
import io
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jcls.data.formats import extension, recogniser

Place = tuple[int, int]  # device and inode
LARGEST = 1 << 29  # bytes of an image in a tar
NEITHER = 'neither a file nor a folder'
ANYWAY = 'a link to what is here anyway'
# What file servers (Synology, QNAP, NetApp), operating systems and archives put among the images.
NOT_OURS = (
    r'@(eadir|tmp|recycle|recently-snapshot|sharebin|sharesnap|transcode|synoeastream)'
    r'|#recycle|#snapshot|~snapshot'
    r'|\$recycle\.bin|system volume information|found\.\d+|thumbs\.db|desktop\.ini'
    r'|__macosx|icon\r|network trash folder|temporary items'
    r'|lost\+found|__pycache__'
)


class Entry(NamedTuple):
    """A file or folder.

    Attributes:
      path: path below the source, with slashes.
      kind: 'file', 'folder', or the reason why it is left out.
      size: size in bytes, in a tar.
      stamp: number that changes with the file, in a tar: its place there.
      where: file to open.
      offset: first byte of the content in `where`.
      problem: why the content cannot be read, if it cannot.
      linked: whether it may be here a second time, through a link.
    """

    path: str
    kind: str
    size: int = 0
    stamp: int = 0
    where: str = ''
    offset: int = 0
    problem: str = ''
    linked: bool = False


def walk(root: str | Path, *, links: bool = False) -> Iterator[Entry]:
    """All entries below a folder, every real file and folder once, in no order.

    A link counts like what it points to. But a link to what the tree has anyway, or to a folder
    above it, is left out, and so is each further link to the same place. With `links`, only those
    to a folder above are, so that the same file may come several times.

    Raises:
      ValueError: for folders that cannot be read; the error names them.
    """
    base = os.fspath(root)
    prefix = len(os.path.join(base, ''))  # noqa: PTH118
    above = {_place(os.stat(parent)) for parent in Path(base).resolve().parents}  # noqa: PTH116
    visited = {_place(os.stat(base))}  # noqa: PTH116
    linked: set[Place] = set()
    unreadable: list[str] = []
    to_folders: list[os.DirEntry[str]] = []
    to_files: list[os.DirEntry[str]] = []
    nested: set[str] = set()  # links found behind links

    def below(start: str, visited: set[Place], *, linked: bool = False) -> Iterator[Entry]:
        """What is below a folder, without links, which are noted for later."""
        stack = [start]
        while stack:
            folder = stack.pop()
            try:
                with os.scandir(folder) as scan:
                    entries = list(scan)
            except OSError as error:
                unreadable.append(f'{folder} ({error.strerror})')
                continue
            for entry in entries:
                path = entry.path[prefix:]
                if reason := _reason(entry.name):
                    yield Entry(path, reason)
                elif entry.is_symlink():
                    (to_folders if _leads_to_folder(entry) else to_files).append(entry)
                    if linked:
                        nested.add(entry.path)
                elif entry.is_dir():
                    try:
                        place = _place(entry.stat())
                    except OSError as error:
                        unreadable.append(f'{entry.path} ({error.strerror})')
                        continue
                    yield Entry(path, ANYWAY if place in visited else 'folder')
                    if place not in visited:
                        visited.add(place)
                        stack.append(entry.path)
                elif entry.is_file():
                    yield Entry(path, 'file', where=entry.path, linked=linked and links)
                else:
                    yield Entry(path, NEITHER)

    yield from below(base, visited)
    # Links come last, and those to files after those to folders, so that a file is found where it
    # is and not where a link shows it.
    while to_folders:
        found, to_folders[:] = sorted(to_folders, key=lambda link: link.path), []
        for link in found:
            place, path = _place(link.stat()), link.path[prefix:]
            again = links and link.path not in nested
            if place in above or (again and place in _folders_above(path, base)):
                yield Entry(path, 'a link to a folder above')
            elif place in visited and not again:
                yield Entry(path, ANYWAY)
            else:
                new = place not in visited
                visited.add(place)
                yield Entry(path, 'folder')
                yield from below(link.path, visited if new else {place}, linked=True)
    for link in sorted(to_files, key=lambda link: link.path):
        file = _linked_file(Entry(link.path[prefix:], 'file', where=link.path, linked=links))
        yield file if links or file.problem else _once(file, visited, linked)
    if unreadable:
        more = ', ...' if unreadable[5:] else ''
        raise ValueError(
            f'{len(unreadable)} folder(s) of {base} cannot be read, and what is in them would be '
            f'missing: {", ".join(unreadable[:5])}{more}'
        )


def _leads_to_folder(link: os.DirEntry[str]) -> bool:
    try:
        return link.is_dir()
    except OSError:  # it goes in a circle, through a file, or where nobody may look
        return False


def _folders_above(path: str, base: str) -> set[Place]:
    """The places of `base` and of the folders between it and `path`, which is below it."""
    parents = Path(base, path).parents[: path.count('/') + 1]
    return {_place(parent.stat()) for parent in parents}


def _linked_file(entry: Entry) -> Entry:
    """What a link to a file, or to nothing, is."""
    try:
        target = os.stat(entry.where)  # noqa: PTH116
    except OSError as error:
        broken = 'a broken link' if isinstance(error, FileNotFoundError) else error.strerror
        return entry._replace(problem=f'unreadable: {broken}')
    return entry if stat.S_ISREG(target.st_mode) else Entry(entry.path, NEITHER)


def _once(entry: Entry, folders: set[Place], linked: set[Place]) -> Entry:
    """A link to a file; left out if the file is in `folders` or among `linked`, which it joins."""
    if entry.kind != 'file':
        return entry
    target = _place(os.stat(entry.where))  # noqa: PTH116
    folder, name = os.path.split(os.path.realpath(entry.where))
    here = _place(os.stat(folder)) in folders and not _reason(name)  # noqa: PTH116
    if here or target in linked:
        return Entry(entry.path, ANYWAY)
    linked.add(target)
    return entry


def visible(entries: Iterable[Entry]) -> Iterator[Entry]:
    """The entries of a tar; the names that `walk` leaves out are left out, too, each once."""
    seen = set()
    for entry in entries:
        names = entry.path.split('/')
        hiding = next((i for i, name in enumerate(names) if _reason(name)), None)
        if hiding is None:
            yield entry
            continue
        path = '/'.join(names[: hiding + 1])
        if path not in seen:
            seen.add(path)
            yield Entry(path, _reason(names[hiding]))


def images(entries: Iterable[Entry], left_out: list[tuple[str, str]]) -> Iterator[Entry]:
    """The images among `entries`; the path of everything else, and why, goes to `left_out`."""
    is_image = recogniser()
    for entry in entries:
        if entry.kind not in ('file', 'folder'):
            left_out.append((entry.path, entry.kind))
        elif entry.kind == 'file':
            name = entry.path.rpartition('/')[2]
            if is_image(name, functools.partial(_opened, entry)):
                yield entry
            else:
                left_out.append((entry.path, entry.problem or extension(name) or 'not an image'))


def _opened(entry: Entry) -> BinaryIO:
    """A file, or a member of a tar."""
    file = open(entry.where, 'rb')  # noqa: PTH123, SIM115  (the caller closes it)
    if not entry.offset:
        return file
    with file:
        file.seek(entry.offset)
        return io.BytesIO(file.read(min(entry.size, LARGEST)))


def _reason(name: str) -> str:
    """Why a file or folder of this name is left out, or ''."""
    if name[0] == '.':
        return 'hidden'
    if name[-1] == '~':
        return 'a backup'
    return f"a system's {name}".rstrip() if re.fullmatch(NOT_OURS, name.lower()) else ''


def _place(status: os.stat_result) -> Place:
    return status.st_dev, status.st_ino

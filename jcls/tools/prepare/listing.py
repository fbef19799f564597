"""The splits, classes and files of a source, by name alone, before anything is read.

A folder and a tar are both sequences of `Entry`, so the same rules hold for both. If there are
``train/`` and ``val/``, they are the splits. The folders below are the classes. Names that begin
with a dot do not count. Everything that is left out is listed with the reason.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

TRAIN, VALIDATION = 'train', 'validation'  # TFDS's names of the splits


class Entry(NamedTuple):
    """A file or folder of a source.

    Attributes:
      path: path below the source, with slashes.
      kind: 'file', 'folder', or a reason why it is neither.
      size: size in bytes.
      stamp: number that changes with the file, from its time of modification or place in a tar.
      where: file to open.
      offset: first byte of the content in that file.
      problem: why the content cannot be read, if it cannot.
    """

    path: str
    kind: str
    size: int = 0
    stamp: int = 0
    where: str = ''
    offset: int = 0
    problem: str = ''


class File(NamedTuple):
    """A file that may be an image, with the attributes of its `Entry` and a label."""

    shown: str  # path below the source, for messages
    name: str  # '<class>/<file>'
    label: int
    size: int
    stamp: int
    where: str
    offset: int
    problem: str

    def read(self) -> bytes:
        """The content; an OSError if it cannot be read."""
        if self.problem:
            raise OSError(self.problem)
        with open(self.where, 'rb') as file:  # noqa: PTH123  (a Path costs as much as the open)
            file.seek(self.offset)
            return file.read(self.size)


class Listing(NamedTuple):
    """The content of a source.

    Attributes:
      classes: names of the classes, sorted.
      files: files of each split, sorted by class and path.
      ignored: (path, reason) of everything that is left out.
    """

    classes: tuple[str, ...]
    files: dict[str, list[File]]
    ignored: list[tuple[str, str]]


def walk(root: Path) -> Iterator[Entry]:
    """All entries below a folder. Links are followed, but no circle of links."""

    def below(folder: str, prefix: str, above: tuple[tuple[int, int], ...]) -> Iterator[Entry]:
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            yield Entry(prefix.rstrip('/'), 'file', problem=f'unreadable folder: {error.strerror}')
            return
        for entry in entries:
            path = prefix + entry.name
            if entry.name[0] == '.':
                yield Entry(path, 'file')  # a hidden folder is listed, not searched
                continue
            try:
                status = entry.stat()
            except OSError as error:
                broken = 'a broken link' if entry.is_symlink() else error.strerror
                yield Entry(path, 'file', where=entry.path, problem=f'unreadable: {broken}')
                continue
            if stat.S_ISDIR(status.st_mode):
                place = (status.st_dev, status.st_ino)
                if place in above:
                    yield Entry(path, 'a link to a folder above it')
                    continue
                yield Entry(path, 'folder')
                yield from below(entry.path, f'{path}/', (*above, place))
            elif stat.S_ISREG(status.st_mode):
                yield Entry(path, 'file', status.st_size, status.st_mtime_ns, entry.path)
            else:
                yield Entry(path, 'neither a file nor a folder')

    status = root.stat()
    return below(str(root), '', ((status.st_dev, status.st_ino),))


def arrange(entries: Iterable[Entry], source: str, *, packed: bool) -> Listing:
    """The listing of a source from its entries.

    Args:
      entries: all entries of the source.
      source: name of the source in messages.
      packed: whether it is a tar, where a single folder around everything is no class.
    """
    ignored: list[tuple[str, str]] = []
    folders: set[str] = set()
    files: dict[str, Entry] = {}
    for entry in entries:
        if any(part[:1] == '.' for part in entry.path.split('/')):
            ignored.append((entry.path, 'hidden'))
        elif entry.kind == 'folder':
            folders.add(entry.path)
        elif entry.kind == 'file':
            if entry.path in files:
                ignored.append((entry.path, 'replaced by a later file of the same name'))
            files[entry.path] = entry
            folders.update(_parents(entry.path))
        else:
            ignored.append((entry.path, entry.kind))
    wrapping = _wrapping(folders, files) if packed else ''
    top = sorted(f[len(wrapping) :] for f in folders if f.startswith(wrapping))
    top = [name for name in top if '/' not in name]
    parts = [name for name in ('train', 'val') if name in top]
    beside = [name for name in top if name not in parts]
    if parts == ['val']:
        raise ValueError(f'{source} has val/ but no train/; give both, or class folders only')
    if parts == ['train'] and beside:
        raise ValueError(
            f'{source} has train/ beside {", ".join(beside[:4])}: is it a class or the training '
            'set? Put the classes into train/ and val/, or give the class another name; a '
            'validation set elsewhere is given with --val'
        )
    listings = {
        split: _classes(wrapping + part, folders, files, ignored, source)
        for split, part in zip((TRAIN, VALIDATION), [f'{p}/' for p in parts] or [''], strict=False)
    }
    inside = tuple(f'{wrapping}{part}/' for part in parts) or (wrapping,)
    outside = Counter(
        path[: path.find('/', len(wrapping)) + 1] or path
        for path in files
        if not path.startswith(inside)
    )
    for path, count in outside.items():
        of = f' ({count:,} files)' if path.endswith('/') else ''
        ignored.append((path, f'outside the class folders{of}'))
    classes = same_classes(*((source, names) for names, _ in listings.values()))
    return Listing(classes, {split: files for split, (_, files) in listings.items()}, ignored)


def same_classes(*parts: tuple[str, tuple[str, ...]]) -> tuple[str, ...]:
    """The classes of the (source, classes) pairs of training and validation, if they are equal."""
    (train, classes), (val, others) = parts[0], parts[-1]
    if classes != others:
        raise ValueError(
            f'training ({train}) and validation ({val}) have different classes: only in training: '
            f'{sorted(set(classes) - set(others))[:5]}, only in validation: '
            f'{sorted(set(others) - set(classes))[:5]}'
        )
    return classes


def _classes(
    base: str,
    folders: set[str],
    files: dict[str, Entry],
    ignored: list[tuple[str, str]],
    source: str,
) -> tuple[tuple[str, ...], list[File]]:
    """The classes below `base` ('' or a path with a slash) and their files."""
    place = f'{source}/{base}' if base else f'{source}/'
    classes = sorted(
        f[len(base) :] for f in folders if f.startswith(base) and '/' not in f[len(base) :]
    )
    if not classes:
        raise ValueError(f'{source} has no class folders; expected {place}<class>/<image>.jpg')
    labels = {name: label for label, name in enumerate(classes)}
    chosen = []
    for path, entry in files.items():
        if not path.startswith(base):
            continue
        name = path[len(base) :]
        first, slash, _ = name.partition('/')
        if first not in labels:
            ignored.append((path, 'outside the class folders'))
        elif not slash:  # a class folder that cannot be read gives its own error later
            chosen.append(File(path, f'{name}/', labels[first], *entry[2:]))
        else:
            chosen.append(File(path, name, labels[first], *entry[2:]))
    chosen.sort(key=lambda file: (file.label, file.name))
    _check_names(classes, source)
    readable = {file.label for file in chosen}
    empty = [name for name in classes if labels[name] not in readable]
    if empty:
        raise ValueError(
            f'{len(empty)} class folders of {place} are empty: {", ".join(empty[:5])}; add images '
            'or remove the folder: every class needs one'
        )
    return tuple(classes), chosen


def _check_names(classes: Sequence[str], source: str) -> None:
    """Check that class names survive label.labels.txt, which has one on each line, in UTF-8."""
    for name in classes:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise ValueError(f'{source}: the class name {name!r} is not UTF-8: rename it') from None
        if name != name.strip() or len(name.splitlines()) > 1:
            raise ValueError(
                f'{source}: the class name {name!r} begins or ends with white space or has a line '
                'break, which TFDS would change: rename it'
            )


def _parents(path: str) -> Iterator[str]:
    """The folders above a path: 'a/b/c' -> 'a', 'a/b'."""
    at = path.find('/')
    while at >= 0:
        yield path[:at]
        at = path.find('/', at + 1)


def _wrapping(folders: set[str], files: dict[str, Entry]) -> str:
    """The folder around all class folders ('photos/'), which most tars have, or ''."""
    around = ''
    while True:
        inside = {f[len(around) :].split('/')[0] for f in folders if f.startswith(around)}
        if len(inside) != 1 or inside <= {'train', 'val'}:
            return around
        deeper = f'{around}{inside.pop()}/'
        own = {path for path in files if path.startswith(deeper) and '/' not in path[len(deeper) :]}
        subfolders = any(f.startswith(deeper) for f in folders)
        # Images right inside make it a class; a README or a list of the files does not.
        if not subfolders or any(is_image_name(path) for path in own):
            return around
        around = deeper


def is_image_name(path: str) -> bool:
    """Whether the name of a file is that of an image."""
    return os.path.splitext(path)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122


IMAGE_EXTENSIONS = (
    '.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.apng', '.bmp', '.gif', '.webp', '.tif', '.tiff',
    '.jp2', '.avif', '.ppm', '.pgm', '.heic',
)  # fmt: skip

"""Training and validation images and their classes, by the names of folders alone.

    <class>/...                          one set, of which a part will be set aside
    train/<class>/..., val/<class>/...   two sets

A single folder around all of this is passed through. The two sets may have any of their usual
names. What looks like sets and is not understood is an error, so that no set becomes a class.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from jcls.data.sources.classes import composed, listed, ordered, warn_of_alike
from jcls.data.sources.elsewhere import unsorted
from jcls.data.sources.sets import (
    TRAIN,
    VALIDATION,
    check_below,
    find_sets,
    names_in,
    unwrapped,
)
from jcls.data.sources.tree import ANYWAY, Entry, images, walk


class File(NamedTuple):
    """An image file, or what may be one, in a folder or a tar; see `Entry`.

    Attributes:
      path: path below the source.
      name: '<class>/<path below it>', with composed accents: the same wherever the images are.
      label: index of the class; -1 in a validation set for a class that training does not have.
    """

    path: str
    name: str
    label: int
    size: int
    stamp: int
    where: str
    offset: int
    problem: str
    linked: bool = False


class Layout(NamedTuple):
    """The images of a source.

    Attributes:
      classes: names of the classes, in the order of `ordered`.
      files: files of each set, sorted by the names of their classes and their paths.
      left_out: (path, reason) of everything else, sorted.
    """

    classes: tuple[str, ...]
    files: dict[str, list[File]]
    left_out: list[tuple[str, str]]


def arrange_folder(root: str | Path, **allowed: bool) -> Layout:
    """The layout of a folder; `allowed` are options of `arrange`.

    Where files would be missing from a set because they are links to files elsewhere in the folder,
    as in a folder of all images beside sets of links, the links count.

    Raises:
      ValueError: as `arrange` and `walk` do.
    """
    try:
        return arrange(walk(root), str(root), **allowed)
    except ValueError as error:
        try:
            return arrange(walk(root, links=True), str(root), **allowed)
        except ValueError:
            raise error from None


def arrange(
    entries: Iterable[Entry],
    source: str,
    *,
    val_incomplete: bool = False,
    empty: bool = False,
    single: bool = False,
) -> Layout:
    """The layout of a source.

    Args:
      entries: all entries of the source.
      source: name of the source in messages.
      val_incomplete: whether the validation set may lack classes.
      empty: whether a training class may have no image.
      single: whether it is known to be one set, so that train/ beside other folders is a class.

    Raises:
      ValueError: if it cannot be told which folders are classes, a training class has no image, or
        the two sets have different classes.
    """
    left_out: list[tuple[str, str]] = []
    folders: set[str] = set()
    files: dict[str, Entry] = {}

    def noted() -> Iterator[Entry]:
        for entry in entries:
            if entry.kind == 'folder':
                folders.add(entry.path)
            yield entry

    for entry in images(noted(), left_out):
        if entry.path in files:
            left_out.append((entry.path, 'replaced by a later file of the same name'))
        files[entry.path] = entry
        folders.update(_parents(entry.path))
    holding = Counter(path.rpartition('/')[0] for path in files)  # folders with images right inside
    around = unwrapped('', folders, holding, sets=True)
    sets = find_sets(around, folders, source, single=single)
    bases: dict[str, str] = {}
    labels: dict[str, int] = {}
    for kind, base in sets.items():
        bases[kind] = base if base == around else unwrapped(base, folders, holding, labels)
        names = _class_folders(bases[kind], folders, source)
        if not names:
            where = f'{source}/{bases[kind]}'.rstrip('/')
            others = [path for path, _ in left_out if '/' not in path]
            inside = unsorted(where, holding[bases[kind].rstrip('/')], others)
            raise ValueError(
                f'{where} has no class folders; expected {where}/<class>/<image>.jpg{inside}'
            )
        check_below(bases[kind], folders, holding, source)
        if not labels:
            labels = {name: label for label, name in enumerate(ordered(names))}
            warn_of_alike(labels)
    grouped: dict[str, list[File]] = {kind: [] for kind in bases}
    for path, entry in files.items():
        kind = next((kind for kind, base in bases.items() if path.startswith(base)), '')
        name = composed(path[len(bases.get(kind, '')) :])
        if kind and '/' in name:
            label = labels.get(class_of(name), -1)
            grouped[kind].append(File(path, name, label, *entry[2:]))
        else:
            left_out.append((path, 'outside the class folders'))
    for kind, some in grouped.items():
        some.sort(key=lambda file: (class_of(file.name), file.name))
        grouped[kind], again = _each_once(some)
        left_out += [(file.path, ANYWAY) for file in again]
    left_out.sort()
    filled = {file.label for file in grouped[TRAIN]}
    hollow = [name for name, label in labels.items() if label not in filled]
    if hollow and (not empty or not filled):
        where = f'{source}/{bases[TRAIN]}'.rstrip('/')
        raise ValueError(_without_images(where, bases[TRAIN], hollow, left_out))
    layout = Layout(tuple(labels), grouped, left_out)
    if VALIDATION in grouped:
        check_validation(layout, source, val_incomplete=val_incomplete)
    return layout


def count_left_out(layout: Layout) -> dict[str, dict[str, int]]:
    """How many were left out for each reason, by folder (of the first two levels)."""
    counts: dict[str, dict[str, int]] = {}
    for path, reason in layout.left_out:
        folder = '/'.join(path.split('/')[:-1][:2])
        by_folder = counts.setdefault(reason, {})
        by_folder[folder] = by_folder.get(folder, 0) + 1
    return counts


def class_of(name: str) -> str:
    """The class of a `File` by its name."""
    return name[: name.index('/')]


def with_validation(
    layout: Layout, validation: Layout, source: str, *, val_incomplete: bool
) -> Layout:
    """The layout with the only set of another source as its validation set.

    Raises:
      ValueError: as `arrange` does.
    """
    labels = {name: label for label, name in enumerate(layout.classes)}
    files = [
        file._replace(label=labels.get(class_of(file.name), -1)) for file in validation.files[TRAIN]
    ]
    both = layout._replace(
        files={TRAIN: layout.files[TRAIN], VALIDATION: files},
        left_out=layout.left_out + validation.left_out,
    )
    check_validation(both, source, val_incomplete=val_incomplete)
    return both


def check_validation(layout: Layout, source: str, *, val_incomplete: bool) -> None:
    """Check that the validation set has the classes of training; it may be allowed to lack some."""
    classes = ordered(class_of(file.name) for file in layout.files[VALIDATION])
    more = [name for name in classes if name not in layout.classes]
    less = [name for name in layout.classes if name not in classes]
    if more:
        raise ValueError(
            f'{source}: training and validation have different classes: only in validation: '
            f'{listed(more)}; only in training: {listed(less) or "none"}'
        )
    if less and not val_incomplete:
        raise ValueError(
            f'{source}: the validation set has no image of {len(less)} class(es): {listed(less)}; '
            'add some, or allow it with --config.data.val_incomplete=true (--val_incomplete of '
            'jcls prepare)'
        )


def _each_once(files: list[File]) -> tuple[list[File], list[File]]:
    """The files of a set, and those among them that show again what an earlier one is."""
    if not any(file.linked for file in files):
        return files, []
    kept: dict[object, File] = {}
    for file in sorted(files, key=lambda file: file.linked):
        status = None if file.problem else os.stat(file.where)  # noqa: PTH116
        place = (status.st_dev, status.st_ino) if status else file.path
        kept.setdefault(place, file)
    first = {file.path for file in kept.values()}
    return (
        [file for file in files if file.path in first],
        [file for file in files if file.path not in first],
    )


def _class_folders(base: str, folders: Collection[str], source: str) -> list[str]:
    """The names of the class folders right below `base`, with composed accents."""
    classes = [composed(name) for name in names_in(base, folders)]
    for name in {name for name in classes if classes.count(name) > 1}:
        raise ValueError(
            f'{source}/{base} has several folders that are all shown as {name!r}, with accents '
            'composed or not: make one folder of them'
        )
    return classes


def _without_images(
    where: str, base: str, empty: list[str], left_out: list[tuple[str, str]]
) -> str:
    """The message about training classes without an image."""
    inside = Counter(reason for path, reason in left_out if path.startswith(f'{base}{empty[0]}/'))
    found = ', '.join(f'{count:,} {reason}' for reason, count in inside.most_common(3))
    return (
        f'{where} has {len(empty)} class folder(s) without an image: {listed(empty)}'
        f'{f" (in {empty[0]}: {found})" if found else ""}; every class needs one: add some, or '
        'keep what is no class elsewhere'
    )


def _parents(path: str) -> Iterator[str]:
    """The folders above a path: 'a/b/c' -> 'a', 'a/b'."""
    at = path.find('/')
    while at >= 0:
        yield path[:at]
        at = path.find('/', at + 1)

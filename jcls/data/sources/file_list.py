"""A text file that lists images and their classes, as PaddleClas and timm read it."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from typing import NamedTuple

import numpy as np

from jcls.data.sources.classes import class_names, composed, ordered, text_of, warn_of_alike
from jcls.data.sources.classes import listed as listed_names
from jcls.data.sources.elsewhere import elsewhere
from jcls.data.sources.hold_out import held_out
from jcls.data.sources.known import Known
from jcls.data.sources.source import Source, from_files
from jcls.host.disk import local

logger = logging.getLogger(__name__)

NUMBER = r'[+-]?\d+'
MORE = 100_000  # most classes without images that a list of numbered labels may have


class Listed(NamedTuple):
    """The lines of a list file."""

    file: str
    numbers: list[int]  # line numbers
    paths: list[str]
    labels: list[str]


def listing(
    known: Known | None = None,
    *,
    train_list: str,
    val_list: str | None = None,
    val_incomplete: bool = False,
    dir: str = '',
    classes: str | None = None,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    copies: str = 'warn',
) -> tuple[Source, Source]:
    """Images listed in text files: a path, a tab or spaces, and a label on each line.

    With a file of `classes`, the labels are all names in it, or all numbers of names, from 0 on.
    Without it, labels are all numbers from 0 on, or all names; the names of the training list,
    sorted, are then the classes. A line with a tab is split at its last tab, any other at its last
    space, so names with spaces need the tab. Blank lines do not count.

    Args:
      known: what a run that goes on knows of its data.
      train_list: list of the training images.
      val_list: list of the validation images; without it, a stratified `val_fraction` of the
        training list is set aside.
      val_incomplete: whether the validation list may lack classes.
      dir: folder that the paths are relative to; '' is the current one.
      classes: text file with a class name on each line.
      val_fraction: fraction of each class to set aside if there is no val_list.
      split_seed: seed that decides which examples are set aside.
      copies: what to do about exact copies in both sets: 'warn', keep them 'together' in one of
        them, or 'ignore' them.
    """
    lists = [read_list(train_list, 'train_list')]
    if val_list is not None:
        lists.append(read_list(val_list, 'val_list'))
    everything = [label for listed in lists for label in listed.labels]
    numbers = all(re.fullmatch(NUMBER, label) for label in everything)
    if classes is not None:
        names = class_names(classes)
        numbers = numbers and not {*everything} <= {*names}
    elif numbers:
        highest = max(map(int, everything))
        if highest >= len(everything) + MORE:
            raise ValueError(
                f'{train_list}: the label {highest} would make {highest + 1} classes of '
                f'{len(everything)} images; correct it, or name config.data.classes'
            )
        names = tuple(map(str, range(highest + 1)))
    else:
        names = ordered(lists[0].labels)
        warn_of_alike(names)
    sets = []
    for listed in lists:
        labels = _numbered(listed, names, numbers)
        paths = _present(listed, [str(local(dir) / path) for path in listed.paths])
        keys = [os.path.normpath(path) for path in listed.paths]
        _warn_of_several_labels(listed, keys, labels)
        files, keys_ = (np.array(list(map(os.fsencode, some))) for some in (paths, keys))
        sets.append(from_files(files, labels, names, keys_))
    if val_list is not None and not val_incomplete:
        _check_complete(lists[1], names, *(part.labels for part in sets))
    if val_list is None:
        return held_out(sets[0], val_fraction, split_seed, copies, known)
    return sets[0], sets[1]


def read_list(file: str, field: str) -> Listed:
    """The lines of a list file; a ValueError for a line without a path and a label."""
    try:
        lines = text_of(file).split('\n')
    except OSError as error:
        reason = elsewhere(local(file)) or error.strerror
        raise ValueError(f'config.data.{field}={file!r}: {reason}') from None
    listed = Listed(file, [], [], [])
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = line.strip().rsplit('\t' if '\t' in line.strip() else None, 1)
        if len(parts) < 2 or not all(part.strip() for part in parts):
            raise ValueError(
                f'{file} line {number}: {line!r} is not a path and a label with a tab or a space '
                'between them'
            )
        listed.numbers.append(number)
        listed.paths.append(parts[0].strip())
        listed.labels.append(composed(parts[1].strip()))
    if not listed.paths:
        raise ValueError(f'config.data.{field}={file!r} lists no images')
    return listed


def _check_complete(
    validation: Listed, names: tuple[str, ...], train: np.ndarray, val: np.ndarray
) -> None:
    """Check that the validation list has every class that trains."""
    less = [names[label] for label in np.setdiff1d(train, val)]
    if less:
        raise ValueError(
            f'{validation.file} has no image of {len(less)} class(es): {listed_names(less)}; add '
            'some, or allow it with --config.data.val_incomplete=true'
        )


def _warn_of_several_labels(listed: Listed, keys: list[str], labels: np.ndarray) -> None:
    """Warn of files that a list has in several classes."""
    first: dict[str, int] = {}
    pairs = [
        (first[key], i)
        for i, key in enumerate(keys)
        if labels[first.setdefault(key, i)] != labels[i]
    ]
    if pairs:
        i, j = (listed.numbers[row] for row in pairs[0])
        logger.warning(
            'warning: %d line(s) of %s give a file another class than a line before: %s in lines '
            '%d and %d',
            len(pairs),
            listed.file,
            keys[pairs[0][1]],
            i,
            j,
        )


def _numbered(listed: Listed, names: tuple[str, ...], numbers: bool) -> np.ndarray:
    """The labels as int32 [N]: the places of `names` or, with `numbers`, as they are."""
    known = {name: label for label, name in enumerate(names)}
    twice = {name for name, count in Counter(names).items() if count > 1}
    labels = np.empty(len(listed.labels), np.int32)
    for i, label in enumerate(listed.labels):
        index = int(label) if numbers else known.get(label, -1)
        if (label in twice and not numbers) or not 0 <= index < len(names):
            what = 'no class' if numbers or label not in twice else 'the name of two classes'
            if not numbers and re.fullmatch(NUMBER, label):
                what += ' (labels are all names, or all numbers)'
            raise ValueError(
                f'{listed.file} line {listed.numbers[i]}: the label {label!r} is {what}; there are '
                f'{len(names)}: {", ".join(names[:4])}{", ..." if names[4:] else ""}'
            )
        labels[i] = index
    return labels


def _present(listed: Listed, files: list[str]) -> list[str]:
    """The `files` as the disk spells them, whose accents may be composed or not.

    Each folder is read once.

    Raises:
      ValueError: for files that are missing, with the first of them.
    """
    folders: dict[str, dict[str, str]] = {}
    closed: dict[str, str] = {}
    missing, found = [], []
    for i, file in enumerate(files):
        folder, name = os.path.split(file)
        if folder not in folders:
            folders[folder], closed[folder] = _files_in(folder or '.')
        if name not in folders[folder]:
            name = folders[folder].get(composed(name), '')
        found.append(os.path.join(folder, name))  # noqa: PTH118
        if not name:
            missing.append(i)
    if missing:
        reasons = [closed[os.path.dirname(files[i])] for i in missing[:5]]  # noqa: PTH120
        first = '\n'.join(
            f'  line {listed.numbers[i]}: {files[i]}{f" ({reason})" if reason else ""}'
            for i, reason in zip(missing, reasons, strict=False)
        )
        raise ValueError(
            f'{len(missing)} of the {len(files)} files of {listed.file} are missing:\n{first}'
            f'{chr(10) + "  ..." if missing[5:] else ""}\n{_advice(listed, missing)}'
        )
    return found


def _advice(listed: Listed, missing: list[int]) -> str:
    """What may be wrong with a list of which these rows are missing files."""
    path = listed.paths[missing[-1]]
    if missing == [0]:
        return 'A list has no header: leave that line out'
    if path[0] in '"\'':
        return 'Paths are written without quotes'
    if path[-1] in ',;':
        return f'Write a tab, without {path[-1]!r}, between a path and its label'
    return 'config.data.dir is the folder that the paths are relative to'


def _files_in(folder: str) -> tuple[dict[str, str], str]:
    """The names of the files in a folder, also by their composed form; or why it may not be read.

    Pipes and such are no files.
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.is_file() or entry.is_symlink()]
    except (FileNotFoundError, NotADirectoryError):
        return {}, ''
    except OSError as error:
        return {}, error.strerror or str(error)
    return {composed(name): name for name in names} | {name: name for name in names}, ''

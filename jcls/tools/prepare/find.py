"""Finding the files of a source (a folder or a tar) and of a separate validation source."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from jcls.data.sources.elsewhere import TAR, elsewhere
from jcls.data.sources.layout import (
    TRAIN,
    VALIDATION,
    File,
    Layout,
    arrange,
    arrange_folder,
    with_validation,
)
from jcls.data.sources.tree import visible
from jcls.tools.prepare import archive


def find_files(
    source: Path, validation: Path | None, work: Path, *, val_incomplete: bool = False
) -> Layout:
    """The images of `source` and `validation`; `work` is for copies."""
    layout = _layout(source, work, val_incomplete=val_incomplete, single=validation is not None)
    if validation is not None:
        if VALIDATION in layout.files:
            raise ValueError(f'--val={validation}, but {source} has one already: which is it?')
        other = _layout(validation, work, empty=True, single=True)
        if VALIDATION in other.files:
            raise ValueError(f'--val={validation} has two sets itself: give one of them')
        prefix = f'{validation.resolve().name}:'
        files = [file._replace(path=prefix + file.path) for file in other.files[TRAIN]]
        left_out = [(prefix + path, reason) for path, reason in other.left_out]
        other = Layout(other.classes, {TRAIN: files}, left_out)
        layout = with_validation(layout, other, str(validation), val_incomplete=val_incomplete)
    _check_names(layout.classes, str(source))
    return layout


def read(file: File) -> bytes:
    """The content of a file; an OSError if it cannot be read."""
    if file.problem:
        raise OSError(file.problem)
    with open(file.where, 'rb') as opened:  # noqa: PTH123  (a Path costs as much as the open)
        opened.seek(file.offset)
        return opened.read(file.size)


def name_dataset(source: Path, name: str | None) -> str:
    """The name of the dataset, as given or made from the source's name."""
    if name is None:
        stem = re.sub(r'\.(tar(\.\w+)?|t\w*z\w*)$', '', source.resolve().name)
        derived = re.sub(r'\W+', '_', stem.lower(), flags=re.ASCII).strip('_')
        if not re.fullmatch('[a-z][a-z0-9_]*', derived):
            raise ValueError(f'no name for a dataset can be made from {source}: give one as --name')
        return derived
    if not re.fullmatch('[a-zA-Z][a-zA-Z0-9_]*', name):
        raise ValueError(
            f'--name={name!r}: a TFDS name begins with a letter and has letters, digits and '
            'underscores only'
        )
    return name


def _layout(source: Path, work: Path, **allowed: bool) -> Layout:
    if source.is_dir():
        layout = arrange_folder(source, **allowed)
        files = {kind: [_measured(file) for file in part] for kind, part in layout.files.items()}
        return layout._replace(files=files)
    if not source.is_file():
        raise ValueError(f'{source}: no such folder or tar')
    tar = archive.plain(source, work)
    if not re.fullmatch(TAR, source.name.lower()) and (other := elsewhere(source)):
        raise ValueError(other)
    entries = visible(archive.entries(tar, str(source)))
    return arrange(entries, str(source), **allowed)


def _measured(file: File) -> File:
    """A file on disk with its size and time of modification."""
    if file.problem:
        return file
    status = os.stat(file.where)  # noqa: PTH116
    return file._replace(size=status.st_size, stamp=status.st_mtime_ns)


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

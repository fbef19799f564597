"""A folder with a sub-folder of images for each class: the source for your own images."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jcls.data.sources.elsewhere import elsewhere, records
from jcls.data.sources.hold_out import held_out
from jcls.data.sources.known import Known
from jcls.data.sources.layout import (
    TRAIN,
    VALIDATION,
    File,
    Layout,
    arrange_folder,
    count_left_out,
    with_validation,
)
from jcls.data.sources.source import Source, from_files
from jcls.host.disk import local


def folder(
    known: Known | None = None,
    *,
    dir: str,
    val_dir: str | None = None,
    val_incomplete: bool = False,
    val_fraction: float = 0.1,
    split_seed: int = 0,
    copies: str = 'warn',
) -> tuple[Source, Source]:
    """A folder with a sub-folder of images for each class.

    If it contains ``train/`` and ``val/``, under these or other usual names, they are the two sets.
    Otherwise a stratified `val_fraction` of each class is set aside, the same files for the same
    `split_seed`. The names of the sub-folders are the classes: sorted, as numbers if all of them
    are numbers. Every file that Pillow reads as an image counts, once; hidden files and what file
    servers and systems put there do not.

    Args:
      known: what a run that goes on knows of its data.
      dir: the folder.
      val_dir: another such folder, with the validation images.
      val_incomplete: whether the validation set may lack classes.
      val_fraction: fraction of each class to set aside if there are no validation images.
      split_seed: seed that decides which examples are set aside.
      copies: what to do about exact copies in both sets: 'warn', keep them 'together' in one of
        them, or 'ignore' them.
    """
    layout = listed(dir, 'dir', val_incomplete=val_incomplete, single=val_dir is not None)
    if val_dir is not None:
        other = listed(val_dir, 'val_dir', empty=True, single=True)
        if local(dir).samefile(local(val_dir)):
            raise ValueError(
                f'config.data.val_dir={val_dir!r} is config.data.dir: the training images'
            )
        for where, given in (('dir', layout), ('val_dir', other)):
            if VALIDATION in given.files:
                raise ValueError(
                    f'config.data.val_dir={val_dir!r}, but the folder of config.data.{where} has '
                    'a training and a validation set itself: give one of them'
                )
        layout = with_validation(layout, other, val_dir, val_incomplete=val_incomplete)
    if VALIDATION in layout.files:
        train, val = (_source(layout, layout.files[kind]) for kind in (TRAIN, VALIDATION))
        return train, val
    whole = _source(layout, layout.files[TRAIN])
    return held_out(whole, val_fraction, split_seed, copies, known)


def one_set(root: Path) -> Source:
    """All images of a folder of class folders, some of which may be empty."""
    layout = arrange_folder(root, empty=True, single=True)
    if VALIDATION in layout.files:
        raise ValueError(f'{root} has a training and a validation set: name the folder of one')
    return _source(layout, layout.files[TRAIN])


def listed(dir: str, field: str, **allowed: bool) -> Layout:
    """The layout of a folder that the config names; `allowed` are options of `arrange`."""
    root = local(dir)
    if not root.is_dir():
        raise ValueError(f'config.data.{field}={dir!r}: {elsewhere(root) or "no such folder"}')
    try:
        return arrange_folder(root, **allowed)
    except ValueError:
        if other := records(root):
            raise ValueError(f'config.data.{field}={dir!r}: {other}') from None
        raise


def _source(layout: Layout, files: Sequence[File]) -> Source:
    paths = np.array([os.fsencode(file.where) for file in files])
    labels = np.array([file.label for file in files], np.int32)
    names = np.array([os.fsencode(file.name) for file in files])
    source = from_files(paths, labels, layout.classes, names)
    return dataclasses.replace(source, left_out=count_left_out(layout))

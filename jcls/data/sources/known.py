"""What a run knows of its data from its beginning: the order of the classes, and who trained."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jcls.data.sources.source import Source


class Known(NamedTuple):
    """What a run knows of its data.

    Attributes:
      classes: names of the classes, in the order of the labels.
      train: names of the training images, bytes [N]; None if the run did not note them.
      val: names of the held-out images, bytes [M]; None with `train`.
    """

    classes: tuple[str, ...]
    train: np.ndarray | None = None
    val: np.ndarray | None = None


def in_order_of(source: Source, classes: tuple[str, ...]) -> Source:
    """The source with its labels in the order of `classes`, if these are the same names."""
    if source.classes == classes or sorted(source.classes) != sorted(classes):
        return source
    return source.relabelled(classes)


def differences(known: Known, train: Source, val: Source) -> tuple[list[str], list[str]]:
    """What has changed in the training and in the held-out images, in numbers, by their names.

    Nothing where a source has no names, or the run did not note them.
    """
    return _changes(known.train, train.names), _changes(known.val, val.names)


def _changes(before: np.ndarray | None, now: np.ndarray | None) -> list[str]:
    if before is None or now is None:
        return []
    changes = (('gone', np.setdiff1d(before, now)), ('new', np.setdiff1d(now, before)))
    return [f'{len(names):,} {what} ({_first(names)})' for what, names in changes if len(names)]


def _first(names: np.ndarray) -> str:
    shown = ', '.join(name.decode(errors='backslashreplace') for name in names[:3].tolist())
    return shown + (', ...' if len(names) > 3 else '')

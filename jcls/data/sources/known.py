"""What a run knows of its data from its beginning: the order of the classes, and who trained."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from jcls.data.sources.classes import composed
from jcls.data.sources.source import Source


class Known(NamedTuple):
    """What a run knows of its data.

    Attributes:
      classes: names of the classes, in the order of the labels.
      train: names of the training images, bytes [N]; None if they are not known.
      val: names of the held-out images, bytes [M]; None if they are not known.
      by_row: whether images were held out by their rows, as runs did that noted no names.
    """

    classes: tuple[str, ...]
    train: np.ndarray | None = None
    val: np.ndarray | None = None
    by_row: bool = False


def in_order_of(source: Source, classes: tuple[str, ...]) -> Source:
    """The source with its labels in the order of `classes`, if these are the same names."""
    places = {composed(name): place for place, name in enumerate(classes)}
    labels = [places.get(composed(name), -1) for name in source.classes]
    if source.classes == classes or sorted(labels) != [*range(len(classes))]:
        return source
    return source.relabelled(classes, labels)


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

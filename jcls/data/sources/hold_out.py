"""Holding images out of a set for evaluation.

An image's side is decided by a hash of its name, not by its place in a list: a file stays on its
side when others are added, removed or renamed, as far as the counts allow. A run notes the names,
and then nothing moves any more.
"""

from __future__ import annotations

import hashlib
import math
import typing

import numpy as np

from jcls.config.parts import choose
from jcls.data.sources import copies
from jcls.data.sources.known import Known
from jcls.data.sources.source import Source

COPIES = ('warn', 'together', 'ignore')

TRAINS, HELD_OUT = 0, 1  # sides


def held_out(
    source: Source, fraction: float, seed: int, copied: str, known: Known | None
) -> tuple[Source, Source]:
    """The part of a source of files that trains, and the part that is held out.

    Args:
      source: all images, with names.
      fraction: fraction of each class to hold out.
      seed: seed that decides which.
      copied: one of `COPIES`.
      known: what a run that goes on knows. A run that noted no names dealt by rows.

    Raises:
      ValueError: as `deal` does.
    """
    choose(dict.fromkeys(COPIES), copied, 'config.data.copies')
    if known is not None and known.by_row:
        rows = stratified_split(source.labels, source.classes, fraction, seed)
    else:
        names = typing.cast(np.ndarray, source.names)
        groups = None
        if copied == 'together':
            groups = copies.groups([source.name(i) for i in range(len(source))])
        rows = deal(
            names, source.labels, source.classes, fraction, seed, known=known, groups=groups
        )
    return source.select(rows[0]), source.select(rows[1])


def deal(
    names: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    fraction: float,
    seed: int,
    *,
    known: Known | None = None,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that train and those that are held out, each sorted.

    Of a class with n images, `fraction` n are held out, rounded, but at least one, and at least one
    trains.

    Args:
      names: names of the images, bytes [N].
      labels: labels, int [N].
      classes: names of the classes.
      fraction: fraction of each class to hold out, between 0 and 1.
      seed: key of the hash.
      known: the names that a run noted, which keep their sides.
      groups: group of each image, int [N]; no group is divided, and the counts are then near to
        what they should be. A group of several classes trains.

    Raises:
      ValueError: if the fraction is impossible, or a class cannot be divided.
    """
    counts = _counts(labels, classes, fraction)
    side = _known_sides(names, known)
    if groups is None:  # a list may have a name twice
        groups = np.unique(names, return_inverse=True)[1]
    _together(side, groups)
    side[_over_classes(groups, labels) & (side < 0)] = TRAINS
    hashes = hashes_of(names, seed)
    first = np.full(int(groups.max()) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(first, groups, hashes)  # copies go where the first of them goes
    order = np.lexsort((hashes, groups, first[groups], labels))
    ends = np.cumsum(counts)
    for label in np.flatnonzero(counts):
        rows = order[ends[label] - counts[label] : ends[label]]
        wanted = min(max(int(fraction * len(rows) + 0.5), 1), len(rows) - 1)
        free = rows[side[rows] < 0]
        held = int(np.count_nonzero(side[rows] == HELD_OUT))
        missing = min(max(wanted - held, 0), len(free))
        side[free] = TRAINS
        side[free[: _whole(groups[free], missing, len(rows))]] = HELD_OUT
    # A run may know members of one group on both sides.
    torn = np.intersect1d(groups[side == HELD_OUT], groups[side == TRAINS])
    side[np.isin(groups, torn)] = TRAINS
    for part, what in ((TRAINS, 'trains'), (HELD_OUT, 'is held out')):
        missing_classes = np.setdiff1d(labels, labels[side == part])
        if len(missing_classes):
            raise ValueError(
                f'of class {classes[missing_classes[0]]!r} no image {what}: too many of its '
                f'{counts[missing_classes[0]]} images are copies of each other or known to '
                'be on the other side; give the validation images yourself'
            )
    return np.flatnonzero(side == TRAINS), np.flatnonzero(side == HELD_OUT)


def _known_sides(names: np.ndarray, known: Known | None) -> np.ndarray:
    """TRAINS, HELD_OUT, or -1 if not known, of each name."""
    side = np.full(len(names), -1)
    if known is not None and known.train is not None and known.val is not None:
        side[np.isin(names, known.val)] = HELD_OUT
        side[np.isin(names, known.train)] = TRAINS
    return side


def _together(side: np.ndarray, groups: np.ndarray) -> None:
    """Put the members of a group, of which one has a side, on that side, in place."""
    unknown = TRAINS + HELD_OUT + 1
    of_group = np.full(int(groups.max()) + 1, unknown)
    np.minimum.at(of_group, groups[side >= 0], side[side >= 0])
    follows = (side < 0) & (of_group[groups] != unknown)
    side[follows] = of_group[groups[follows]]


def _over_classes(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Whether the group of each image has images of several classes, bool [N]."""
    lowest = np.full(int(groups.max()) + 1, np.iinfo(np.int64).max)
    highest = np.full(len(lowest), -1)
    np.minimum.at(lowest, groups, labels)
    np.maximum.at(highest, groups, labels)
    return (lowest != highest)[groups]


def hashes_of(names: np.ndarray, seed: int) -> np.ndarray:
    """A keyed hash of each name, uint64 [N]."""
    keyed = hashlib.blake2b(key=b'%d' % seed, digest_size=8)

    def of(name: bytes) -> bytes:
        copy = keyed.copy()
        copy.update(name)
        return copy.digest()

    return np.frombuffer(b''.join(map(of, names.tolist())), '<u8').astype(np.uint64)


def _whole(groups: np.ndarray, count: int, of: int) -> int:
    """`count`, or the nearest number that divides no group of neighbours."""
    if count in (0, len(groups)) or groups[count - 1] != groups[count]:
        return count
    same = np.flatnonzero(groups == groups[count])
    before, after = int(same[0]), int(same[-1]) + 1
    if before == 0:
        return after if after < of else before
    return before if count - before <= after - count or after >= of else after


def stratified_split(
    labels: np.ndarray, classes: tuple[str, ...], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both parts of a stratified split by the places of the examples, sorted."""
    from sklearn.model_selection import train_test_split

    counts = _counts(labels, classes, fraction)
    aside = math.ceil(fraction * len(labels))
    present = np.count_nonzero(counts)
    if not present <= aside <= len(labels) - present:
        raise ValueError(
            f'config.data.val_fraction={fraction} of {len(labels)} images sets {aside} aside, '
            f'but both parts need at least one of each of the {present} classes'
        )
    rows = train_test_split(
        np.arange(len(labels)), test_size=aside, random_state=seed, stratify=labels
    )
    for part, name in zip(rows, ('training', 'held-out'), strict=True):
        missing = np.setdiff1d(labels, labels[part])
        if len(missing):
            raise ValueError(
                f'config.data.val_fraction={fraction} leaves no {name} image of class '
                f'{classes[missing[0]]!r}, which has {counts[missing[0]]}; use another fraction, '
                'or give the validation images yourself'
            )
    return np.sort(rows[0]), np.sort(rows[1])


def _counts(labels: np.ndarray, classes: tuple[str, ...], fraction: float) -> np.ndarray:
    """The number of examples of each class; a ValueError if `fraction` of them cannot be taken."""
    if not 0 < fraction < 1:
        raise ValueError(f'config.data.val_fraction={fraction}: must lie between 0 and 1')
    counts = np.bincount(labels, minlength=len(classes))
    if (counts == 1).any():
        alone = classes[int((counts == 1).argmax())]
        raise ValueError(
            f'class {alone!r} has 1 image, too few to set one aside for evaluation; add some, or '
            'give the validation images yourself'
        )
    return counts

"""Folds and subsets by class, which decide for any source which examples train and which evaluate.

They depend on ``config.data.subset_seed``, the labels, and for folds the names where there are any,
so they are the same in every run.
"""

from __future__ import annotations

import logging

import numpy as np

from jcls.data.sampler import STREAMS, epoch_order
from jcls.data.sources import copies
from jcls.data.sources.hold_out import hashes_of
from jcls.data.sources.source import Source

logger = logging.getLogger(__name__)


def apply(
    train: Source,
    val: Source,
    *,
    folds: int,
    fold: int,
    subset: float,
    seed: int,
    by_row: bool = False,
    together: bool = False,
) -> tuple[Source, Source]:
    """The two sources after `folds` and `subset`; see `jcls.data.sources.create`.

    With folds, fold number `fold` of the training set replaces the validation set, and the others
    train. Of the examples that train, the fraction `subset` stays. Names decide the folds, where a
    source has names; with `by_row` the places of the examples do. With `together`, exact copies are
    in one fold.

    Raises:
      ValueError: for impossible values, or a source that refuses to give its labels.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f'config.data.subset_seed={seed}: must be in 0..{2**32 - 1}')
    if folds:
        labels = labels_for(train, f'folds={folds}')
        groups = copies.groups([train.name(i) for i in range(len(train))]) if together else None
        rest, part = fold_rows(labels, train, folds, fold, seed, by_row=by_row, groups=groups)
        unused = len(val)
        train, val = train.select(rest), train.select(part)
        logger.warning(
            'fold %d of %d takes the place of the validation set, whose %d images are not used',
            fold,
            folds,
            unused,
        )
    elif fold:
        raise ValueError(f'config.data.fold={fold} without config.data.folds: set both, or neither')
    if subset != 1:
        labels = labels_for(train, f'subset={subset}')
        train = train.select(subset_rows(labels, train, subset, seed))
    return train, val


def labels_for(source: Source, field: str) -> np.ndarray:
    """All labels of a source, int32 [N]; if it refuses, the error names the field that asks."""
    try:
        return source.labels
    except ValueError as error:
        raise ValueError(f'config.data.{field} needs every label at once: {error}') from error


def fold_rows(
    labels: np.ndarray,
    source: Source,
    folds: int,
    fold: int,
    seed: int,
    *,
    by_row: bool = False,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of all folds but `fold`, and of `fold`, sorted, by a shuffled stratified K-fold.

    By names, no group of `groups`, int [N], is divided; the folds are then nearly equally large.
    """
    from sklearn.model_selection import StratifiedKFold

    if folds < 2:
        raise ValueError(f'config.data.folds={folds}: at least 2, or 0 for no folds')
    if not 0 <= fold < folds:
        raise ValueError(f'config.data.fold={fold}: must be in 0..{folds - 1} (folds={folds})')
    counts = np.bincount(labels, minlength=len(source.classes))
    rarest = int(np.argmin(np.where(counts, counts, np.max(counts))))
    if counts[rarest] < folds:
        raise ValueError(
            f'config.data.folds={folds}: class {source.classes[rarest]!r} has only '
            f'{counts[rarest]} image(s), too few for one in every fold; use fewer folds'
        )
    if source.names is not None and not by_row:
        order = np.lexsort((hashes_of(source.names, seed), labels))
        place = np.empty(len(labels), np.int64)
        # Classes follow each other without a gap, so that the folds are equally large in all.
        place[order] = np.arange(len(labels)) % folds
        if groups is not None:
            first = np.empty(int(groups.max()) + 1, np.int64)
            first[groups[order[::-1]]] = order[::-1]  # of several, the last assignment stays
            place = place[first[groups]]
            for rows in (place != fold, place == fold):
                missing = np.setdiff1d(labels, labels[rows])
                if len(missing):
                    raise ValueError(
                        f'config.data.folds={folds}: all images of class '
                        f'{source.classes[missing[0]]!r} outside or in fold {fold} are copies of '
                        'those on the other side; use fewer folds'
                    )
        return np.flatnonzero(place != fold), np.flatnonzero(place == fold)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    rest, part = list(splitter.split(labels, labels))[fold]
    return np.sort(rest), np.sort(part)


def subset_rows(labels: np.ndarray, source: Source, fraction: float, seed: int) -> np.ndarray:
    """The rows of round(fraction N) examples, sorted, with each class's share to within one.

    The examples of a class come from one random order, so a larger subset contains a smaller one,
    except for rounding.
    """
    if not 0 < fraction <= 1:
        raise ValueError(f'config.data.subset={fraction}: must be above 0 and at most 1')
    counts = np.bincount(labels, minlength=len(source.classes))
    exact = fraction * counts
    quota = np.floor(exact).astype(np.int64)
    left_over = round(fraction * len(labels)) - quota.sum()
    quota[np.argsort(quota - exact, kind='stable')[: max(left_over, 0)]] += 1
    empty = np.flatnonzero((quota == 0) & (counts > 0))
    if len(empty):
        raise ValueError(
            f'config.data.subset={fraction} leaves no image of {len(empty)} class(es), such as '
            f'{source.classes[empty[0]]!r}, which has {counts[empty[0]]}; use a larger fraction'
        )
    shuffled = epoch_order(seed + 3 * STREAMS, 0, len(labels))
    by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]
    place = np.arange(len(labels)) - (np.cumsum(counts) - counts)[labels[by_class]]
    return np.sort(by_class[place < quota[labels[by_class]]])

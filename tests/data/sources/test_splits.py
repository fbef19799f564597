"""Folds, subsets and class-balanced orders: who trains, who evaluates, and how often."""

from __future__ import annotations

import collections
import itertools
from typing import Any

import numpy as np
import pytest
from scipy import stats
from sklearn.model_selection import StratifiedKFold

from jcls.data import sources
from jcls.data.sampler import balanced_order, epoch_order
from jcls.data.sources import Data
from jcls.data.sources.source import Source


def digits(**fields: Any) -> Data:
    """The digits: 1,438 for training, 359 for validation."""
    return sources.create(name='digits', **fields)


def names(found: Source) -> list[str]:
    """What the examples of a source are called."""
    return [found.name(i) for i in range(len(found))]


def test_folds_divide_the_training_set() -> None:
    """Each training example evaluates in one fold and trains in all others; classes keep shares."""
    whole = digits().train
    folds = [digits(folds=5, fold=k) for k in range(5)]
    evaluated = [name for data in folds for name in names(data.val)]
    assert sorted(evaluated) == sorted(names(whole))
    for data in folds:
        assert sorted(names(data.train) + names(data.val)) == sorted(names(whole))
        for part, share in ((data.train, 0.8), (data.val, 0.2)):
            wanted = share * np.bincount(whole.labels)
            assert np.abs(np.bincount(part.labels) - wanted).max() < 1
            labels = dict(zip(names(whole), whole.labels, strict=True))
            assert [labels[name] for name in names(part)] == part.labels.tolist()
    again, other = (digits(folds=5, fold=2, subset_seed=seed) for seed in (0, 1))
    assert names(again.val) == names(folds[2].val)
    assert names(other.val) != names(folds[2].val)


def test_folds_are_scikit_learns() -> None:
    """The rows are those of its StratifiedKFold with the seed."""
    whole, data = digits().train, digits(folds=4, fold=3, subset_seed=7)
    splitter = StratifiedKFold(4, shuffle=True, random_state=7)
    rest, part = list(splitter.split(np.zeros(len(whole)), whole.labels))[3]
    assert names(data.train) == [whole.name(int(i)) for i in rest]
    assert names(data.val) == [whole.name(int(i)) for i in part]


@pytest.mark.parametrize('fraction', [0.01, 0.1, 1 / 3, 0.999])
def test_a_subset_is_stratified(fraction: float) -> None:
    """It has round(fraction N) examples, each class its share within one; evaluation keeps all."""
    whole, data = digits(), digits(subset=fraction)
    assert len(data.train) == round(fraction * len(whole.train))
    share = fraction * np.bincount(whole.train.labels)
    assert np.abs(np.bincount(data.train.labels, minlength=10) - share).max() < 1
    assert set(names(data.train)) < set(names(whole.train))
    assert len(set(names(data.train))) == len(data.train)
    assert names(data.val) == names(whole.val)
    assert names(digits(subset=fraction).train) == names(data.train)
    assert names(digits(subset=fraction, subset_seed=1).train) != names(data.train)


def test_subsets_grow() -> None:
    """A larger subset has the images of a smaller one, but for a few of rounding."""
    chosen = [set(names(digits(subset=fraction).train)) for fraction in (0.1, 0.2, 0.7, 1.0)]
    for small, large in itertools.pairwise(chosen):
        assert len(small - large) <= 1
    assert names(digits(subset=1.0).train) == names(digits().train)


def test_a_subset_of_a_fold() -> None:
    """With both, the subset is of what trains; the whole held-out fold evaluates."""
    fold, both = digits(folds=3, fold=1), digits(folds=3, fold=1, subset=0.5)
    assert names(both.val) == names(fold.val)
    assert set(names(both.train)) < set(names(fold.train))
    assert len(both.train) == round(len(fold.train) / 2)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'folds': 1}, r'config\.data\.folds=1: at least 2, or 0 for no folds'),
        ({'folds': -3}, r'config\.data\.folds=-3: at least 2'),
        ({'folds': 5, 'fold': 5}, r'config\.data\.fold=5: must be in 0\.\.4 \(folds=5\)'),
        ({'folds': 5, 'fold': -1}, r'config\.data\.fold=-1: must be in 0\.\.4'),
        ({'fold': 1}, r'config\.data\.fold=1 without config\.data\.folds'),
        ({'folds': 140}, r"config\.data\.folds=140: class '8' has only 139 image.*fewer folds"),
        ({'subset': 0.0}, r'config\.data\.subset=0\.0: must be above 0 and at most 1'),
        ({'subset': 1.5}, r'config\.data\.subset=1\.5: must be above 0'),
        (
            {'subset': 0.004},
            r'config\.data\.subset=0\.004 leaves no image of \d class\(es\), such as',
        ),
        ({'subset_seed': -1}, r'config\.data\.subset_seed=-1: must be in 0\.\.4294967295'),
        ({'subset_seed': 2**32}, r'config\.data\.subset_seed=4294967296: must be in'),
        ({'repeats': 0}, r'config\.data\.repeats=0: at least 1'),
    ],
)
def test_impossible_splits(fields: dict[str, Any], message: str) -> None:
    """A value that cannot be is an error that names the field and what may stand there."""
    with pytest.raises(ValueError, match=message):
        digits(**fields)


def test_what_the_pipeline_is_told() -> None:
    """Balance and repetition are handed on; without a word there is neither."""
    assert (digits().balanced, digits().repeats) == (False, 1)
    data = digits(balanced=True, repeats=3)
    assert (data.balanced, data.repeats) == (True, 3)


LABELS = np.repeat([0, 2, 3, 5], [5, 60, 1, 37])  # no image of classes 1 and 4


def test_every_class_comes_equally_often() -> None:
    """Each class has N // K draws or one more, who has more changes; there are N draws."""
    more = []
    for epoch in range(60):
        drawn = balanced_order(3, epoch, LABELS)
        assert drawn.dtype == np.int64
        counts = collections.Counter(LABELS[drawn])
        assert sorted(counts.values()) == [25, 26, 26, 26]
        assert set(counts) == {0, 2, 3, 5}
        more.append(min(counts, key=lambda label: counts[label]))
    assert set(more) == {0, 2, 3, 5}
    even = balanced_order(0, 0, LABELS[:-3])
    assert set(collections.Counter(LABELS[even]).values()) == {25}


def test_images_of_a_class_come_equally_often() -> None:
    """Few images take turns, each floor or ceil of its share; many give others in each epoch."""
    seen: collections.Counter[int] = collections.Counter()
    for epoch in range(200):
        drawn = balanced_order(0, epoch, LABELS)
        times = np.bincount(drawn, minlength=len(LABELS))
        assert set(times[:5]) <= {5, 6}
        assert times[65] in (25, 26)
        assert set(times[5:65]) <= {0, 1}
        assert set(times[66:]) <= {0, 1}
        seen.update(drawn.tolist())
    for part in (range(5), range(5, 65), range(66, 103)):
        assert stats.chisquare([seen[i] for i in part]).pvalue > 1e-3


def test_balanced_orders_are_pure_and_unrelated() -> None:
    """Seed and epoch decide alone; a class is spread over the epoch, unlike in the next one."""
    labels = np.repeat(np.arange(10), np.arange(10, 110, 10))
    first = balanced_order(5, 2, labels)
    np.testing.assert_array_equal(balanced_order(5, 2, labels.astype(np.int32)), first)
    for seed, epoch in ((5, 3), (6, 2)):
        other = balanced_order(seed, epoch, labels)
        assert abs(stats.spearmanr(first, other).statistic) < 0.15
    assert abs(stats.spearmanr(labels[first], np.arange(len(labels))).statistic) < 0.15
    halves = labels[first].reshape(2, -1)
    assert np.abs(np.bincount(halves[0]) - np.bincount(halves[1])).max() < 25
    # Equal classes: a permutation, as without balance, but another one.
    equal = np.arange(100) % 4
    drawn = balanced_order(5, 2, equal)
    assert sorted(drawn) == list(range(100))
    assert not np.array_equal(drawn, epoch_order(5, 2, 100))

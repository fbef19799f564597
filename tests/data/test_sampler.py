"""Which examples a step sees: permutations, shares of processes, repeats and where they stand."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from scipy import stats

from jcls.data import augment, pipeline
from jcls.data.sampler import (
    Examples,
    ProcessShard,
    epoch_order,
    epoch_seed,
    eval_sampler,
    train_sampler,
)
from jcls.data.sources.source import from_memory


def philox(seed: int, epoch: int, count: int) -> list[int]:
    """Philox4x64-10 of Salmon et al. 2011, counting from 1."""
    outputs: list[int] = []
    for counter in range(1, -(-count // 4) + 1):
        c, key = [counter, 0, 0, 0], [seed, epoch]
        for _ in range(10):
            first, second = 0xD2E7470EE14C6C93 * c[0], 0xCA5A826395121157 * c[2]
            low = 2**64 - 1
            c = [
                second >> 64 ^ c[1] ^ key[0],
                second & low,
                first >> 64 ^ c[3] ^ key[1],
                first & low,
            ]
            key = [key[0] + 0x9E3779B97F4A7C15 & low, key[1] + 0xBB67AE8584CAA73B & low]
        outputs += c
    return outputs[:count]


@pytest.mark.parametrize(
    ('seed', 'epoch', 'examples'), [(0, 0, 1), (0, 7, 103), (2**32 - 1, 1, 50)]
)
def test_order_is_an_argsort_of_philox(seed: int, epoch: int, examples: int) -> None:
    """An epoch's order sorts the examples by their Philox numbers, written out here."""
    numbers = philox(seed, epoch, examples)
    wanted = sorted(range(examples), key=lambda i: (numbers[i], i))
    found = epoch_order(seed, epoch, examples)
    assert found.tolist() == wanted
    assert found.dtype == np.int64


def test_orders_are_unrelated() -> None:
    """Epochs and seeds are uncorrelated, and half an epoch of a sorted source has all classes."""
    places = {
        key: np.argsort(epoch_order(*key, 10_000))
        for key in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)]
    }
    for a in places:
        for b in places:
            if a < b:
                assert abs(stats.spearmanr(places[a], places[b]).statistic) < 0.05, (a, b)
    for key, place in places.items():
        assert abs(stats.spearmanr(place, np.arange(10_000)).statistic) < 0.05
        first_half = (place < 5000).reshape(10, 1000).sum(axis=1)  # of ten classes of a thousand
        assert np.abs(first_half - 500).max() < 60, key  # the standard deviation is 15


@pytest.mark.parametrize(('examples', 'size'), [(23, 5), (24, 8), (7, 7), (9, 8)])
def test_an_epoch_of_training(examples: int, size: int) -> None:
    """An epoch is floor(N / B) steps without a repetition; all examples are left out in turn."""
    sample = train_sampler(examples, 3, ProcessShard(size))
    steps, left_out = examples // size, collections.Counter()
    for epoch in range(200):
        seen = np.concatenate([pairs(sample(epoch * steps + i)) for i in range(steps)])
        assert len(set(seen[:, 0])) == steps * size
        np.testing.assert_array_equal(seen[:, 0], epoch_order(3, epoch, examples)[: len(seen)])
        assert set(seen[:, 1]) == {epoch_seed(3, epoch)}
        left_out.update(set(range(examples)) - set(seen[:, 0]))
    if examples % size:
        assert stats.chisquare([left_out[i] for i in range(examples)]).pvalue > 1e-3
    assert sum(left_out.values()) == 200 * (examples % size)
    seeds = {epoch_seed(seed, epoch) for seed in range(100) for epoch in range(100)}
    assert len(seeds) == 10_000


def pairs(examples: Examples) -> np.ndarray:
    """Index and seed of each example, int64 [b, 2]."""
    return np.stack(examples, axis=1)


def epoch_of(examples: int, size: int, epoch: int = 0, **fields: object) -> np.ndarray:
    """All batches of an epoch, int64 [steps, size, 2]: index and seed; the run's seed is 3."""
    sample, steps = train_sampler(examples, 3, ProcessShard(size), **fields), examples // size
    return np.stack([pairs(sample(epoch * steps + i)) for i in range(steps)])


REPEATED = [(103, 20, 3, 4), (100, 10, 4, 5), (64, 16, 2, 4), (96, 96, 3, 8), (50, 7, 3, 7)]
CROWDED = [(103, 12, 3, 1), (60, 30, 3, 2), (90, 14, 4, 2), (64, 16, 5, 2), (64, 32, 2, 1)]


@pytest.mark.parametrize(('examples', 'size', 'repeats', 'groups'), REPEATED + CROWDED)
def test_an_epoch_of_repeats(examples: int, size: int, repeats: int, groups: int) -> None:
    """As many batches as without; each image that appears does so `repeats` times, with a seed for
    each copy, but for one that the end cuts off; N / repeats are distinct, others each epoch."""
    seen, chosen = examples // size * size, []
    for epoch in range(300):
        rows = epoch_of(examples, size, epoch, repeats=repeats, groups=groups)
        seeds = [epoch_seed(3, epoch, copy) for copy in range(repeats)]
        copies = collections.defaultdict(list)
        for index, seed in rows.reshape(-1, 2).tolist():
            copies[index].append(seed)
        cut_off = [index for index, found in copies.items() if set(found) != set(seeds)]
        assert len(cut_off) == (seen % repeats > 0)
        assert all(set(copies[i]) == set(seeds[: seen % repeats]) for i in cut_off)
        assert all(len(found) == len(set(found)) for found in copies.values())
        assert len(copies) == -(-seen // repeats)
        chosen.append(set(copies))
    assert len(set(map(frozenset, chosen))) > 290
    times = collections.Counter(i for indices in chosen for i in indices)
    assert stats.chisquare([times[i] for i in range(examples)]).pvalue > 1e-3


@pytest.mark.parametrize(('examples', 'size', 'repeats', 'groups'), REPEATED)
def test_copies_stand_in_different_groups(
    examples: int, size: int, repeats: int, groups: int
) -> None:
    """With at least as many groups as copies no group of a batch has an image twice."""
    for batch in epoch_of(examples, size, repeats=repeats, groups=groups):
        for group in batch[:, 0].reshape(groups, -1):
            assert len(set(group)) == len(group)
        whole = batch[:, 0]
        assert len(set(whole)) <= -(-size // repeats) + 1  # they do stand in the same batch


@pytest.mark.parametrize(('examples', 'size', 'repeats', 'groups'), CROWDED)
def test_copies_in_one_group_are_not_mixed_with_each_other(
    examples: int, size: int, repeats: int, groups: int
) -> None:
    """With fewer groups than copies these are spread evenly, and no image stands next to its copy
    (first and last included), which Mixup and CutMix would make its partner."""
    for epoch in range(20):
        for batch in epoch_of(examples, size, epoch, repeats=repeats, groups=groups):
            for group in batch[:, 0].reshape(groups, -1):
                assert (group != np.roll(group, 1)).all()
                most = max(collections.Counter(group.tolist()).values())
                assert most <= -(-repeats // groups)


@pytest.mark.parametrize('groups', [1, 2, 5, 10])
def test_groups_are_dealt_from_the_order(groups: int) -> None:
    """Without repeats the seeds are the epoch's, whatever the groups; group g has every example
    g, g + groups, ... of the batch."""
    plain = epoch_of(53, 10)
    np.testing.assert_array_equal(plain[..., 0].ravel(), epoch_order(3, 0, 53)[:50])
    dealt = epoch_of(53, 10, groups=groups)
    np.testing.assert_array_equal(dealt, epoch_of(53, 10, groups=groups, repeats=1))
    assert (dealt[..., 1] == epoch_seed(3, 0)).all()
    for g, group in enumerate(dealt.reshape(5, groups, -1, 2).swapaxes(0, 1)):
        np.testing.assert_array_equal(group, plain[:, g::groups])


def test_seeds() -> None:
    """The seed of a first copy depends on the run's and the epoch alone; all seeds differ."""
    plain = np.random.SeedSequence((9, 4)).generate_state(1, np.uint64).view(np.int64)
    assert epoch_seed(9, 4) == epoch_seed(9, 4, 0) == plain[0]
    keys = [(s, e, c) for s in (0, 1, 7, 2**32 - 1) for e in range(100) for c in range(10)]
    assert len({epoch_seed(*key) for key in keys}) == len(keys)


@pytest.mark.parametrize(('repeats', 'groups'), [(1, 4), (3, 4), (3, 1)])
@pytest.mark.parametrize('balanced', [False, True])
def test_shares_and_starts(repeats: int, groups: int, balanced: bool) -> None:
    """The rows of 2 or 4 processes, joined, are those of one, at any step asked for in any
    order."""
    labels = np.arange(43) ** 2 // 300 if balanced else None
    fields = {'labels': labels, 'repeats': repeats, 'groups': groups}
    whole = train_sampler(43, 3, ProcessShard(8), **fields)
    for processes in (2, 4):
        shards = [
            train_sampler(43, 3, ProcessShard(8, p, processes), **fields) for p in range(processes)
        ]
        for step in (17, 3, 4, 5, 0, 1000):
            joined = np.concatenate([pairs(sample(step)) for sample in shards])
            np.testing.assert_array_equal(joined, pairs(whole(step)))
            again = train_sampler(43, 3, ProcessShard(8), **fields)
            np.testing.assert_array_equal(pairs(again(step)), joined)
            assert joined.dtype == np.int64


@pytest.mark.parametrize('repeats', [1, 2])
def test_who_is_drawn_again_is_augmented_anew(repeats: int) -> None:
    """No two rows of an epoch agree in image and seed, also where few images of a class are drawn
    over and over to be as frequent as the others; the pixels of all differ."""
    labels = np.repeat([0, 1, 2], [2, 20, 26])
    rows = epoch_of(48, 8, labels=labels, repeats=repeats).reshape(-1, 2)
    assert len({tuple(row) for row in rows.tolist()}) == 48
    of_the_few = rows[np.isin(rows[:, 0], [0, 1])]
    assert len(of_the_few) > 8
    counts = collections.Counter(rows[:, 0].tolist())
    for index, count in counts.items():
        seeds = {epoch_seed(3, 0, copy) for copy in range(count)}
        assert set(rows[rows[:, 0] == index, 1]) == seeds
    images = np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), np.uint8)
    source = from_memory(images, labels, ('a', 'b', 'c'), 'noise')
    batches = pipeline.batches(
        source, augment.compose(({'name': 'random_resized_crop', 'size': 8},), 'augment'),
        train_sampler(48, 3, ProcessShard(8), labels=labels, repeats=repeats), 0, 6,
        mean=(0.5, 0.5, 0.5), damage=pipeline.Damage(),
    )  # fmt: skip
    assert len({image.tobytes() for batch in batches for image in batch['image']}) == 48


@pytest.mark.parametrize('examples', [1, 4, 10, 12])
@pytest.mark.parametrize(('size', 'processes'), [(4, 1), (4, 2), (1, 1), (16, 4)])
def test_evaluation_rows(examples: int, size: int, processes: int) -> None:
    """Every example stands in exactly one row of one process; the other rows are padding."""
    order = np.random.default_rng(0).permutation(examples) + 5
    seen = []
    for process in range(processes):
        sample, steps = eval_sampler(order, ProcessShard(size, process, processes))
        assert steps == -(-examples // size)
        seen.append(np.stack([pairs(sample(step)) for step in range(steps)]))
    index = np.concatenate(seen, axis=1)[..., 0].ravel()
    np.testing.assert_array_equal(index[:examples], order)
    assert (index[examples:] == -1).all()

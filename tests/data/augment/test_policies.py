"""Policies draw what torchvision's and timm's draw, with their values, as often as they do."""

from __future__ import annotations

import collections
import itertools
import json
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

from helpers import golden_path
from helpers.pictures import ALPHA, collect, composed, p_of_share, photographs, rng
from helpers.pictures import pillow_geometry as moved
from helpers.pictures import pillow_level as levelled
from helpers.pictures import pixel_difference as difference
from jcls.data import augment
from jcls.data.augment import policies, policy_ops
from jcls.data.augment.autoaugment import auto_augment
from jcls.data.augment.operation import Operation, Rng
from jcls.data.augment.policies import TORCHVISION, rand_augment, rand_augment_timm, trivial_augment
from jcls.data.augment.policy_ops import GEOMETRIC, NAMES
from jcls.host.tensorflow import tf

GOLDEN = json.loads(golden_path('policies.json').read_text())
SIZES = tuple(GOLDEN['rand_augment'])
Outcome = tuple[tuple[str, float], ...]  # the operations and their values, in order


def drawn(operation: Operation, size: str, count: int) -> Any:
    """What an operation, made under `recorded`, draws: (which, value, cubic), each [count, n]."""
    image = tf.zeros([*map(int, size.split('x')), 3], tf.uint8)
    found = collect(lambda d: operation.apply(image, d), count)
    return found[..., 0].astype(int), found[..., 1], found[..., 2].astype(bool)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies return their steps, float32 [n, 3], in place of the image."""

    def steps(image: Any, steps: Any, fill: Any, kind: str) -> Any:
        del image, fill, kind
        return tf.stack([tf.cast(part, tf.float32) for part in steps], axis=-1)

    monkeypatch.setattr(policy_ops, 'transform', steps)


def outcomes(which: np.ndarray, value: np.ndarray) -> collections.Counter[Outcome]:
    """How often each list of operations was drawn; a value counts only where it has a meaning."""
    names = list(NAMES)
    rows = (
        tuple(key(names[w], float(v)) for w, v in zip(*row, strict=True))
        for row in zip(which, value, strict=True)
    )
    return collections.Counter(rows)


def key(name: str, value: float) -> tuple[str, float]:
    """An operation as an outcome's part."""
    return name, 0.0 if NAMES[name] == 'unused' else round(value, 3) + 0.0


def assert_distributed(found: collections.Counter[Outcome], chances: dict[Outcome, float]) -> None:
    """Nothing was drawn that has no chance, and the rest as often as it should be."""
    assert set(found) <= {outcome for outcome, chance in chances.items() if chance}
    assert sum(chances.values()) == pytest.approx(1)
    total = found.total()
    rare = [outcome for outcome, chance in chances.items() if chance * total < 8]
    cells = [
        [found[outcome], chance * total]
        for outcome, chance in chances.items()
        if outcome not in rare
    ]
    if rare:
        together = [sum(found[o] for o in rare), sum(chances[o] for o in rare) * total]
        cells.append(together)
    seen, expected = np.array([cell for cell in cells if cell[1]]).T
    assert stats.chisquare(seen, expected).pvalue > ALPHA


def chances_of(pairs: dict[str, list[list[float]]]) -> dict[Outcome, float]:
    """Each operation, each of its bins and each sign equally likely."""
    chances: dict[Outcome, float] = collections.defaultdict(float)
    for name, bins in pairs.items():
        for value in itertools.chain(*bins):
            chances[(key(name, value),)] += 1 / len(pairs) / len(bins) / 2
    return chances


def repeated(chances: dict[Outcome, float], times: int) -> dict[Outcome, float]:
    """`times` independent draws in a row."""
    product: dict[Outcome, float] = collections.defaultdict(float)
    for row in itertools.product(chances.items(), repeat=times):
        outcome = tuple(itertools.chain(*(outcome for outcome, _ in row)))
        product[outcome] += float(np.prod([chance for _, chance in row]))
    return product


def assert_values(values: np.ndarray, pairs: dict[str, list[list[float]]]) -> None:
    """`values` of a `policies.space` are the golden ones, for each sign."""
    for name, golden in pairs.items():
        found = values[:, TORCHVISION.index(name)].T[: len(golden)]
        np.testing.assert_allclose(found, golden, atol=2e-7, rtol=0, err_msg=name)


def test_tables_are_torchvisions() -> None:
    """Every value of every bin and sign is what torchvision hands to Pillow."""
    wide = policies.space(31, shear=0.99, translate=(32, 32), rotate=135, blend=0.99, bits=6)
    assert_values(wide, GOLDEN['trivial_augment'])
    for size, pairs in GOLDEN['rand_augment'].items():
        assert_values(policies.searched_space(*map(int, size.split('x')), 31), pairs)


@pytest.mark.usefixtures('recorded')
@pytest.mark.parametrize('size', SIZES)
def test_trivial_augment(size: str) -> None:
    """Operation, bin and sign are uniform and independent; nothing depends on the size."""
    which, value, cubic = drawn(trivial_augment(), size, 20_000)
    assert which.shape == (20_000, 1)
    assert_distributed(outcomes(which, value), chances_of(GOLDEN['trivial_augment']))
    counts = np.bincount(which[:, 0], minlength=len(NAMES))
    assert stats.chisquare(counts[counts > 0]).pvalue > ALPHA
    turned = value[which == policy_ops.INDEX['rotate']]
    bins = np.round(np.abs(turned) / 4.5).astype(int)
    assert stats.chisquare(np.bincount(bins, minlength=31)).pvalue > ALPHA
    neutral = np.isin(which, [policy_ops.INDEX[name] for name in policies.BLENDS]).astype(float)
    signed = np.isin(which, [policy_ops.INDEX[name] for name in policies.SIGNED])
    towards = (value > neutral)[signed & (value != neutral)]
    assert p_of_share(int(towards.sum()), towards.size, 0.5) > ALPHA
    assert p_of_share(int(cubic.sum()), cubic.size, 0.5) > ALPHA


@pytest.mark.usefixtures('recorded')
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('magnitude', [0, 5, 9, 15, 30])
def test_rand_augment(size: str, magnitude: int) -> None:
    """Two of 14 operations with replacement, all of this magnitude, signs on their own."""
    pairs = {
        name: bins[magnitude : magnitude + 1] if len(bins) > 1 else bins
        for name, bins in GOLDEN['rand_augment'][size].items()
    }
    which, value, _ = drawn(rand_augment(magnitude=magnitude), size, 8000)
    assert_distributed(outcomes(which, value), repeated(chances_of(pairs), 2))


@pytest.mark.usefixtures('recorded')
def test_rand_augment_repeats() -> None:
    """`num_ops` operations are drawn; `bins` says what a magnitude is a part of."""
    which, value, _ = drawn(rand_augment(num_ops=3, magnitude=6, bins=7), '33x331', 3000)
    assert which.shape == (3000, 3)
    assert np.unique(np.abs(value[which == policy_ops.INDEX['rotate']])) == pytest.approx([30])


@pytest.mark.usefixtures('recorded')
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('level', range(11))
def test_rand_augment_timm_levels(size: str, level: int) -> None:
    """Without noise every value is timm's, at each whole level, posterizing to 0 bits included."""
    pairs = {
        name: rows[level : level + 1] for name, rows in GOLDEN['rand_augment_timm'][size].items()
    }
    operation = rand_augment_timm(magnitude=float(level), magnitude_std=0.0, probability=1.0)
    which, value, _ = drawn(operation, size, 1500)
    chances = chances_of(pairs)
    found = outcomes(which.reshape(-1, 1), value.reshape(-1, 1))
    assert_distributed(found, chances)
    assert set(found) == set(chances)


@pytest.mark.usefixtures('recorded')
def test_rand_augment_timm_noise() -> None:
    """Half of the operations are applied; levels are N(9, 0.5), clipped at 10, each on its own."""
    which, value, cubic = drawn(rand_augment_timm(), '33x331', 30_000)
    applied = which != policy_ops.INDEX['identity']
    both = collections.Counter(map(tuple, applied.tolist()))
    pairs = itertools.product((False, True), repeat=2)
    assert stats.chisquare([both[pair] for pair in pairs]).pvalue > ALPHA
    counts = np.bincount(which[applied], minlength=len(NAMES))[1:]
    assert len(counts) == 15
    assert stats.chisquare(counts).pvalue > ALPHA
    assert p_of_share(int(cubic.sum()), cubic.size, 0.5) > ALPHA
    levels = []
    for name, full in (('rotate', 3), ('shear_x', 0.03), ('translate_x', 0.045 * 331)):
        found = value[which == policy_ops.INDEX[name]] / full
        assert p_of_share(int((found > 0).sum()), found.size, 0.5) > ALPHA
        levels.append(np.abs(found))
    level = np.concatenate(levels)
    assert level.max() == pytest.approx(10)
    clipped = level > 10 - 1e-4
    assert p_of_share(int(clipped.sum()), level.size, stats.norm(9, 0.5).sf(10)) > ALPHA
    below = stats.truncnorm(-np.inf, 2, 9, 0.5)
    assert stats.kstest(level[~clipped], below.cdf).pvalue > ALPHA
    both_rotate = (which == policy_ops.INDEX['rotate']).all(axis=1)
    pair = np.abs(value[both_rotate])
    assert (pair[:, 0] != pair[:, 1]).mean() > 0.9


def golden_policy(policy: str, size: str) -> dict[Outcome, float]:
    """The chance of each outcome of AutoAugment."""
    chances: dict[Outcome, float] = collections.defaultdict(float)
    for sub_policy in GOLDEN['auto_augment'][policy][size]:
        options = [
            [(('identity', 0.0), 1 - share), *((key(name, value), share / 2) for value in pair)]
            for name, share, pair in sub_policy
        ]
        for (first, p), (second, q) in itertools.product(*options):
            chances[first, second] += p * q / 25
    return chances


@pytest.mark.usefixtures('recorded')
@pytest.mark.parametrize('size', SIZES)
@pytest.mark.parametrize('policy', ['imagenet', 'cifar'])
def test_auto_augment(policy: str, size: str) -> None:
    """Sub-policies, their operations' probabilities, magnitudes and signs are torchvision's."""
    which, value, _ = drawn(auto_augment(policy=policy), size, 30_000)
    assert_distributed(outcomes(which, value), golden_policy(policy, size))


FIELDS: dict[str, dict[str, Any]] = {
    'trivial_augment': {},
    'rand_augment': {'num_ops': 2, 'magnitude': 20},
    'rand_augment_timm': {},
    'auto_augment': {},
}


@pytest.mark.parametrize('channels', [3, 1])
@pytest.mark.parametrize('name', FIELDS)
def test_images_are_pillows(monkeypatch: pytest.MonkeyPatch, name: str, channels: int) -> None:
    """What a policy makes of a photograph is what Pillow makes of it by the same steps.

    With nearest interpolation, which is exact: of values a level apart posterizing makes others.
    """
    fields = {**FIELDS[name], 'interpolation': 'nearest', 'fill': 90}
    tensors = [tf.constant(image[..., :channels]) for image in photographs(97, 120)]
    real = composed(name, **fields)
    images = [real.apply(tensors[i % len(tensors)], rng(i)).numpy() for i in range(40)]

    def steps(image: Any, steps: Any, fill: Any, kind: str) -> Any:
        del image, fill, kind
        return [tf.cast(part, 'float32') for part in steps]

    monkeypatch.setattr(policy_ops, 'transform', steps)
    spy = augment.OPERATIONS[name](**fields)
    seen = collections.Counter()
    for i, found in enumerate(images):
        wanted = Image.fromarray(tensors[i % len(tensors)].numpy().squeeze())
        which, values, _ = (part.numpy() for part in spy.apply(tensors[i % len(tensors)], rng(i)))
        for number, value in zip(which, values, strict=True):
            operation = list(NAMES)[int(number)]
            seen[operation] += 1
            if operation in GEOMETRIC:
                fill = (90,) * 3 if channels == 3 else 90
                wanted = moved(operation, wanted, float(value), fields['interpolation'], fill)
            else:
                wanted = levelled(operation, wanted, float(value))
        assert (difference(found, wanted) > 2).mean() <= 0.005, (i, which, values)
    assert len(seen) > 5


@pytest.mark.parametrize('name', FIELDS)
def test_fill_and_interpolation(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The colour of what is left empty and the interpolation are the fields'."""
    kinds = []

    def colour(image: Any, steps: Any, fill: Any, kind: str) -> Any:
        del image, steps
        kinds.append(kind)
        return fill

    monkeypatch.setattr(policy_ops, 'transform', colour)
    image = tf.zeros([8, 8, 3], tf.uint8)
    fills = {(1, 2, 3): [1, 2, 3], 7: [7, 7, 7], 'mean': [5, 6, 4]}
    for kind, (fill, wanted) in zip(('nearest', 'bicubic', 'random'), fills.items(), strict=True):
        operation = augment.OPERATIONS[name](fill=fill, interpolation=kind)
        found = operation.apply(image, rng(0)._replace(mean=(5, 6, 4)))
        assert found.numpy().tolist() == wanted
    assert kinds == ['nearest', 'bicubic', 'random']


@pytest.mark.usefixtures('recorded')
def test_draws_are_independent() -> None:
    """Two policies in a list, two examples and two epochs draw on their own."""
    image = tf.zeros([8, 8, 3], tf.uint8)
    first, second = (trivial_augment() for _ in range(2))

    def both(d: Rng) -> Any:
        key = tf.add(d.key, [0, 1])  # as `augment.compose` gives it
        steps = first.apply(image, d), second.apply(image, d._replace(key=key))
        return tf.stack([step[0, 0] for step in steps])

    here = collect(both, 6000).astype(int)
    other_epoch = collect(lambda d: both(d._replace(key=tf.add(d.key, [1, 0]))), 6000).astype(int)
    for a, b in (
        (here[:, 0], here[:, 1]),
        (here[:-1, 0], here[1:, 0]),
        (here[:, 0], other_epoch[:, 0]),
    ):
        table = np.zeros((len(NAMES), len(NAMES)))
        np.add.at(table, (a, b), 1)
        used = table.sum(axis=0) > 0
        assert used.sum() == 14
        assert stats.chi2_contingency(table[used][:, used]).pvalue > ALPHA

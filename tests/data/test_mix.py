"""Mixup and CutMix: the peers' numbers, the distributions, and the same draws everywhere."""

from __future__ import annotations

import shutil
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import stats

import jcls
from helpers import Golden
from helpers.runs import TINY, assert_same_run, crashing, lines
from jcls.config import horizon
from jcls.data import augment, mix, pipeline, sources
from jcls.data.mix import Mix
from jcls.data.pipeline import Batch, Damage
from jcls.data.sampler import ProcessShard, train_sampler
from jcls.data.sources.source import Source, from_memory
from jcls.host.tensorflow import tf
from jcls.training import loop, losses, step
from jcls.training.experiment import Experiment

HORIZON = horizon.create_horizon('12 epochs', 8, 80)  # ten steps an epoch
BOTH = {'mixup': 0.2, 'cutmix': 1.0}
CENTRAL = ({'name': 'center_crop', 'size': 12},)
RANDOM = ({'name': 'random_resized_crop', 'size': 8}, {'name': 'flip'})
EIGHT = ProcessShard(8)


def create(examples: int, seed: int = 0, **fields: Any) -> Mix:
    found = mix.create(examples, seed, HORIZON.steps, **fields)
    assert found is not None
    return found


def draw(mix: Mix, steps: int, height: int = 8, width: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """lam [steps, groups, n] and box [steps, groups, n, 4]."""
    drawn = [
        [mix.draw(step, group, height, width) for group in range(mix.groups)]
        for step in range(steps)
    ]
    lam, box = (np.array([[d[key] for d in row] for row in drawn]) for key in ('lam', 'box'))
    return lam, box


def given(
    monkeypatch: pytest.MonkeyPatch, mix: Mix, height: int, width: int, *,
    lam: Any, cut: Any = False, centre: Any = (0, 0),
) -> dict[str, np.ndarray]:  # fmt: skip
    """What `mix` draws if its random numbers are those of these draws, where lam = 1 is unmixed.

    `mix` has alphas of 1, where lam is the uniform number itself, and a switch and a probability of
    one half.
    """
    lam = np.atleast_1d(lam).astype(float)
    row, column = np.broadcast_to(centre, (len(lam), 2)).T
    parts = (
        np.where(cut, 0.25, 0.75),
        np.where(lam < 1, 0.25, 0.75),
        np.where(lam < 1, lam, 0),
        (column + 0.5) / width,
        (row + 0.5) / height,
    )
    uniform = np.zeros((5, mix.size))
    uniform[:, : len(lam)] = np.broadcast_arrays(*parts)
    words = (uniform * 2**53).astype(np.uint64) << np.uint64(11)
    with monkeypatch.context() as patch:
        generator = types.SimpleNamespace(random_raw=lambda count: words.reshape(count))
        patch.setattr(np.random, 'Philox', lambda **_: generator)
        return mix.draw(0, 0, height, width)


def half(examples: int, **fields: Any) -> Mix:
    return create(examples, mixup=1.0, cutmix=1.0, probability=0.5, **fields)


def applied(mix: Mix, drawn: dict[str, np.ndarray], **batch: np.ndarray) -> Batch:
    """The compiled program on NumPy arrays; mask is 1 unless given."""
    labels = batch['label'].astype(np.int32)
    batch = {'mask': np.ones(len(labels), np.float32), **batch, 'label': labels}
    given = [{k: tf.constant(v) for k, v in part.items()} for part in (batch, drawn)]
    return {key: value.numpy() for key, value in mix.program(*given).items()}


def in_numpy(batch: Batch, drawn: dict[str, np.ndarray], partner: np.ndarray) -> Batch:
    """A group, mixed example by example in float64; the images are not rounded."""
    image, label2 = batch['image'].astype(float), batch['label'].copy()
    lam = np.ones(len(image), np.float32)
    for i, j in enumerate(partner):
        if batch['mask'][i] and batch['mask'][j]:
            top, left, bottom, right = drawn['box'][i]
            if bottom > top:
                image[i, top:bottom, left:right] = batch['image'][j, top:bottom, left:right]
            else:
                share = float(drawn['lam'][i])
                image[i] = share * batch['image'][i] + (1 - share) * batch['image'][j]
            lam[i], label2[i] = drawn['lam'][i], batch['label'][j]
    return {**batch, 'image': image, 'label2': label2, 'lam': lam}


def assert_rounded(found: np.ndarray, exact: np.ndarray) -> None:
    """uint8, to the nearest; where that is within 1e-4 of a half, either."""
    assert found.dtype == np.uint8
    assert np.abs(found - exact.astype(float)).max() <= 0.5 + 1e-4


def soft(batch: Batch, classes: int = 5) -> np.ndarray:
    """The targets of a batch, as the train step has them."""
    kept = {key: jnp.asarray(batch[key]) for key in ('label', 'label2', 'lam')}
    return np.asarray(step.targets(kept, jnp.zeros((len(batch['lam']), classes))))


def test_boxes_are_torchvision_s(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given lambda and centre, box and corrected lambda are those of torchvision's CutMix, for
    images of all shapes; those of timm 1.0.31 have at most one more row and one more column."""
    data = golden('mix.npz')
    own = half(2)
    for i, (height, width, lam, row, column) in enumerate(data['boxes_in'].tolist()):
        drawn = given(
            monkeypatch, own, int(height), int(width), lam=lam, cut=True, centre=(row, column)
        )
        np.testing.assert_array_equal(drawn['box'], data['tv_boxes'][[i, i]])
        np.testing.assert_array_equal(drawn['lam'], data['tv_lam'][[i, i]].astype(np.float32))
        assert (drawn['lam'].dtype, drawn['box'].dtype) == (np.float32, np.int32)
    more = data['timm_boxes'] - data['tv_boxes']
    assert not more[:, :2].any()
    assert set(more[:, 2:].ravel()) == {0, 1}


def test_images_are_torchvision_s(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images, rounded, and targets are those of torchvision's MixUp and CutMix."""
    data = golden('mix.npz')
    images, labels = data['images'], data['labels']
    own = half(6)
    for i, lam in enumerate(data['tv_mixup_lam']):
        found = applied(
            own, given(monkeypatch, own, 8, 12, lam=lam), image=images, label=labels
        )  # fmt: skip
        assert_rounded(found['image'], data['tv_mixup_images'][i])
        np.testing.assert_allclose(soft(found), data['tv_mixup_targets'][i], atol=1e-7)
        assert (found['label2'].dtype, found['lam'].dtype) == (np.int32, np.float32)
    for i, (lam, *centre) in enumerate(data['tv_cutmix_in'].tolist()):
        drawn = given(monkeypatch, own, 8, 12, lam=lam, cut=True, centre=centre)
        found = applied(own, drawn, image=images, label=labels)
        np.testing.assert_array_equal(found['image'], data['tv_cutmix_images'][i])
        np.testing.assert_allclose(soft(found), data['tv_cutmix_targets'][i], atol=1e-7)


@pytest.mark.parametrize('mode', mix.MODES)
def test_images_are_timm_s(mode: str, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images and targets, with and without smoothing, are those of timm's FastCollateMixup in each
    mode, mixed and unmixed examples, Mixup and CutMix in one group."""
    data = golden('mix.npz')
    keys = ('lam', 'cut', 'centre', 'images', 'targets', 'smooth_targets')
    drawn_by_timm = (data[f'timm_{mode}_{key}'] for key in keys)
    own = half(6, mode=mode, partner='flip')
    for lam, cut, centre, images, targets, smoothed in zip(*drawn_by_timm, strict=True):
        drawn = given(monkeypatch, own, 8, 12, lam=lam, cut=cut, centre=centre)
        found = applied(own, drawn, image=data['images'], label=data['labels'])
        batch = {'image': data['images'], 'label': data['labels'], 'mask': np.ones(6)}
        exact = in_numpy(batch, drawn, np.arange(6)[::-1])['image']
        assert_rounded(found['image'], exact)
        tie = np.abs(exact % 1 - 0.5) < 1e-4
        assert tie.mean() < 0.01
        np.testing.assert_array_equal(found['image'][~tie], images[~tie])
        np.testing.assert_allclose(soft(found), targets, atol=1e-7)
        smooth = losses.smooth(jnp.asarray(soft(found)), 0.1)
        np.testing.assert_allclose(np.asarray(smooth), smoothed, atol=1e-7)


def test_the_loss_is_torch_s(golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cross-entropy of a mixed target, with and without smoothing, is CrossEntropyLoss's."""
    data = golden('mix.npz')
    own = half(6)
    drawn = given(monkeypatch, own, 8, 12, lam=data['tv_mixup_lam'][0])
    targets = soft(applied(own, drawn, image=data['images'], label=data['labels']))
    for amount, wanted in zip((0.0, 0.1), data['cross_entropy'], strict=True):
        loss = losses.create(label_smoothing=amount)(jnp.asarray(data['logits']), targets)
        assert float(loss.mean()) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize('alpha', [0.1, 0.2, 0.8, 1.0])
def test_lambda_is_beta_distributed(alpha: float) -> None:
    """Mixup's lambda is Beta(alpha, alpha), and CutMix's alpha has nothing to do with it."""
    for fields in ({}, {'cutmix': 3.0, 'switch': 0.0}):
        own = create(4000, mixup=alpha, mode='elem', **fields)
        lam = own.draw(3, 0, 8, 8)['lam']
        # Not near 1, where float32 is coarser than a small alpha's distribution.
        at = stats.beta.ppf(np.linspace(0.01, 0.99, 99), alpha, alpha)
        at = at[at < 0.999]
        distance = np.abs((lam[:, None] <= at).mean(0) - stats.beta.cdf(at, alpha, alpha)).max()
        assert stats.kstwo.sf(distance, len(lam)) > 1e-3
        near_one = stats.beta.sf(0.999, alpha, alpha)
        assert stats.binomtest(int((lam > 0.999).sum()), 4000, near_one).pvalue > 1e-3
        assert ((lam >= 0) & (lam <= 1)).all()


@pytest.mark.parametrize('alpha', [0.2, 1.0])
def test_boxes_are_distributed_as_torchvision_s(alpha: float, golden: Golden) -> None:
    """Every edge and the area of 4000 boxes against 4000 that torchvision drew by itself; Mixup's
    alpha has nothing to do with them (the error that torchvision's references once had, #8440)."""
    theirs = golden('mix.npz')[f'cutmix_{alpha}'].astype(int)
    for fields in ({}, {'mixup': 9.0, 'switch': 1.0}):
        drawn = create(4000, 1, cutmix=alpha, mode='elem', **fields).draw(0, 0, 96, 64)
        ours = drawn['box']
        # Where a box is empty torchvision keeps its place, and we do not.
        empty = [((b[:, 2] <= b[:, 0]) | (b[:, 3] <= b[:, 1])) for b in (ours, theirs)]
        assert abs(empty[0].mean() - empty[1].mean()) < 0.05
        a, b = ours[~empty[0]], theirs[~empty[1]]
        for edge in range(4):
            assert stats.ks_2samp(a[:, edge], b[:, edge]).pvalue > 1e-3
        areas = [np.prod(box[:, 2:] - box[:, :2], axis=1) / (96 * 64) for box in (a, b)]
        assert stats.ks_2samp(*areas).pvalue > 1e-3
        np.testing.assert_allclose(drawn['lam'][~empty[0]], 1 - areas[0], atol=1e-6)


def test_centres_are_uniform() -> None:
    """Of small boxes in a huge image, where none is clipped; row and column are independent."""
    drawn = create(20_000, cutmix=0.02, mode='elem').draw(0, 0, 10**6, 10**6)
    box = drawn['box'].astype(float)
    sides = box[:, 2:] - box[:, :2]
    box = box[((sides > 0) & (sides < 1000)).all(1)]
    row, column = (box[:, 0] + box[:, 2]) / 2e6, (box[:, 1] + box[:, 3]) / 2e6
    assert len(row) > 1000
    for centre in (row, column):
        assert stats.kstest(centre, 'uniform').pvalue > 1e-3
    assert stats.spearmanr(row, column).pvalue > 1e-3


@pytest.mark.parametrize(('switch', 'mode'), [(0.5, 'batch'), (0.25, 'batch'), (0.8, 'elem')])
def test_the_switch_chooses(switch: float, mode: str) -> None:
    """`switch` is the probability of CutMix; `batch` has one kind a group, `elem` both."""
    own = create(16, **BOTH, switch=switch, mode=mode, batch_size=2)
    _, box = draw(own, 500, 4096, 4096)
    cut = (box[..., 2] > box[..., 0])[..., :1] if mode == 'batch' else box[..., 2] > box[..., 0]
    assert stats.binomtest(int(cut.sum()), cut.size, switch).pvalue > 1e-3
    whole = (box == box[:, :, :1]).all(axis=(2, 3))
    assert whole.all() if mode == 'batch' else not whole.all()


@pytest.mark.parametrize('mode', mix.MODES)
def test_the_probability_of_mixing_at_all(mode: str) -> None:
    """The others have lambda 1 and an empty box; 0 and 1 mean never and always."""
    for fields in ({'mixup': 1.0}, {'cutmix': 1.0}, {'mixup': 1.0, 'cutmix': 1.0}):
        for probability in (0.0, 0.3, 1.0):
            own = create(8, **fields, probability=probability, mode=mode, partner='flip')
            lam, box = draw(own, 500, 4096, 4096)
            off = lam == 1
            assert not box[off].any()
            free = {'batch': 1, 'pair': 4, 'elem': 8}[mode]
            count = int((~off[..., :free]).sum())
            assert stats.binomtest(count, 500 * free, probability).pvalue > 1e-3


def test_eight_groups_have_eight_draws() -> None:
    """A batch of 8 x 128 has, as in torchvision on eight devices, one draw a group and no two the
    same; groups and consecutive steps are uncorrelated, and so are other seeds."""
    own = create(1024, mixup=1.0, batch_size=128)
    assert own.groups == 8
    lam, _ = draw(own, 3)
    assert (lam == lam[..., :1]).all()
    assert len(set(lam[..., 0].ravel())) == 24
    lam = draw(create(16, mixup=1.0, batch_size=2), 1001)[0][..., 0]
    other = draw(create(16, 1, mixup=1.0, batch_size=2), 1000)[0][..., 0]
    related = np.corrcoef(np.hstack([lam[:-1], lam[1:], other]).T)
    assert related.shape == (24, 24)
    assert np.abs(related - np.eye(24))[:8].max() < 0.13  # the standard deviation is 0.03
    assert len(set(lam.ravel())) > 0.999 * lam.size
    kinds = draw(create(16, **BOTH, batch_size=2), 1000, 4096, 4096)[1][..., 0, 2] > 0
    assert np.abs(np.corrcoef(kinds.T) - np.eye(8)).max() < 0.13


def test_modes_share_draws() -> None:
    """`pair`: an image and its partner have one draw; `elem`: each its own, uncorrelated."""
    for fields in ({'mixup': 1.0}, {'cutmix': 1.0}):
        lam, box = draw(create(8, **fields, mode='pair', partner='flip'), 300, 512, 512)
        np.testing.assert_array_equal(lam, lam[..., ::-1])
        np.testing.assert_array_equal(box, box[..., ::-1, :])
        assert len(set(lam[0, 0])) == 4
        for partner in mix.PARTNERS:
            lam, _ = draw(create(8, **fields, mode='elem', partner=partner), 300, 512, 512)
            assert len(set(lam[0, 0])) == 8
            assert np.abs(np.corrcoef(lam[:, 0].T) - np.eye(8)).max() < 0.25  # deviation 0.06


def test_draws_depend_on_seed_step_and_group_alone() -> None:
    """Not on what was drawn before, and neither on the image's size, as far as lambda goes."""
    own = create(32, 2**32 - 1, **BOTH, batch_size=8)
    first = own.draw(2**31 - 2, 3, 8, 8)
    own.draw(5, 0, 8, 8)
    again = create(32, 2**32 - 1, **BOTH, batch_size=8).draw(2**31 - 2, 3, 8, 8)
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    only = create(8, mixup=0.2)
    np.testing.assert_array_equal(only.draw(4, 0, 8, 8)['lam'], only.draw(4, 0, 224, 160)['lam'])


@pytest.mark.parametrize(
    ('until', 'stop'), [('7 steps', 7), ('3 epochs', 30), ('0.5 run', 60), ('0 steps', 0)]
)
def test_until_ends_mixing_at_that_step(until: str, stop: int) -> None:
    """Every step before it is as without; from it on lambda is 1 and there is no box."""
    fields = {'mixup': 1.0, 'cutmix': 1.0, 'batch_size': 4}
    some, always = create(8, **fields, until=until), create(8, **fields)
    for at in range(120):
        for group in range(2):
            found, wanted = (m.draw(at, group, 96, 96) for m in (some, always))
            assert (wanted['lam'] < 1).all()
            if at >= stop:
                wanted = {'lam': np.ones(4), 'box': np.zeros((4, 4))}
            for key in wanted:
                np.testing.assert_array_equal(found[key], wanted[key])


def test_until_may_lie_beyond_the_end() -> None:
    """Then all of the run is mixed."""
    assert create(8, **BOTH, until='900 epochs').stop == 9000
    assert create(8, **BOTH).stop is None


@pytest.mark.parametrize('mode', mix.MODES)
@pytest.mark.parametrize('fields', [{'mixup': 1.0}, {'cutmix': 1.0}])
def test_nothing_is_mixed_with_what_could_not_be_read(fields: dict[str, Any], mode: str) -> None:
    """An unreadable image and the one it would be mixed into keep image and label, with lambda 1;
    all others are mixed."""
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (6, 32, 32, 3), np.uint8)
    label, mask = np.arange(6, dtype=np.int32), np.array([1, 0, 1, 1, 1, 1], np.float32)
    for partner, untouched in (('roll', {1, 2}), ('flip', {1, 4})):
        if (mode, partner) == ('pair', 'roll'):
            continue
        own = create(6, **fields, mode=mode, partner=partner)
        drawn = own.draw(1, 0, 32, 32)
        found = applied(own, drawn, image=image, label=label, mask=mask)
        for i in range(6):
            j = (i - 1) % 6 if partner == 'roll' else 5 - i
            if i in untouched:
                np.testing.assert_array_equal(found['image'][i], image[i])
                assert (found['label2'][i], found['lam'][i]) == (i, 1)
            else:
                assert (found['image'][i] != image[i]).any()
                assert (found['label2'][i], found['lam'][i]) == (j, drawn['lam'][i])
        np.testing.assert_array_equal(found['mask'], mask)
        np.testing.assert_array_equal(found['label'], label)


def memory(examples: int = 45) -> Source:
    """Noise of 12 x 12 in memory, of nine classes."""
    images = np.random.default_rng(0).integers(0, 256, (examples, 12, 12, 3), np.uint8)
    return from_memory(images, np.arange(examples) % 9, tuple('abcdefghi'), 'noise')


def read(
    source: Source, own: Mix | None, steps: range, shard: ProcessShard = EIGHT, *,
    groups: int = 2, chain: Any = RANDOM, damage: int = 0,
) -> list[Batch]:  # fmt: skip
    """Training batches of some steps, mixed or not; each image stands there twice."""
    sample = train_sampler(len(source), 0, shard, repeats=2, groups=groups)
    more = {} if own is None else {'mix': own, 'groups': own.within(shard.rows())}
    found = pipeline.batches(
        source, augment.compose(chain, 'augment'), sample, steps.start, steps.stop,
        mean=(0.2, 0.5, 0.8), damage=Damage(damage), **more,
    )  # fmt: skip
    return [{key: value.copy() for key, value in batch.items()} for batch in found]


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    """Bit for bit, and of the types that the train step takes."""
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        types = {key: str(value.dtype) for key, value in a.items()}
        assert types == {
            'image': 'uint8', 'label': 'int32', 'label2': 'int32', 'lam': 'float32',
            'mask': 'float32',
        }  # fmt: skip
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


PIPELINES: dict[str, dict[str, Any]] = {
    'torchvision': {**BOTH, 'batch_size': 4},
    'timm': {**BOTH, 'batch_size': 2, 'mode': 'elem', 'partner': 'flip', 'probability': 0.7},
    'whole': {**BOTH, 'mode': 'pair', 'partner': 'flip'},
}


@pytest.mark.parametrize('fields', PIPELINES.values(), ids=list(PIPELINES))
def test_a_mixed_batch_is_the_batch_mixed_by_group(fields: dict[str, Any]) -> None:
    """The pipeline reads what it reads without mixing, and mixes each group by its own draw."""
    own = create(8, **fields)
    plain = read(memory(), None, range(7), groups=own.groups)
    order = np.arange(own.size)
    partner = order - 1 if own.partner == 'roll' else order[::-1]
    wholly = True
    for at, (batch, mixed) in enumerate(
        zip(plain, read(memory(), own, range(7), groups=own.groups), strict=True)
    ):
        assert set(batch) == {'image', 'label', 'mask'}
        for group in range(own.groups):
            rows = slice(group * own.size, (group + 1) * own.size)
            one = {key: values[rows] for key, values in batch.items()}
            wanted = in_numpy(one, own.draw(at, group, 8, 8), partner)
            assert_rounded(mixed['image'][rows], wanted.pop('image'))
            for key, values in wanted.items():
                if key != 'image':
                    np.testing.assert_array_equal(mixed[key][rows], values, err_msg=key)
            wholly &= (mixed['lam'][rows] == 1).all()
    assert not wholly


@pytest.mark.parametrize('fields', list(PIPELINES.values())[:2], ids=list(PIPELINES)[:2])
def test_start_processes_and_threads_do_not_change_a_batch(
    fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Batches of images, both labels, lambda and mask are bit for bit the same from any start, as
    the joined shares of 2 (or 4) processes, and with one thread of tf.data or many."""
    own = create(8, **fields)
    whole = read(memory(), own, range(12), groups=own.groups)
    for start in (1, 4, 5, 11):
        assert_same(read(memory(), own, range(start, 12), groups=own.groups), whole[start:])
    for processes in {2, own.groups}:
        shares = [
            read(memory(), own, range(12), ProcessShard(8, p, processes), groups=own.groups)
            for p in range(processes)
        ]
        joined = [
            {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
            for parts in zip(*shares, strict=True)
        ]
        assert_same(joined, whole)
    for threads in (1, 16):
        monkeypatch.setattr(tf.data, 'AUTOTUNE', threads)
        assert_same(read(memory(), own, range(12), groups=own.groups), whole)


def test_damage_leaves_its_partner_alone(tmp_path: Path) -> None:
    """A truncated file keeps its place in the batch as the mean colour with mask 0; whoever would
    be mixed with it is not, and everyone else is as if it were whole."""
    random = np.random.default_rng(0)
    for i in range(24):
        folder = tmp_path / 'train' / 'ab'[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (12, 12, 3), np.uint8)).save(folder / f'{i:02}.png')
    shutil.copytree(tmp_path / 'train', tmp_path / 'val')
    files = sources.folder(dir=str(tmp_path))[0]
    own = create(8, mixup=1.0, batch_size=4)
    sound = read(files, own, range(6), chain=CENTRAL)
    plain = read(files, None, range(6), chain=CENTRAL)
    sample = train_sampler(24, 0, EIGHT, repeats=2, groups=2)
    bad = int(sample(0).indices[2])
    path = Path(files.name(bad))
    path.write_bytes(path.read_bytes()[:100])
    found = read(files, own, range(6), chain=CENTRAL, damage=1)
    assert_same(read(files, own, range(2, 6), chain=CENTRAL, damage=1), found[2:])
    times = 0
    for at, batch in enumerate(found):
        damaged = sample(at).indices == bad
        partner = np.roll(damaged.reshape(2, 4), 1, axis=1).ravel()
        times += damaged.sum()
        np.testing.assert_array_equal(batch['mask'], ~damaged)
        assert (batch['image'][damaged] == (51, 128, 204)).all()
        np.testing.assert_array_equal(batch['image'][partner], plain[at]['image'][partner])
        np.testing.assert_array_equal(batch['label2'][partner], plain[at]['label'][partner])
        assert (batch['lam'][damaged | partner] == 1).all()
        for key, values in batch.items():
            rest = ~damaged & ~partner
            np.testing.assert_array_equal(values[rest], sound[at][key][rest], err_msg=key)
    assert times >= 2


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'mixup': -0.1}, r'config\.mix\.mixup=-0\.1: must not be negative'),
        ({'cutmix': -1.0}, r'config\.mix\.cutmix=-1\.0: must not be negative'),
        ({'mixup': float('nan')}, r'config\.mix\.mixup=nan: .*finite'),
        ({'cutmix': float('inf')}, r'config\.mix\.cutmix=inf: .*finite'),
        ({'switch': 1.1}, r'config\.mix\.switch=1\.1: must be in \[0, 1\]'),
        ({'switch': float('nan')}, r'config\.mix\.switch=nan: must be in \[0, 1\]'),
        ({'probability': -0.5}, r'config\.mix\.probability=-0\.5: must be in \[0, 1\]'),
        ({'mode': 'bach'}, r"config\.mix\.mode 'bach'; did you mean 'batch'\?.*pair, elem"),
        ({'partner': 'rol'}, r"config\.mix\.partner 'rol'; did you mean 'roll'\?.*roll, flip"),
        ({'batch_size': -4}, r'config\.mix\.batch_size=-4: must divide config\.batch_size=12'),
        ({'batch_size': 5}, r'config\.mix\.batch_size=5: must divide config\.batch_size=12'),
        ({'batch_size': 24}, r'config\.mix\.batch_size=24: must divide config\.batch_size=12'),
        ({'mixup': 0.2, 'batch_size': 1}, r'config\.mix\.batch_size=1: .*group of 1'),
        ({'mode': 'pair'}, r"config\.mix\.mode='pair' needs config\.mix\.partner='flip'"),
        (
            {'partner': 'flip', 'batch_size': 3},
            r"config\.mix\.partner='flip' needs groups of an even size, .* has 3 .*mix\.batch_size",
        ),
        (
            {'mode': 'pair', 'partner': 'flip', 'batch_size': 3},
            r"config\.mix\.partner='flip' needs groups of an even size",
        ),
        ({'until': 'soon'}, r"config\.mix\.until: 'soon' is not a length of time; write e\.g\."),
        ({'until': '9'}, r"config\.mix\.until: '9' is not a length of time"),
        ({'until': '-1 epochs'}, r"config\.mix\.until: '-1 epochs' is not a length of time"),
        ({'until': '1.5 steps'}, r"config\.mix\.until: '1\.5 steps': steps are whole"),
        ({'until': 'never'}, r"config\.mix\.until: 'never' is not a length of time"),
    ],
)
def test_what_cannot_be(fields: dict[str, Any], message: str) -> None:
    """An error names the field and what may stand there, also while nothing is mixed."""
    with pytest.raises(ValueError, match=message):
        mix.create(12, 0, HORIZON.steps, **fields)


@pytest.mark.parametrize(
    ('batch_size', 'processes'), [(0, 2), (8, 2), (12, 4), (8, 6), (4, 2), (4, 6)]
)
def test_a_group_must_fit_into_a_process(batch_size: int, processes: int) -> None:
    """One that would be split over processes is an error on all of them that names the cure."""
    own = create(24, mixup=0.2, batch_size=batch_size)
    shares = [ProcessShard(24, p, processes).rows() for p in range(processes)]
    if (batch_size, processes) in ((4, 2), (4, 6)):
        assert [i for rows in shares for i in own.within(rows)] == list(range(6))
    else:
        for rows in shares:
            with pytest.raises(ValueError, match=rf'{24 // processes} of one .*mix\.batch_size'):
                own.within(rows)


def test_build_checks_that_groups_fit(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two processes a mixed batch without groups is refused before anything is read."""
    tiny['mix'] = BOTH
    assert jcls.build(tiny).groups == 1
    monkeypatch.setattr('jcls.assembly.process_shard', lambda size: ProcessShard(size, 1, 2))
    with pytest.raises(ValueError, match=r'a group of 8 .* the 4 of one .*config\.mix\.batch_size'):
        jcls.build(tiny)
    tiny['mix'] = {**BOTH, 'batch_size': 4}
    assert jcls.build(tiny).groups == 2


def test_off_is_off(tiny: dict[str, Any]) -> None:
    """By default, and whatever else its section says while both alphas are 0, nothing is mixed: no
    label2 and no lam in a batch, and the step compiles to the same program."""
    assert mix.create(8, 0, HORIZON.steps) is None
    assert mix.create(8, 0, HORIZON.steps, mode='elem', until='3 epochs', batch_size=2) is None
    assert mix.create(1, 0, HORIZON.steps) is None
    lowered = []
    for section in ({}, {'mix': {'mode': 'elem', 'partner': 'flip', 'batch_size': 2}}):
        exp = jcls.build({**tiny, **section})
        assert exp.mix is None
        (batch,) = exp.train_batches(0, 1)
        assert set(batch) == {'image', 'label', 'mask'}
        lowered.append(exp.train_step.lower(exp.state_shapes(), batch).as_text())
    assert lowered[0] == lowered[1]


@pytest.fixture(scope='module')
def experiment() -> Experiment:
    """The tiny run with two groups, repeated images, smoothing, and an end of mixing."""
    section = {**BOTH, 'mixup': 0.8, 'batch_size': 4, 'until': '10 steps'}
    data = {**TINY['data'], 'repeats': 2}
    loss, evaluate = {'label_smoothing': 0.1}, TINY['evaluate'] | {'every': 'never'}
    return jcls.build({**TINY, 'data': data, 'mix': section, 'loss': loss, 'evaluate': evaluate})


def test_the_step_trains_on_both_labels(experiment: Experiment) -> None:
    """Its loss is that of lam of one label and 1 - lam of the other, smoothed; a hit is a larger
    part that is what the model says, whichever of the two labels it is."""
    state = experiment.init()
    batch = jax.device_get(next(experiment.train_batches(0, 1)))
    mean, std = np.array(experiment.data.mean), np.array(experiment.data.std)
    images = jnp.asarray((batch['image'] / 255 - mean) / std, jnp.float32)
    logits = np.asarray(
        experiment.model.apply(state.variables, images, train=True, mutable=['batch_stats'])[0]
    ).astype(float)
    said = logits.argmax(1).astype(np.int32)
    batch['lam'] = np.array([0.9, 0.51, 0.4, 0.0, 0.6, 1.0, 0.1, 0.49], np.float32)
    hit = np.array([1, 0, 1, 1, 0, 1, 0, 0], bool)
    first = (batch['lam'] > 0.5) == hit  # whether `label` is what the model says
    batch['label'], batch['label2'] = np.where(first, [said, said + 3], [said + 3, said]) % 10
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    lam = batch['lam'][:, None]
    targets = lam * np.eye(10)[batch['label']] + (1 - lam) * np.eye(10)[batch['label2']]
    _, metrics = experiment.train_step(state, batch)
    loss = -((0.9 * targets + 0.01) * log_p).sum(1).mean()
    assert metrics['loss'] == pytest.approx(loss, rel=1e-5)
    assert float(metrics['top1']) == 0.5


def test_a_mixed_run_resumes_bit_for_bit(experiment: Experiment, tmp_path: Path) -> None:
    """Losses are finite; crashed in the middle of the mixed part and resumed = never crashed."""
    assert experiment.groups == 2
    loop.train(experiment, tmp_path / 'whole')
    read = lines(tmp_path / 'whole')
    assert all(np.isfinite(line['train/loss']) for line in read if 'train/loss' in line)
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(experiment, 7), tmp_path / 'crashed')
    loop.train(experiment, tmp_path / 'crashed')
    assert_same_run(tmp_path / 'crashed', tmp_path / 'whole', experiment)
    lam = [np.asarray(batch['lam']) for batch in experiment.train_batches()]
    assert [bool((values < 1).any()) for values in lam] == [True] * 10 + [False] * 2

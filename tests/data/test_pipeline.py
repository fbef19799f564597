"""Shares, reproducibility, padding and damage of the batches."""

from __future__ import annotations

import dataclasses
import io
import logging
import platform
import re
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jcls.data import augment, graph, pipeline
from jcls.data.augment.chain import Chain
from jcls.data.augment.operation import Operation, Rng
from jcls.data.pipeline import Batch, Damage
from jcls.data.sampler import ProcessShard, epoch_order, eval_sampler, train_sampler
from jcls.data.sources import folder
from jcls.data.sources.source import Source, from_memory
from jcls.host.tensorflow import tf

MEAN = (0.2, 0.5, 0.8)
MEAN_COLOUR = (51, 128, 204)  # round(255 * MEAN), half to even: 127.5 -> 128
RANDOM = (
    {'name': 'random_resized_crop', 'size': 8},
    {'name': 'pad_and_crop', 'size': 8, 'padding': 1},
    {'name': 'flip'},
)
FOUR = ProcessShard(4)
CENTRAL = ({'name': 'center_crop', 'size': 16},)


def memory(examples: int, classes: int = 3) -> Source:
    """Noise of 12 x 12 in memory, sorted by class."""
    images = np.random.default_rng(0).integers(0, 256, (examples, 12, 12, 3), np.uint8)
    labels = np.sort(np.arange(examples) % classes).astype(np.int32)
    return from_memory(images, labels, tuple('abcdefghij'[:classes]), 'noise')


@pytest.fixture
def files(tmp_path: Path) -> Source:
    """Twelve files of 21 x 18 noise, six of each of two classes, half JPEG and half PNG."""
    random = np.random.default_rng(0)
    for part in ('train', 'val'):
        for name in ('0 a.jpg', '1 b.png', '2 c.jpg', '3 d.png', '4 e.jpg', '5 f.png'):
            for label in ('left', 'right'):
                (tmp_path / part / label).mkdir(parents=True, exist_ok=True)
                pixels = random.integers(0, 256, (21, 18, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / label / name, quality=95)
    return folder(dir=str(tmp_path))[0]


def read(
    source: Source, sample: Any, steps: range, chain: Any, damage: Damage | None
) -> list[Batch]:
    """The batches of some steps, made writable."""
    operation = augment.compose(chain, 'augment')
    start, stop = steps.start, steps.stop
    found = pipeline.batches(
        source, operation, sample, start, stop, mean=MEAN, damage=damage or Damage()
    )
    return [{key: value.copy() for key, value in batch.items()} for batch in found]


def train(
    source: Source,
    steps: range,
    damage: Damage | None = None,
    *,
    chain: tuple[dict[str, Any], ...] = RANDOM,
    seed: int = 0,
    shard: ProcessShard = FOUR,
) -> list[Batch]:
    """Training batches of some steps."""
    return read(source, train_sampler(len(source), seed, shard), steps, chain, damage)


def in_order(source: Source, size: int, damage: Damage | None = None) -> list[Batch]:
    """Evaluation batches of a whole source."""
    sample, steps = eval_sampler(np.arange(len(source)), ProcessShard(size))
    return read(source, sample, range(steps), CENTRAL, damage)


def mask_out(batches: list[Batch], sample: Any, indices: tuple[int, ...]) -> None:
    """What damage of these examples should do to the batches."""
    for step, batch in enumerate(batches):
        bad = np.isin(sample(step).indices, indices)
        batch['mask'][bad] = 0
        batch['image'][bad] = MEAN_COLOUR


def join(batches: list[Batch], key: str = 'image') -> np.ndarray:
    return np.concatenate([batch[key] for batch in batches])


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    """Bit for bit."""
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        assert {key: value.dtype for key, value in a.items()} == {
            'image': np.uint8,
            'label': np.int32,
            'mask': np.float32,
        }
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


def truncate(path: str) -> None:
    data = Path(path).read_bytes()
    Path(path).write_bytes(data[: len(data) * 2 // 3])


def test_any_start_gives_the_same_batches() -> None:
    """A pipeline that starts at a step gives, bit for bit, what one from the beginning does."""
    source = memory(23)
    whole = train(source, range(13))  # five steps an epoch
    assert [batch['image'].shape for batch in whole] == [(4, 8, 8, 3)] * 13
    for start in (1, 4, 5, 12):
        assert_same(train(source, range(start, 13)), whole[start:])
    assert train(source, range(13, 13)) == []


def test_a_change_of_seed_or_epoch_changes_the_images() -> None:
    """An example's image depends on seed and epoch; not on the batch size or its neighbours."""
    source = memory(24)

    def by_example(size: int, seed: int, epoch: int) -> dict[int, bytes]:
        steps = range(epoch * (24 // size), (epoch + 1) * (24 // size))
        batches = train(source, steps, seed=seed, shard=ProcessShard(size))
        order = epoch_order(seed, epoch, 24)
        np.testing.assert_array_equal(join(batches, 'label'), source.labels[order])
        return {i: image.tobytes() for i, image in zip(order, join(batches), strict=True)}

    first = by_example(4, 0, 0)
    assert by_example(6, 0, 0) == first
    assert len(set(first.values())) == 24
    for seed, epoch in [(0, 1), (1, 0), (1, 1)]:
        other = by_example(4, seed, epoch)
        assert sum(other[i] == first[i] for i in range(24)) == 0


def test_every_example_has_its_own_random_numbers() -> None:
    """No two of epoch, example and place in the list share a key; equal images come out unequal."""

    def show(image: Any, rng: Rng) -> Any:
        del image
        return tf.reshape(tf.bitcast(rng.key, tf.uint8), [1, 16, 1])

    chain, sample = Chain([Operation(show, lambda _: (1, 16))]), train_sampler(8, 0, FOUR)
    grey = Source(lambda _: (tf.zeros([1, 1, 1]), 0), 8, ('a',), None, str, 1, (1, 1))
    shown = pipeline.batches(grey, chain, sample, 0, 6, mean=(0.5,), damage=Damage())
    keys = join(list(shown)).reshape(24, 16).view(np.int64).tolist()
    places = range(64)  # a chain adds its place in the list to an operation's key
    assert len({(word, number + place) for word, number in keys for place in places}) == 24 * 64
    one = memory(1)
    alike = Source(lambda _: one.read(0), 24, ('a',), None, str, 3, (12, 12))
    assert len({image.tobytes() for image in join(train(alike, range(12)))}) == 48


@pytest.mark.parametrize('processes', [2, 4])
def test_the_shares_of_processes_are_the_batch(processes: int) -> None:
    """The rows of all processes, one after the other, are the batch of a single one."""
    source = memory(23)
    shares = [
        train(source, range(7), shard=ProcessShard(4, p, processes)) for p in range(processes)
    ]
    joined = [
        {key: join(list(parts), key) for key in ('image', 'label', 'mask')}
        for parts in zip(*shares, strict=True)
    ]
    assert_same(joined, train(source, range(7)))
    with pytest.raises(ValueError, match=r'config\.batch_size=4 does not divide over 3 processes'):
        ProcessShard(4, 0, 3).rows()


def test_evaluation_is_exact() -> None:
    """Ten images in batches of four are each there once with mask 1, and two rows are masked."""
    source = memory(10)
    sample, steps = eval_sampler(np.arange(10), ProcessShard(4))
    batches = read(source, sample, range(steps), (), None)
    np.testing.assert_array_equal(join(batches, 'mask'), [1] * 10 + [0] * 2)
    np.testing.assert_array_equal(join(batches, 'label')[:10], source.labels)
    images = np.stack([source.read(i)[0].numpy() for i in range(10)])
    np.testing.assert_array_equal(join(batches)[:10], images)
    assert (join(batches)[10:] == MEAN_COLOUR).all()


def test_images_of_different_sizes_are_refused(files: Source) -> None:
    """A chain that leaves images of different sizes is an error that names the cure."""
    with pytest.raises(ValueError, match=r'config\.augment.*random_resized_crop, center_crop'):
        train(files, range(1), chain=({'name': 'flip'},))


def test_files_of_one_size_need_no_crop(files: Source) -> None:
    """Where all files have one size, an operation that needs to know it can come first."""
    alike = dataclasses.replace(files, image_size=(21, 18))
    batches = train(alike, range(3), chain=({'name': 'trivial_augment'},))
    assert join(batches).shape == (12, 21, 18, 3)
    with pytest.raises(ValueError, match='trivial_augment needs images of one size'):
        train(files, range(1), chain=({'name': 'trivial_augment'},))


def test_a_failure_without_damage_says_what_failed(files: Source) -> None:
    """An operation that cannot take a sound image is an error with the step and its message."""
    chain = ({'name': 'pad_and_crop', 'size': 64, 'padding': 0},)
    with pytest.raises(ValueError, match=r'step 0.*pad_and_crop: size=64 is larger'):
        train(files, range(1), chain=chain, damage=Damage(12))


def test_damaged_images_keep_their_places(files: Source, caplog: pytest.LogCaptureFixture) -> None:
    """Each is masked and of the mean colour, named and counted once; all else is as without it."""
    wanted = in_order(files, 5)
    bad = (0, 3, 7, 10)
    vanished, truncated, empty, text = map(files.name, bad)
    Path(vanished).unlink()
    truncate(truncated)
    Path(empty).write_bytes(b'')
    Path(text).write_text('<html>404 Not Found</html>')
    damage = Damage(4)
    with caplog.at_level(logging.WARNING, logger='jcls'):
        found = in_order(files, 5, damage)
    mask_out(wanted, eval_sampler(np.arange(12), ProcessShard(5))[0], bad)
    assert_same(found, wanted)
    assert list(damage.reasons) == [vanished, truncated, empty, text]
    assert len(caplog.records) == 4
    for name, reason in damage.reasons.items():
        assert f'{name} ({reason})' in caplog.text
        assert reason
        assert not any(noise in reason for noise in ('{{', '[[', '[Op:', '__wrapped__')), reason


def test_too_much_damage_is_an_error(files: Source) -> None:
    """One damaged image more than allowed stops with the names of all and the field to raise."""
    truncate(files.name(1))
    Path(files.name(6)).unlink()
    assert np.sum(join(in_order(files, 4, Damage(2)), 'mask')) == 10
    for limit, named in [(1, (1, 6)), (0, (1,))]:
        damage = Damage(limit)
        for _ in range(2):  # whoever tries again is told again
            with pytest.raises(ValueError, match=rf'config\.data\.max_damaged={limit}\b') as error:
                in_order(files, 4, damage)
            for which in named:
                assert files.name(which) in str(error.value)


def test_a_whole_batch_of_damage(files: Source) -> None:
    """A batch without a readable image is wholly masked, and the next one is read."""
    wanted = in_order(files, 4)
    for which in range(4, 8):
        truncate(files.name(which))
    found = in_order(files, 4, Damage(4))
    assert not found[1]['mask'].any()
    assert (found[1]['image'] == MEAN_COLOUR).all()
    assert_same([found[0], found[2]], [wanted[0], wanted[2]])


def test_damage_in_training(files: Source) -> None:
    """Damage is counted once, is masked in every epoch, and disturbs no other example."""
    wanted = train(files, range(9))  # three steps an epoch
    for which in (2, 3, 11):
        truncate(files.name(which))
    damage = Damage(3)
    found = train(files, range(9), damage)
    mask_out(wanted, train_sampler(12, 0, ProcessShard(4)), (2, 3, 11))
    assert_same(found, wanted)
    assert sorted(damage.reasons) == sorted(map(files.name, (2, 3, 11)))
    assert_same(train(files, range(5, 9), Damage(3)), wanted[5:])
    second = train(files, range(9), Damage(3), shard=ProcessShard(4, 1, 2))
    np.testing.assert_array_equal(join(second), np.concatenate([b['image'][2:] for b in wanted]))


def test_a_resumed_run_sees_the_same_damage(files: Source) -> None:
    """A JPEG with damage that some crops miss is masked at the same steps wherever a run starts."""
    path = Path(files.name(0))
    data = path.read_bytes()
    place = len(data) * 9 // 10
    path.write_bytes(data[:place] + b'\xff\xf0' + data[place + 2 :])
    whole = [batch['mask'].sum() for batch in train(files, range(60), Damage(1))]
    resumed = [batch['mask'].sum() for batch in train(files, range(36, 60), Damage(1))]
    assert resumed == whole[36:]


def test_a_program_may_end_with_a_pipeline_open() -> None:
    """A script that stops in the middle of its batches ends, and says nothing about it."""
    script = """
import numpy as np
from jcls.data import augment, pipeline, sampler
from jcls.data.sources.source import from_memory
source = from_memory(np.zeros([64, 8, 8, 3], np.uint8), np.zeros(64, np.int32), ('a',), 'zeros')
sample = sampler.train_sampler(64, 0, sampler.ProcessShard(8))
chain = augment.compose(({'name': 'flip'},), 'augment')
batches = pipeline.batches(
    source, chain, sample, 0, 10**9, mean=(0, 0, 0), damage=pipeline.Damage()
)
print(next(batches)['image'].shape)
"""
    ended = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout == '(8, 8, 8, 3)\n'
    assert 'Exception' not in ended.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != 'glibc', reason='only its malloc is tuned')
def test_memory_is_used_again() -> None:
    """Batches of megabytes take their pages from those before, not from the system."""
    import resource  # not on Windows

    images = np.zeros([64, 256, 256, 3], np.uint8)  # 12.6 MB
    source = from_memory(images, np.zeros(64, np.int32), ('a',), 'zeros')
    chain = augment.compose(({'name': 'flip'},), 'augment')
    sample = train_sampler(64, 0, ProcessShard(64))
    batches = pipeline.batches(source, chain, sample, 0, 90, mean=MEAN, damage=Damage())
    for _ in range(30):
        next(batches)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    assert sum(1 for _ in batches) == 60
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 60 * images.nbytes / resource.getpagesize() / 10


def test_two_pipelines_may_find_the_same_damage(files: Source) -> None:
    """What one has found damaged the other, already open, finds by itself; it counts once."""
    truncate(files.name(3))
    damage, sample = Damage(limit=1), train_sampler(len(files), 0, FOUR)
    chain = augment.compose(CENTRAL, 'augment')

    def opened() -> Any:
        return pipeline.batches(files, chain, sample, 0, 9, mean=MEAN, damage=damage)

    waiting, first = opened(), opened()
    batches = [next(waiting)]
    assert sum((batch['mask'] == 0).sum() for batch in first) == 3  # epochs of three steps
    batches += waiting
    assert sum((batch['mask'] == 0).sum() for batch in batches) == 3
    assert list(damage.reasons) == [files.name(3)]


def test_an_image_that_cannot_be_augmented_is_named(tmp_path: Path, files: Source) -> None:
    """A whole image that is too small for an operation is no damage: it is named with the cure."""
    del files
    small = tmp_path / 'train' / 'left' / '0 a.jpg'
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(small)
    source = folder(dir=str(tmp_path))[0]
    chain = ({'name': 'pad_and_crop', 'size': 16, 'padding': 2},)
    with pytest.raises(ValueError, match=r'step \d, at .*0 a\.jpg: .*size=16 is larger'):
        train(source, range(6), Damage(limit=9), chain=chain)


def test_an_image_as_long_as_a_street(tmp_path: Path, files: Source) -> None:
    """20,000 x 1 pixels are no trouble to a crop, nor to a resize by the shorter side."""
    del files
    path = tmp_path / 'train' / 'left' / '0 a.jpg'
    Image.fromarray(np.full((20_000, 1, 3), 77, np.uint8)).save(path)
    source = folder(dir=str(tmp_path))[0]
    cropped = read(source, train_sampler(len(source), 0, FOUR), range(3), RANDOM[:1], None)
    assert all((batch['mask'] == 1).all() for batch in cropped)
    chain = ({'name': 'resize', 'size': 256}, {'name': 'center_crop', 'size': 8})
    resized = read(source, train_sampler(len(source), 0, FOUR), range(3), chain, None)
    assert all((batch['mask'] == 1).all() for batch in resized)


@pytest.mark.parametrize('chain', [RANDOM, CENTRAL])
def test_an_image_of_too_many_pixels(files: Source, chain: Any) -> None:
    """It is refused by its header, whatever the format, before anything of its size is made; the
    message has its size and the limit."""
    kinds = {0: 'JPEG', 1: 'PNG', 2: 'GIF', 3: 'BMP'}
    for index, kind in kinds.items():
        file = io.BytesIO()
        Image.fromarray(np.zeros((21, 18, 3), np.uint8)).save(file, kind)
        Path(files.name(index)).write_bytes(claiming(kind, file.getvalue(), 50_000, 60_000))
    damage = Damage(4)
    assert np.sum(join(train(files, range(3), damage, chain=chain), 'mask')) == 8
    assert sorted(damage.reasons) == sorted(map(files.name, kinds))
    for reason in damage.reasons.values():
        assert re.search(r'(50000 x 60000|3000000000) pixels, more than the 134,217,728 ', reason)


def claiming(kind: str, data: bytes, height: int, width: int) -> bytes:
    """The file with another size in its header."""
    at, form = {
        'JPEG': (data.find(b'\xff\xc0') + 5, '>HH'),
        'PNG': (16, '>II'),
        'GIF': (6, '<HH'),
        'BMP': (18, '<ii'),
    }[kind]
    sides = (height, width) if kind == 'JPEG' else (width, height)
    return data[:at] + struct.pack(form, *sides) + data[at + struct.calcsize(form) :]


def test_damage_begins_a_pipeline_once_more(files: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not once for each batch with a damaged image; another pass is tolerant from the start."""
    begun: list[bool] = []

    def counted(*args: Any, create: Any = graph.create, **fields: Any) -> Any:
        begun.append(fields['tolerant'])
        return create(*args, **fields)

    monkeypatch.setattr(graph, 'create', counted)
    wanted = train(files, range(6))
    for which in (0, 1, 5, 6, 7, 10):
        truncate(files.name(which))
    damage = Damage(12)
    found = train(files, range(6), damage)
    mask_out(wanted, train_sampler(12, 0, FOUR), (0, 1, 5, 6, 7, 10))
    assert_same(found, wanted)
    assert_same(train(files, range(6), damage), wanted)
    assert begun == [False, False, True, True]


def test_an_example_at_the_end_is_not_lost(files: Source) -> None:
    """Nor are several in a row, or all."""
    for damaged in ((11,), (8, 9, 10, 11), range(12)):
        for which in damaged:
            truncate(files.name(which))
        batches = in_order(files, 4, Damage(12))
        assert len(batches) == 3
        np.testing.assert_array_equal(np.flatnonzero(join(batches, 'mask') == 0), damaged)

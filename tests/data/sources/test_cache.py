"""Examples in memory: the same as without, how much they take, and what damage does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jcls.data import augment, decode, pipeline, sources
from jcls.data.pipeline import Batch, Damage
from jcls.data.sampler import ProcessShard, train_sampler
from jcls.data.sources import cache
from jcls.data.sources.cache import cached
from jcls.data.sources.source import Source
from jcls.host.tensorflow import tf

KINDS = ('encoded', 'decoded')
CHAIN = ({'name': 'random_resized_crop', 'size': 8}, {'name': 'flip'})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of 24 training and 4 validation images of noise, of many sizes, PNG and JPEG."""
    random = np.random.default_rng(0)
    for part, count in (('train', 12), ('val', 2)):
        for label in ('left', 'right'):
            (tmp_path / part / label).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (20 + i, 31 - i, 3), np.uint8)
                name = f'{i:02d}.{"png" if i % 2 else "jpg"}'
                Image.fromarray(pixels).save(tmp_path / part / label / name, quality=95)
    return tmp_path


def folder(root: Path, kind: str = 'none') -> tuple[Source, Source]:
    """The two sources of the folder."""
    data = sources.create(name='folder', dir=str(root), cache=kind)
    return data.train, data.val


def batches(found: Source, damage: Damage | None = None, chain: Any = CHAIN) -> list[Batch]:
    """Three epochs of training batches."""
    operation = augment.compose(chain, 'augment')
    sample = train_sampler(len(found), 0, ProcessShard(8))
    made = pipeline.batches(
        found, operation, sample, 0, 9, mean=(0.5,) * 3, damage=damage or Damage()
    )
    return [{key: value.copy() for key, value in batch.items()} for batch in made]


def assert_same(found: list[Batch], wanted: list[Batch]) -> None:
    """Bit for bit."""
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key], err_msg=key)


@pytest.mark.parametrize('kind', KINDS)
def test_a_cache_changes_nothing(root: Path, kind: str) -> None:
    """Images and labels are those of the source, and the files are not read again."""
    plain, _ = folder(root)
    chain = ({'name': 'center_crop', 'size': 16},)
    wanted = batches(plain, chain=chain)
    train, val = folder(root, kind)
    for i in (23, 0, 11):
        image, label = train.read(tf.constant(i, tf.int64))
        original = plain.read(tf.constant(i))[0]
        if kind == 'encoded':
            assert image.numpy() == original.numpy()
        else:
            np.testing.assert_array_equal(image, decode.pixels(original))
        assert (int(label), label.dtype) == (plain.labels[i], tf.int32)
    for file in (root / 'train').rglob('*.*'):
        file.unlink()
    assert_same(batches(train, chain=chain), wanted)
    assert (train.examples, train.classes, train.name(3)) == (24, plain.classes, plain.name(3))
    assert len(val) == 4
    assert int(val.read(tf.constant(3))[1]) == 1


def test_encoded_crops_are_the_same(root: Path) -> None:
    """Random crops of cached files are bit for bit those of the files."""
    assert_same(batches(folder(root, 'encoded')[0]), batches(folder(root)[0]))


def test_nothing_is_read_before_the_first_use(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The examples are read once, when the first is needed, in all graphs together."""
    loads = []
    load = cache._load
    monkeypatch.setattr(cache, '_load', lambda *args: loads.append(args[1]) or load(*args))
    train, val = folder(root, 'decoded')
    assert not loads
    batches(train)
    batches(train)
    train.read(tf.constant(0))
    assert len(loads) == 1
    val.read(tf.constant(0))
    assert len(loads) == 2


def test_what_is_in_memory_stays_there(caplog: pytest.LogCaptureFixture) -> None:
    """Sources in memory, and 'none', are returned as they are."""
    data = sources.create(name='digits', cache='decoded', subset=0.5)
    assert 'memory' not in caplog.text
    assert data.train.in_memory
    pair = (data.train, data.val)
    assert cached(pair, 'encoded') is pair
    assert cached(pair, 'none') is pair


@pytest.mark.parametrize('kind', KINDS)
def test_damage_is_as_without_a_cache(root: Path, kind: str) -> None:
    """Damaged images are named, counted and masked as ever; they fail again at every read."""
    plain, _ = folder(root)
    victims = [0, 5, 8, 23]
    for i in victims[:2]:
        path = Path(plain.name(i))
        path.write_bytes(path.read_bytes()[:200])
    Path(plain.name(8)).write_text('<html>404</html>')
    Path(plain.name(23)).unlink()
    chain = ({'name': 'center_crop', 'size': 16},)
    reasons = Damage(4)
    wanted = batches(plain, reasons, chain)
    cached_reasons = Damage(4)
    train, _ = cached((plain, plain), kind)
    assert_same(batches(train, cached_reasons, chain), wanted)
    assert cached_reasons.reasons == reasons.reasons
    assert sorted(reasons.reasons) == sorted(map(plain.name, victims))
    assert sum(batch['mask'].sum() for batch in wanted) == 72 - 3 * 4
    with pytest.raises(ValueError, match=r'1 damaged image\(s\)'):
        batches(train, Damage(0), chain)


def test_the_memory_that_is_needed(root: Path) -> None:
    """The estimate is files' and pixels' bytes, exact for small sets; headers of JPEGs suffice."""
    plain, _ = folder(root)
    paths = [Path(plain.name(i)) for i in range(24)]
    encoded = sum(path.stat().st_size for path in paths)
    decoded = sum(np.asarray(Image.open(path)).size for path in paths)
    assert cache.needed(plain, 'encoded') == pytest.approx(encoded + 24 * 256)
    assert cache.needed(plain, 'decoded') == pytest.approx(decoded + 24 * 256)
    size = paths[1].stat().st_size
    paths[1].write_text('nonsense')  # which has bytes, but no pixels: counted as an average one
    assert cache.needed(plain, 'encoded') == pytest.approx(encoded - size + 8 + 24 * 256)
    assert cache.needed(plain, 'decoded') == pytest.approx(decoded + 24 * 256, rel=0.1)
    for path in paths:
        path.unlink()
    assert cache.needed(plain, 'encoded') == cache.needed(plain, 'decoded') == 24 * 256


def test_too_much_for_the_memory(root: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """What does not fit is refused with the numbers and what would fit, before it is read."""
    plain = folder(root)
    encoded, decoded = (sum(cache.needed(s, kind) for s in plain) / 1e6 for kind in KINDS)
    monkeypatch.setattr(cache, '_load', None)
    need = {'encoded': rf'{encoded:.1f} MB', 'decoded': rf'{decoded:.1f} MB'}
    free = 1.3 * min(encoded, decoded)
    small, large = sorted(need, key=lambda kind: {'encoded': encoded, 'decoded': decoded}[kind])
    monkeypatch.setattr(cache, 'available_memory', lambda: free * 1e6)
    with caplog.at_level(logging.INFO, logger='jcls'):
        cached(plain, small)
    assert f'cache={small!r} will take about {need[small]} of the {free:.1f} MB' in caplog.text
    fits = "'encoded' would fit" if small == 'encoded' else "only 'none' fits"
    with pytest.raises(ValueError, match=rf'{need[large]}, more than 80% .*{free:.1f} MB.*{fits}'):
        cached(plain, large)
    monkeypatch.setattr(cache, 'available_memory', lambda: 100.0)
    for kind in KINDS:
        with pytest.raises(ValueError, match=rf"cache='{kind}' takes .*only 'none' fits"):
            cached(plain, kind)
    monkeypatch.setattr(cache, 'available_memory', lambda: None)
    with caplog.at_level(logging.INFO, logger='jcls'):
        cached(plain, 'decoded')
    assert 'of the unknown amount of memory' in caplog.text


def test_large_pixels_suggest_the_files(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    """Where the pixels do not fit but the files would, the error says so."""
    monkeypatch.setattr(cache, 'needed', lambda _, kind: {'encoded': 1e9, 'decoded': 9e9}[kind])
    monkeypatch.setattr(cache, 'available_memory', lambda: 5e9)
    with pytest.raises(
        ValueError, match=r"18\.0 GB, .* of the 5\.0 GB .*'encoded' would fit.* 2\.0"
    ):
        folder(root, 'decoded')


def test_an_unknown_kind(root: Path) -> None:
    """Another kind of cache is an error with the known ones."""
    with pytest.raises(
        ValueError, match=r"unknown config\.data\.cache 'decode'; did you mean 'deco"
    ):
        folder(root, 'decode')


def test_one_source_for_both_sets_is_kept_once(root: Path) -> None:
    """A source that stands for both sets is one in memory, too."""
    plain, _ = folder(root)
    train, val = cached((plain, plain), 'encoded')
    assert train is val

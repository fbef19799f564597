"""Who is on which side: the division of images by their names, and exact copies across it."""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from helpers.folders import paint
from jcls.data import sources
from jcls.data.sources import copies
from jcls.data.sources.file_list import listing
from jcls.data.sources.folder import folder
from jcls.data.sources.hold_out import deal, stratified_split
from jcls.data.sources.known import Known
from jcls.data.sources.source import Source
from jcls.training import same_data


def named(source: Source) -> set[bytes]:
    """The names of a source's examples."""
    assert source.names is not None
    assert len(set(source.names)) == len(source)
    return set(source.names.tolist())


def known(train: Source, val: Source) -> Known:
    """What a run notes of these."""
    return Known(train.classes, train.names, val.names)


def fill(root: Path, **counts: int) -> Path:
    """A folder with so many different images in each class."""
    paint(*(root / name / f'{i:03}.png' for name, count in counts.items() for i in range(count)))
    return root


@pytest.mark.parametrize('fraction', [0.1, 0.25, 0.5])
def test_counts_are_exact_in_every_class(fraction: float) -> None:
    """The fraction, rounded, of each class is held out, but at least one, and not all."""
    counts = {'a': 2, 'b': 3, 'c': 10, 'd': 55, 'e': 1000}
    labels = np.repeat(range(5), [*counts.values()])
    names = np.array([f'{i}'.encode() for i in range(len(labels))])
    rows = deal(names, labels, tuple(counts), fraction, 0)
    assert sorted(np.concatenate(rows)) == list(range(len(labels)))
    for label, count in enumerate(counts.values()):
        expected = min(max(int(fraction * count + 0.5), 1), count - 1)
        assert np.count_nonzero(labels[rows[1]] == label) == expected


def test_the_seed_and_the_names_alone_decide(tmp_path: Path) -> None:
    """Another place or order changes nothing; another seed holds out others."""
    fill(tmp_path / 'one', a=40, b=40)
    shutil.copytree(tmp_path / 'one', tmp_path / 'two')
    one, two, other = (
        named(folder(dir=str(tmp_path / place), split_seed=seed)[1])
        for place, seed in (('one', 0), ('two', 0), ('one', 1))
    )
    assert one == two
    assert len(one & other) < 4
    rng, labels = np.random.default_rng(0), np.zeros(40, int)
    names = np.array([f'{i}'.encode() for i in range(40)])
    order = rng.permutation(40)
    assert set(names[deal(names, labels, ('a',), 0.1, 0)[1]]) == set(
        names[order][deal(names[order], labels, ('a',), 0.1, 0)[1]]
    )


def test_hashes_are_fair() -> None:
    """Over many seeds each image is held out as often as the others."""
    names, labels = np.array([f'{i:03}.jpg'.encode() for i in range(50)]), np.zeros(50, int)
    held_out = Counter(
        row for seed in range(2000) for row in deal(names, labels, ('a',), 0.1, seed)[1]
    )
    spread = np.array([held_out[row] for row in range(50)])
    assert spread.sum() == 2000 * 5
    assert ((spread - 200) ** 2 / 180).sum() < 85  # chi-square, 49 degrees of freedom, p < 0.001


def test_a_thousand_edits_move_no_file_that_stays(tmp_path: Path) -> None:
    """Files come, go and are renamed; who is known keeps their side, and counts stay right."""
    draw = random.Random(0)
    root = fill(tmp_path, a=30, b=30)
    noted = known(*folder(dir=str(root)))
    for edit in range(1000):
        files = sorted(root.glob('*/*.png'))
        file = draw.choice(files)
        beside = [f for f in files if f.parent == file.parent]
        new = file.with_name(f'{draw.randrange(10**9)}.png')
        kind = draw.choice(['add', 'rename', 'remove'])
        if kind == 'add':
            shutil.copy(file, new)
        elif kind == 'rename':
            file.rename(new)
        elif len(beside) > 5:
            file.unlink()
        train, val = folder(noted, dir=str(root))
        assert noted.train is not None
        assert noted.val is not None
        assert not named(train) & set(noted.val.tolist()), edit
        assert not named(val) & set(noted.train.tolist()), edit
        assert len(named(train) | named(val)) == len(list(root.glob('*/*.png')))
        noted = known(train, val)


def test_without_a_note_few_move(tmp_path: Path) -> None:
    """A new run on a folder to which images were added holds out nearly the same ones."""
    root = fill(tmp_path, a=100, b=100)
    before = named(folder(dir=str(root))[1])
    paint(*(root / 'a' / f'new{i}.png' for i in range(10)))
    after = named(folder(dir=str(root))[1])
    assert (len(before), len(after)) == (20, 21)
    assert len(before - after) <= 2


def test_a_run_that_noted_no_names_keeps_its_division(tmp_path: Path) -> None:
    """jcls 0.1 divided by row at first: its runs go on with what they held out."""
    root = fill(tmp_path, a=40, b=20)
    train, val = folder(Known(('a', 'b'), by_row=True), dir=str(root))
    whole = sorted(f'{p.parent.name}/{p.name}'.encode() for p in root.glob('*/*.png'))
    labels = np.array([name[:1] == b'b' for name in whole], np.int32)
    rows = stratified_split(labels, ('a', 'b'), 0.1, 0)
    assert [named(part) for part in (train, val)] == [{whole[i] for i in part} for part in rows]


def test_a_run_keeps_the_order_of_its_classes(tmp_path: Path) -> None:
    """jcls 0.1 sorted numbers as text at first: its runs go on with their labels and rows."""
    root = fill(tmp_path, **{str(i): 10 for i in range(12)})
    old = tuple(sorted(map(str, range(12))))
    data = sources.create(None, Known(old, by_row=True), name='folder', dir=str(root))
    assert data.train.classes == data.val.classes == old
    for part in (data.train, data.val):
        for i in range(len(part)):
            label = int(part.read(i)[1])
            assert label == part.labels[i]
            assert part.name(i).split('/')[-2] == old[label]
    fresh = sources.create(name='folder', dir=str(root))
    assert fresh.train.classes == tuple(map(str, range(12)))


@pytest.mark.parametrize('by_row', [False, True])
def test_folds_by_name(tmp_path: Path, by_row: bool) -> None:
    """Every image is held out by one fold, and each fold has its share of each class."""
    root = fill(tmp_path, **{'train/a': 20, 'train/b': 10, 'val/a': 1, 'val/b': 1})

    def fold(i: int) -> Source:
        note = Known(('a', 'b'), by_row=True) if by_row else None
        return sources.create(None, note, name='folder', dir=str(root), folds=5, fold=i).val

    parts = [fold(i) for i in range(5)]
    assert sum(len(named(part)) for part in parts) == len(set.union(*map(named, parts))) == 30
    assert [np.bincount(part.labels).tolist() for part in parts] == [[4, 2]] * 5


def test_a_name_that_is_listed_twice(tmp_path: Path) -> None:
    """Both lines are on the same side."""
    fill(tmp_path, a=20, b=20)
    rows = [f'{c}/{i:03}.png {c}' for c in 'ab' for i in range(20)]
    (tmp_path / 'list').write_text('\n'.join(rows * 3))
    train, val = listing(train_list=str(tmp_path / 'list'), dir=str(tmp_path), val_fraction=0.2)
    assert not set(train.names) & set(val.names)
    assert np.bincount(val.labels).tolist() == [12, 12]


# Exact copies


def groups(root: Path) -> dict[str, int]:
    """The group of each file by its name."""
    files = sorted(str(p) for p in root.glob('*/*'))
    return dict(zip(files, copies.groups(files).tolist(), strict=True))


def test_copies_are_equal_bytes(tmp_path: Path) -> None:
    """Compared with a dictionary of whole contents; equal sizes and ends do not suffice."""
    draw = random.Random(0)
    contents = [bytes([a]) * 5000 + bytes([b]) * 5000 for a in range(3) for b in range(3)]
    contents += [b'', b'x', b'y' * 10000]
    for i in range(300):
        path = tmp_path / f'{i % 7}' / f'{i}'
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(draw.choice(contents))
    found = groups(tmp_path)
    by_content = {path: Path(path).read_bytes() for path in found}
    for a, b in draw.sample([(a, b) for a in found for b in found], 20000):
        assert (found[a] == found[b]) == (by_content[a] == by_content[b])
    assert groups(tmp_path) == found  # from the disk


def test_copies_are_remembered_until_a_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time no file is read; a changed one is found."""
    fill(tmp_path, a=4, b=4)
    shutil.copy(tmp_path / 'a/000.png', tmp_path / 'b/copy.png')
    found = groups(tmp_path)
    assert len(set(found.values())) == 8
    with monkeypatch.context() as patch:
        patch.setattr(copies, '_digest', None)
        assert groups(tmp_path) == found
    (tmp_path / 'b/copy.png').write_bytes((tmp_path / 'a/001.png').read_bytes())
    os.utime(tmp_path / 'b/copy.png', ns=(0, 0))
    again = groups(tmp_path)
    assert again[str(tmp_path / 'b/copy.png')] == again[str(tmp_path / 'a/001.png')]


def test_copies_across(tmp_path: Path) -> None:
    """Each held-out image with a copy in training is named with it, and no other."""
    root = fill(tmp_path, **{'train/a': 5, 'train/b': 5, 'val/a': 2, 'val/b': 2})
    for name in ('val/a/leak.png', 'val/b/leak.png', 'val/b/again.png'):
        shutil.copy(root / 'train/b/003.png', root / name)
    shutil.copy(root / 'val/a/001.png', root / 'val/b/own.png')  # twice on one side
    train, val = folder(dir=str(root))
    pairs = {(val.name(i), train.name(j)) for i, j in copies.across(train, val)}
    copied = {str(root / n) for n in ('val/a/leak.png', 'val/b/leak.png', 'val/b/again.png')}
    assert pairs == {(name, str(root / 'train/b/003.png')) for name in copied}


def test_copies_are_kept_together(tmp_path: Path) -> None:
    """With copies='together' no image is on both sides; counts are those without copies."""
    root = fill(tmp_path, a=20, b=20)
    for image in sorted(root.glob('*/*.png')):
        shutil.copy(image, image.with_name(f'{image.stem}_copy.png'))
    train, val = folder(dir=str(root))
    assert len(copies.across(train, val)) > 4
    train, val = folder(dir=str(root), copies='together')
    assert copies.across(train, val) == []
    assert (len(train), np.bincount(val.labels).tolist()) == (72, [4, 4])
    with pytest.raises(ValueError, match=r'config\.data\.copies'):
        folder(dir=str(root), copies='apart')


def test_copies_in_two_classes(tmp_path: Path) -> None:
    """An image with two labels is on one side, too."""
    root = fill(tmp_path, a=20, b=20)
    for i in range(5):
        shutil.copy(root / f'a/00{i}.png', root / f'b/from_a_{i}.png')
    assert copies.across(*folder(dir=str(root), val_fraction=0.4)) != []
    train, val = folder(dir=str(root), copies='together', val_fraction=0.4)
    assert copies.across(train, val) == []


@pytest.mark.parametrize('seed', range(40))
def test_an_image_of_two_classes_trains(seed: int) -> None:
    """Whatever the hash, so that each class still has others to hold out."""
    names = np.array([f'{i}'.encode() for i in (*range(6), 0, *range(6, 11))])
    rows = deal(names, np.repeat([0, 1], 6), ('a', 'b'), 0.1, seed)
    assert [int(row) // 6 for row in rows[1]] == [0, 1]
    assert not {0, 6} & set(rows[1].tolist())


def test_folds_keep_copies_together(tmp_path: Path) -> None:
    """As held-out parts do; where a class cannot be divided, the message says why."""
    root = fill(tmp_path, **{'train/a': 20, 'train/b': 20, 'val/a': 1, 'val/b': 1})
    for image in sorted(root.glob('train/*/*.png')):
        shutil.copy(image, image.with_name(f'{image.stem}_copy.png'))

    def fold(i: int, copied: str) -> sources.Data:
        return sources.create(dir=str(root), folds=4, fold=i, copies=copied)

    assert copies.across(*fold(0, 'warn')[:2]) != []
    evaluated = [fold(i, 'together') for i in range(4)]
    assert all(copies.across(data.train, data.val) == [] for data in evaluated)
    whole = set.union(*(named(data.val) for data in evaluated))
    assert len(whole) == sum(len(data.val) for data in evaluated) == 80
    for image in sorted(root.glob('train/b/*.png'))[1:]:
        shutil.copy(root / 'train/b/000.png', image)
    with pytest.raises(ValueError, match="all images of class 'b'"):
        fold(0, 'together')


def test_copies_across_given_sets(tmp_path: Path) -> None:
    """jcls divides nothing there, so it keeps nothing together."""
    root = fill(tmp_path, **{'train/a': 5, 'train/b': 5, 'val/a': 2, 'val/b': 2})
    with pytest.raises(ValueError, match='keep each copy in one of them'):
        sources.create(dir=str(root), copies='together')
    shutil.copy(root / 'train/b/003.png', root / 'val/b')
    data = sources.create(dir=str(root))
    (warning,) = same_data.copied(data, 'warn')
    assert warning.endswith('Keep each in one of the two sets')


def test_a_class_of_copies_alone(tmp_path: Path) -> None:
    """It cannot be divided, and the message says why."""
    root = fill(tmp_path, a=20, b=1)
    for i in range(3):
        shutil.copy(root / 'b/000.png', root / f'b/{i}.png')
    with pytest.raises(ValueError, match=r"of class 'b' no image .*copies of each other"):
        folder(dir=str(root), copies='together')

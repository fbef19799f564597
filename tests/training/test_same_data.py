"""A run goes on with the images it began with, or says in numbers what has changed."""

from __future__ import annotations

import gzip
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jcls
from helpers.folders import noise, paint
from helpers.runs import TINY
from jcls.data.sources import copies
from jcls.workdir import images
from jcls.workdir.images import IMAGES, Files, read_names


@pytest.fixture(scope='module')
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder and a workdir of a run of twelve steps on it."""
    base = tmp_path_factory.mktemp('begun')
    noise(base / 'images', *(f'{c}/{i:02}.png' for c in 'ab' for i in range(20)))
    jcls.train(config(base / 'images'), base / 'run')
    return base / 'images', base / 'run'


@pytest.fixture
def run(begun: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """Copies of both, to change."""
    for path in begun:
        shutil.copytree(path, tmp_path / path.name)
    return tmp_path / 'images', tmp_path / 'run'


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """The tiny run on a folder."""
    crop = ({'name': 'center_crop', 'size': 8},)
    evaluate = TINY['evaluate'] | {'preprocess': crop}
    data = {'name': 'folder', 'dir': str(folder)}
    return TINY | {'data': data, 'evaluate': evaluate} | changes


def test_the_names_are_noted(begun: tuple[Path, Path]) -> None:
    """Those of both sides, whatever is in a name."""
    folder, workdir = begun
    names = read_names(workdir)
    assert names is not None
    assert {part: len(some) for part, some in names.items()} == {'train': 36, 'val': 4}
    everything = sorted(str(p.relative_to(folder)).encode() for p in folder.glob('*/*'))
    assert sorted([*names['train'], *names['val']]) == everything


def test_any_name_can_be_noted(tmp_path: Path) -> None:
    """Line breaks, tabs, quotes and bytes that are not UTF-8 come back as they were."""
    names = np.array([b'a/\xff\n.jpg', b'a/\t".jpg', 'ä/☃.jpg'.encode(), b'a/\xe2\x80\xa8'])
    places = ['/x/' + os.fsdecode(name) for name in names[:2]] + ['/y/\udcff\t', '/xa/\u2028']
    train = Files(names, np.array([0, 1, 1 << 40, copies.MISSING]), places)
    images.write(tmp_path, {'train': train, 'val': Files(names[:1], np.array([5]), ['/z'])})
    noted = images.read(tmp_path, 'train')
    assert noted is not None
    assert [list(part) for part in noted] == [list(part) for part in train]
    found = read_names(tmp_path)
    assert found is not None
    assert [found[part].tolist() for part in ('train', 'val')] == [
        names.tolist(),
        names[:1].tolist(),
    ]
    (tmp_path / IMAGES).write_bytes(gzip.compress(b'nonsense'))
    with pytest.raises(ValueError, match=r'images\.txt\.gz is damaged'):
        read_names(tmp_path)


@pytest.mark.parametrize(
    'content', [None, b'', b'\x1f\x8bnonsense', gzip.compress(b'train\t[1]', mtime=0)]
)
def test_a_lost_or_damaged_note_is_no_older_run(
    run: tuple[Path, Path], caplog: pytest.LogCaptureFixture, content: bytes | None
) -> None:
    """Who trained is then not known: nothing is evaluated or trained on as if it were."""
    folder, workdir = run
    (workdir / IMAGES).unlink()
    if content is not None:
        (workdir / IMAGES).write_bytes(content)
    reason = 'is gone, which' if content is None else 'is damaged'
    for call in (
        lambda: jcls.evaluate(workdir),
        lambda: jcls.train(config(folder, duration='16 steps'), workdir),
    ):
        with pytest.raises(ValueError, match=rf'images\.txt\.gz {reason}.* from a copy'):
            call()
    if content is None:
        assert jcls.evaluate(workdir, images=folder)['examples'] == 40
        assert 'is gone: nothing tells which images trained' in caplog.text


def test_a_renamed_image_stops_a_resume(run: tuple[Path, Path]) -> None:
    """The message counts and names what is gone and what is new, and costs nothing."""
    folder, workdir = run
    trained = read_names(workdir)['train'][0].decode()
    (folder / trained).rename(folder / 'a' / 'zzz.png')
    longer = config(folder, duration='16 steps')
    match = rf'other images than there are now: 1 gone \({trained}\); 1 new \(a/zzz\.png\)\. Bring'
    with pytest.raises(ValueError, match=match) as error:
        jcls.train(longer, workdir)
    assert f'--config.init.source={workdir}' in str(error.value)
    (folder / 'a' / 'zzz.png').rename(folder / trained)
    assert jcls.train(longer, workdir).step == 16


def test_other_held_out_images_are_said(run: tuple[Path, Path], capsys: Any) -> None:
    """A held-out image that is gone does not stop a run."""
    folder, workdir = run
    held_out = read_names(workdir)['val'][0].decode()
    (folder / held_out).unlink()
    assert jcls.train(config(folder, duration='16 steps'), workdir).step == 16
    said = capsys.readouterr().out
    assert f'warning: the held-out images are not those of before: 1 gone ({held_out})' in said


def test_an_evaluation_sees_no_image_that_trained(run: tuple[Path, Path], caplog: Any) -> None:
    """New images are divided, known ones keep their side, and the changes are said."""
    folder, workdir = run
    names = read_names(workdir)
    (folder / names['train'][0].decode()).unlink()
    noise(folder, *(f'{c}/new{i:02}.png' for c in 'ab' for i in range(20)))
    with caplog.at_level(logging.WARNING):
        results = jcls.evaluate(workdir, overrides={'data.dir': str(folder)})
    assert results['examples'] == 8
    assert 'training images since the run began: 1 gone (' in caplog.text
    assert 'held-out images since the run began: 4 new (' in caplog.text


def test_a_folder_may_move(run: tuple[Path, Path], tmp_path: Path) -> None:
    """Names are relative to the folder."""
    folder, workdir = run
    folder.rename(tmp_path / 'elsewhere')
    assert jcls.train(config(tmp_path / 'elsewhere', duration='16 steps'), workdir).step == 16


def test_a_workdir_without_a_checkpoint_begins_anew(run: tuple[Path, Path], capsys: Any) -> None:
    """Nothing was learned from the images of before, so others are as good; it is said."""
    folder, workdir = run
    shutil.rmtree(workdir / 'checkpoints')
    for image in sorted(folder.glob('a/*'))[:3]:
        image.unlink()
    assert jcls.train(config(folder), workdir).step == 12
    assert len(read_names(workdir)['train']) == 33
    assert re.search(r'begins anew: \d+ line\(s\) of metrics.jsonl were', capsys.readouterr().out)


def test_copies_across_are_warned_of(run: tuple[Path, Path], capsys: Any) -> None:
    """The warning counts them and names the cure, which works."""
    folder, workdir = run
    for image in sorted(folder.glob('*/*.png')):
        shutil.copy(image, image.with_name(f'{image.stem}_copy.png'))
    other = workdir.with_name('other')
    jcls.train(config(folder), other)
    said = capsys.readouterr().out
    assert 'of the 8 held-out images are exact copies of images that train (' in said
    assert '--config.data.copies=together' in said
    for kind in ('together', 'ignore'):
        data = {'name': 'folder', 'dir': str(folder), 'copies': kind}
        jcls.train(config(folder, data=data), workdir.with_name(kind))
        assert 'exact copies' not in capsys.readouterr().out


@pytest.mark.parametrize(('seed', 'seen'), [(0, False), (1, True)])
def test_a_start_from_weights_says_which_held_out_images_they_know(
    begun: tuple[Path, Path], tmp_path: Path, capsys: Any, seed: int, seen: bool
) -> None:
    """The same images divided in the same way are fine; divided anew, they are not."""
    folder, source = begun
    changed = config(folder, init={'source': str(source)}, duration='1 steps')
    changed['data'] |= {'split_seed': seed}
    jcls.train(changed, tmp_path / 'run')
    warning = f'of the 4 images to evaluate on are images that {source} trained on'
    assert (warning in capsys.readouterr().out) == seen


def test_images_that_trained_are_known_whatever_they_are_called(
    begun: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A list and a folder, also by a link or a copy, call the same files by other names."""
    folder, workdir = begun
    names = [name.decode() for name in read_names(workdir)['train'].tolist()]
    lines = ''.join(f'{folder / name} {name[0]}\n' for name in names)
    (tmp_path / 'list.txt').write_text(lines)
    (tmp_path / 'link').symlink_to(folder)
    data = {'name': 'list', 'train_list': str(tmp_path / 'list.txt')}
    jcls.train(config(folder, data=data, duration='1 steps'), tmp_path / 'run')
    for source, where in (
        (workdir, tmp_path / 'list.txt'),
        (tmp_path / 'run', tmp_path / 'link'),
        (workdir, folder),
    ):
        caplog.clear()
        jcls.evaluate(source, images=where)
        seen = len(names) if source == workdir else len(names) * 9 // 10
        assert f'{seen} of the {len(names) if "list" in where.name else 40} images' in caplog.text
    for c in 'ab':
        shutil.copytree(folder / c, tmp_path / 'other' / f'{c}_')
        for i, image in enumerate(sorted((tmp_path / 'other' / f'{c}_').iterdir())):
            image.rename(tmp_path / 'other' / f'{c}_' / f'image {i}.png')
        (tmp_path / 'other' / f'{c}_').rename(tmp_path / 'other' / c)
    caplog.clear()
    jcls.evaluate(workdir, images=tmp_path / 'other')
    assert f'36 of the 40 images to evaluate on are images that {workdir} trained on' in caplog.text


def test_a_set_whose_names_are_those_of_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """train/a/00.png and val/a/00.png are two images; what matters is the file, also once moved."""
    root = tmp_path / 'data'
    names = [f'{c}/{i:02}.png' for c in 'ab' for i in range(10)]
    noise(root / 'train', *names)
    paint(*(root / 'val' / name for name in names))
    monkeypatch.chdir(tmp_path)
    jcls.train(config(Path('data'), duration='1 steps'), tmp_path / 'run')
    run = tmp_path / 'run'

    def said(**given: Any) -> str:
        caplog.clear()
        jcls.evaluate(run, **given)
        return caplog.text

    (tmp_path / 'elsewhere').mkdir()
    monkeypatch.chdir(tmp_path / 'elsewhere')
    assert 'trained on' not in said(images=root / 'val')
    all_of_them = f'20 of the 20 images to evaluate on are images that {run} trained on'
    assert all_of_them in said(images=root / 'train')
    val_dir = {'data.dir': str(root / 'val'), 'data.val_dir': str(root / 'train')}
    assert all_of_them in said(overrides=val_dir)
    root.rename(tmp_path / 'moved')
    assert 'trained on' not in said(images=tmp_path / 'moved/val')
    moved = '20 of the 20 images to evaluate on have the names and sizes of images that'
    assert moved in said(images=tmp_path / 'moved/train')
    lines = gzip.decompress((run / IMAGES).read_bytes()).decode().splitlines()
    older = ''.join('\t'.join(line.split('\t')[:2]) + '\n' for line in lines)
    (run / IMAGES).write_bytes(gzip.compress(older.encode()))
    assert 'have the names of images that' in said(images=tmp_path / 'moved/train')

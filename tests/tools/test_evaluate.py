"""Whose classes: evaluation, starting weights and teachers compare names and never numbers."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jcls
from helpers.folders import noise
from helpers.runs import TINY
from jcls.data.sources.labelled import labelled
from jcls.training.distill import soft
from jcls.training.teacher import create as create_teacher
from jcls.weights.load import read
from jcls.workdir.files import read_metadata, write_json
from jcls.workdir.images import read_names

CLASSES = ('ant', 'bee', 'cat')


def config(folder: Path, **changes: Any) -> dict[str, Any]:
    """The tiny run on a folder of images 8 x 8."""
    evaluate = TINY['evaluate'] | {'preprocess': ({'name': 'center_crop', 'size': 8},)}
    return TINY | {'data': {'name': 'folder', 'dir': str(folder)}, 'evaluate': evaluate} | changes


@pytest.fixture(scope='module')
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder of three classes and a workdir of a run on it."""
    base = tmp_path_factory.mktemp('run')
    noise(base / 'images', *(f'{c}/{i:02}.png' for c in CLASSES for i in range(20)))
    jcls.train(config(base / 'images'), base / 'workdir')
    return base / 'images', base / 'workdir'


def renamed(folder: Path, to: Path, **names: str) -> Path:
    """A copy of the folder with other names of its classes."""
    shutil.copytree(folder, to)
    for old, new in names.items():
        (to / old).rename(to / f'{new}.new')
    for new in names.values():
        (to / f'{new}.new').rename(to / new)
    return to


def test_all_of_a_folder(run: tuple[Path, Path], tmp_path: Path, caplog: Any) -> None:
    """The images that were held out, as a folder or a list, give the run's own evaluation."""
    folder, workdir = run
    names = [name.decode() for name in read_names(workdir)['val']]
    for name in names:
        (tmp_path / 'held_out' / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / name, tmp_path / 'held_out' / name)
    (tmp_path / 'list.txt').write_text('\n'.join(f'{folder}/{n} {n.split("/")[0]}' for n in names))
    expected = jcls.evaluate(workdir)
    for place in (tmp_path / 'held_out', tmp_path / 'list.txt'):
        assert jcls.evaluate(workdir, images=place) == pytest.approx(expected, rel=1e-5)
    assert 'trained on' not in caplog.text
    with caplog.at_level(logging.WARNING):
        assert jcls.evaluate(workdir, images=folder)['examples'] == 60
    assert '54 of the 60 images to evaluate on are images that' in caplog.text


def test_turned_images_are_counted(run: tuple[Path, Path], tmp_path: Path, caplog: Any) -> None:
    """Unless the evaluation turns them."""
    folder, workdir = run
    places = sorted(path for path in folder.rglob('*') if path.suffix in ('.png', '.jpg'))
    turn = Image.Exif()
    turn[0x0112] = 3
    for path in places:
        to = tmp_path / path.parent.name / path.name
        to.parent.mkdir(exist_ok=True)
        Image.open(path).save(to, exif=turn)
    jcls.evaluate(workdir, images=tmp_path)
    assert f'note: {len(places)} of the {len(places)} images say that they are tur' in caplog.text
    caplog.clear()
    jcls.evaluate(workdir, images=tmp_path, overrides={'data.exif': True})
    assert 'turned' not in caplog.text


def test_a_folder_with_some_of_the_classes(run: tuple[Path, Path], tmp_path: Path) -> None:
    """Labels are found by name, and empty folders do not matter."""
    folder, workdir = run
    some = tmp_path / 'some'
    shutil.copytree(folder / 'cat', some / 'cat')
    (some / 'ant').mkdir()
    whole = {c: jcls.evaluate(workdir, images=self_alone(folder, c, tmp_path)) for c in CLASSES}
    assert jcls.evaluate(workdir, images=some)['loss'] == whole['cat']['loss']
    mean = np.mean([result['loss'] for result in whole.values()])
    assert jcls.evaluate(workdir, images=folder)['loss'] == pytest.approx(mean, rel=1e-5)


def self_alone(folder: Path, name: str, to: Path) -> Path:
    """A folder of one class."""
    shutil.copytree(folder / name, to / f'only {name}' / name)
    return to / f'only {name}'


def test_other_classes_are_refused(run: tuple[Path, Path], tmp_path: Path) -> None:
    """As many, more, numbers or two sets: each is an error with both lists, never an accuracy."""
    folder, workdir = run
    other = renamed(folder, tmp_path / 'other', ant='zebra')
    more = renamed(folder, tmp_path / 'more')
    shutil.copytree(more / 'ant', more / 'cow')
    for place, extra in ((other, 'zebra'), (more, 'cow')):
        both = rf'3 classes \(ant, bee, cat\), the data .*{extra}.*: they must be the same names'
        with pytest.raises(ValueError, match=both):
            jcls.evaluate(workdir, overrides={'data.dir': str(place)})
        unknown = rf'1 class\(es\) that the weights do not know: {extra}; they know ant, bee, cat'
        with pytest.raises(ValueError, match=unknown):
            jcls.evaluate(workdir, images=place)
    (tmp_path / 'list.txt').write_text(f'{folder}/ant/00.png 0\n{folder}/bee/00.png 1\n')
    with pytest.raises(ValueError, match=r'do not know: 0, 1; they know ant.*\. Give .*classes=FI'):
        jcls.evaluate(workdir, images=tmp_path / 'list.txt')
    (tmp_path / 'names.txt').write_text('ant\nbee\ncat\n')
    numbered = {'data.classes': str(tmp_path / 'names.txt')}
    found = jcls.evaluate(workdir, images=tmp_path / 'list.txt', overrides=numbered)
    assert found['examples'] == 2
    for part in ('train', 'val'):
        shutil.copytree(folder, tmp_path / 'sets' / part)
    with pytest.raises(ValueError, match='has a training and a validation set: name the folder'):
        jcls.evaluate(workdir, images=tmp_path / 'sets')
    with pytest.raises(ValueError, match='nowhere: no such folder or list'):
        jcls.evaluate(workdir, images=tmp_path / 'nowhere')
    for key in ('data.dir', 'data.val_fraction'):
        with pytest.raises(ValueError, match=f'{key}: means nothing for all images of'):
            jcls.evaluate(workdir, images=folder, overrides={key: '0.5'})
    with pytest.raises(ValueError, match=r'00\.png is an image, neither .*: jcls predict'):
        jcls.evaluate(workdir, images=folder / 'ant/00.png')
    assert labelled(folder, ('ant', 'bee', 'cat', 'cow', 'cow')).labels.tolist()
    with pytest.raises(ValueError, match='ant: the weights have several classes of this name'):
        labelled(folder, ('ant', 'bee', 'ant', 'cat'))


def in_another_order(workdir: Path, to: Path) -> Path:
    """Weights that compute the same, with the classes in the order cat, ant, bee."""
    from jcls.weights import artifact

    metadata, variables = read(workdir)
    metadata = {k: v for k, v in metadata.items() if k not in ('step', 'averaged', 'metrics')}
    head = variables['params']['head']
    head = {name: np.asarray(leaf)[..., [2, 0, 1]] for name, leaf in head.items()}
    variables = {**variables, 'params': {**variables['params'], 'head': head}}
    artifact.write(to, {**metadata, 'classes': ['cat', 'ant', 'bee']}, variables)
    return to


def test_another_order_is_mapped(run: tuple[Path, Path], tmp_path: Path) -> None:
    """Evaluated, started from or asked as a teacher, weights in another order are the same ones."""
    folder, workdir = run
    turned = in_another_order(workdir, tmp_path / 'turned')
    expected = jcls.evaluate(workdir, images=folder)
    assert jcls.evaluate(turned, images=folder)['loss'] == pytest.approx(expected['loss'])
    # a run that starts from them
    begun = jcls.build(config(folder, init={'source': str(turned)})).init()
    head = jax.device_get(begun.params['head'])
    for name, leaf in read(workdir)[1]['params']['head'].items():
        np.testing.assert_array_equal(head[name], leaf)
    # a teacher
    mesh = jcls.build(config(folder)).mesh
    images = np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), np.uint8)
    logits = []
    for path in (workdir, turned):
        distillation = soft(teacher=str(path))
        logits.append(np.asarray(create_teacher(distillation, CLASSES, 3, mesh).logits(images)))
    np.testing.assert_allclose(*logits, rtol=1e-6)


def test_heads_of_other_classes(run: tuple[Path, Path], tmp_path: Path, caplog: Any) -> None:
    """A head is kept for the same classes only, unless the weights' names are not known."""
    folder, workdir = run
    other = renamed(folder, tmp_path / 'other', ant='zebra')
    keep = {'init': {'source': str(workdir)}}
    with pytest.raises(ValueError, match=r"ant, bee, cat.*bee, cat, zebra.*head='new'"):
        jcls.build(config(other, **keep)).init()
    jcls.build(config(other, init={'source': str(workdir), 'head': 'new'})).init()
    assumed = in_another_order(workdir, tmp_path / 'assumed')
    metadata = read_metadata(assumed)
    write_json(
        assumed / 'model.json', {**metadata, 'classes': ['0', '1', '2'], 'assumed': ['classes']}
    )
    with caplog.at_level(logging.WARNING):
        jcls.build(config(other, init={'source': str(assumed)})).init()
    assert 'are not known: its head is taken in their order' in caplog.text
    with pytest.raises(ValueError, match='do not know: ant, bee, cat; they know 0, 1, 2'):
        jcls.evaluate(assumed, images=folder)

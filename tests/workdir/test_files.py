"""A workdir goes on with its own config and data alone, and must be writable."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jcls
from helpers.runs import TINY
from jcls.training import loop
from jcls.training.experiment import Experiment
from jcls.workdir.files import check_apart


def test_a_workdir_of_another_config_is_refused_with_the_difference(
    tiny: dict[str, Any], finished: Path
) -> None:
    """Other mathematics and a shorter run are refused, field by field; fields without effect on
    the mathematics may change, and a longer run goes on."""
    before = (finished / 'config.json').read_bytes()
    for section, field, value in (('optimizer', 'lr', 0.1), ('data', 'split_seed', 3)):
        changed = {**tiny, section: tiny[section] | {field: value}}
        difference = rf'(?s)another config.*\+ {section}.{field} = {value}'
        with pytest.raises(ValueError, match=difference):
            jcls.train(changed, finished)
    with pytest.raises(ValueError, match=r"\+ duration = '11 steps'"):
        jcls.train({**tiny, 'duration': '11 steps'}, finished)
    assert (finished / 'config.json').read_bytes() == before


def test_a_config_from_before_a_field_was_added_still_resumes(
    experiment: Experiment, finished: Path, tmp_path: Path
) -> None:
    """A field that config.json lacks has its default: an upgrade does not refuse old workdirs."""
    old = json.loads((finished / 'config.json').read_text())
    del old['optimizer']['nesterov']
    (tmp_path / 'config.json').write_text(json.dumps(old))
    assert loop.train(experiment, tmp_path).step == 12


def test_other_data_in_the_same_place_are_refused(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A workdir does not go on with other classes or another number of images, whose weights and
    order would not be the run's; model.json stays as it was."""

    def arrays(name: str, classes: str, count: int) -> dict[str, Any]:
        labels = np.arange(count) % 2
        images = np.zeros((count, 8, 8, 3), np.uint8)
        file = tmp_path / name
        np.savez(file, train_images=images, train_labels=labels, classes=list(classes))
        return {**tiny, 'duration': '2 steps', 'data': {'name': 'arrays', 'file': f'{file}.npz'}}

    workdir = tmp_path / 'run'
    jcls.train(arrays('one', 'cd', 40), workdir)
    metadata = (workdir / 'model.json').read_bytes()
    for config, message in (
        (arrays('two', 'dz', 40), 'its classes: c, d; now: d, z'),
        (arrays('three', 'cd', 50), 'its number of training images: 36; now: 45'),
    ):
        with pytest.raises(ValueError, match=message):
            jcls.train(config, workdir)
    assert (workdir / 'model.json').read_bytes() == metadata


def test_a_workdir_that_cannot_be_written_is_an_error_at_once(
    experiment: Experiment, tmp_path: Path
) -> None:
    """A file in the way of the workdir is told before any step."""
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r'cannot write to the workdir .*choose another --workdir'):
        loop.train(experiment, tmp_path / 'file' / 'run')


def test_a_run_without_its_config_is_no_other_folder(finished: Path, tmp_path: Path) -> None:
    """Its checkpoints are of use once the file is back."""
    shutil.copytree(finished, tmp_path / 'run')
    (tmp_path / 'run' / 'config.json').unlink()
    with pytest.raises(ValueError, match=r'config\.json is gone: bring it back from a copy'):
        jcls.evaluate(tmp_path / 'run')
    with pytest.raises(ValueError, match=r'config\.json is gone: bring it back from a copy'):
        jcls.train(TINY, tmp_path / 'run')


@pytest.mark.parametrize(
    ('data', 'workdir', 'message'),
    [
        ({'name': 'folder', 'dir': 'images'}, 'images/runs', 'lies inside config.data.dir='),
        ({'name': 'folder', 'dir': 'images'}, 'images', 'lies inside config.data.dir='),
        ({'name': 'folder', 'dir': 'a', 'val_dir': 'b'}, 'b/run', 'inside config.data.val_dir='),
        ({'name': 'folder', 'dir': 'link'}, 'images/runs', 'lies inside config.data.dir='),
        ({'name': 'folder', 'dir': 'runs/images'}, 'runs', 'lies inside --workdir'),
        ({'name': 'records', 'dir': 'runs/records'}, 'runs', 'lies inside --workdir'),
        (
            {'name': 'list', 'train_list': 'runs/a.txt'},
            'runs',
            'train_list=.* lies inside --workdir',
        ),
        ({'name': 'folder', 'dir': 'images'}, 'images-runs', ''),
        ({'name': 'folder', 'dir': 'images', 'val_dir': None}, 'runs', ''),
        ({'name': 'records', 'dir': 'records'}, 'records/runs', ''),
        ({'name': 'digits'}, 'runs', ''),
    ],
)
def test_workdir_and_images_lie_apart(data, workdir, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'images').mkdir()
    (tmp_path / 'link').symlink_to('images')
    if not message:
        return check_apart(Path(workdir), data)
    with pytest.raises(ValueError, match=message) as refused:
        check_apart(Path(workdir), data)
    assert 'choose a --workdir beside' in str(refused.value)

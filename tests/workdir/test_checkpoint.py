"""Checkpoints: the latest and the best are kept, and what is damaged or foreign is not taken."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import jax.numpy as jnp
import pytest

import jcls
from helpers.runs import TINY, assert_same_run, crashing
from jcls.training import loop
from jcls.training.experiment import Experiment
from jcls.workdir import log
from jcls.workdir.checkpoint import FOLDER, Checkpoints
from jcls.workdir.damage import checksums


def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(
    experiment: Experiment, finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A newest checkpoint that cannot be read is moved aside and named, and the run from the one
    before ends the same."""
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(experiment, 11), tmp_path)
    for file in (tmp_path / FOLDER / '10').rglob('d/*'):
        file.write_bytes(bytes(255 - byte for byte in file.read_bytes()))
    loop.train(experiment, tmp_path)
    assert 'checkpoint 10 cannot be read' in caplog.text
    assert 'going on from checkpoint 8' in caplog.text
    assert (tmp_path / 'damaged' / '10').is_dir()
    assert_same_run(tmp_path, finished, experiment)


def test_checkpoints_may_lie_on_another_disk(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged one is then copied to where it is set aside; folders of other names are none."""
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(experiment, 11), tmp_path / 'run')
    elsewhere = tmp_path / 'elsewhere'
    (tmp_path / 'run' / FOLDER).rename(elsewhere)
    (tmp_path / 'run' / FOLDER).symlink_to(elsewhere)
    for name in ('0010', '\u00b2', 'ten'):
        (elsewhere / name).mkdir()
    for file in (elsewhere / '10').rglob('d/*'):
        file.write_bytes(b'')
    rename = os.rename

    def within_a_disk(old: str, new: str, **more: int) -> None:
        if 'damaged' in str(new):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        rename(old, new, **more)

    monkeypatch.setattr(os, 'rename', within_a_disk)
    assert loop.train(experiment, tmp_path / 'run').step == 12
    assert (tmp_path / 'run' / 'damaged' / '10').is_dir()


def test_of_checkpoints_that_are_all_damaged_none_is_moved(
    experiment: Experiment, tmp_path: Path
) -> None:
    """With no readable checkpoint the run does not start over silently: it stops, names the folder,
    and leaves everything in its place."""
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(experiment, 5), tmp_path)
    for file in (tmp_path / FOLDER / '4').rglob('d/*'):
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    found = r'no checkpoint in .* can be read; the newest, 4: .*"default/d/\w+".*another --workdir$'
    with pytest.raises(ValueError, match=found) as refused:
        loop.train(experiment, tmp_path)
    assert 'emove' not in str(refused.value)
    assert (tmp_path / FOLDER / '4').is_dir()


def test_a_checkpoint_with_another_value_in_it_is_not_taken(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is read is compared with a checksum from when it was saved: Orbax itself returns arrays
    whose bytes changed on disk without a word."""
    state = experiment.init()
    checkpoints = Checkpoints(tmp_path)
    with monkeypatch.context() as patch:  # save as if one bit had been another
        patch.setattr('jcls.workdir.damage.checksums', lambda *of: {**checksums(*of), 'params': 1})
        checkpoints.save(state)
        checkpoints.close()
    checkpoints = Checkpoints(tmp_path, write=False)
    with pytest.raises(ValueError, match='the checksum of params differs'):
        checkpoints.variables(0)
    checkpoints.close()


def test_a_checkpoint_of_other_parts_is_not_called_damaged(
    experiment: Experiment, tmp_path: Path
) -> None:
    """A state with parts that this version has not (here: an average) is said to be just that, and
    nobody is told to remove it."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(jcls.build({**TINY, 'ema': {'name': 'timm'}}).init())
    checkpoints.wait()
    with pytest.raises(ValueError, match='saved by another version of jcls') as refused:
        checkpoints.restore(experiment.state_shapes())
    checkpoints.close()
    assert 'emove' not in str(refused.value)


def test_the_latest_and_the_best_checkpoints_are_kept(
    experiment: Experiment, tmp_path: Path
) -> None:
    """Of many checkpoints the newest `keep` stay and the best, over a restart as well; one without
    the metric is never the best."""
    state = experiment.init()
    scores = {1: 0.2, 2: 0.9, 3: None, 4: 0.5, 5: 0.4, 6: None, 7: 0.1}
    for step, score in scores.items():
        checkpoints = Checkpoints(tmp_path, keep=2, best='eval/top1')
        metrics = {} if score is None else {'eval/top1': score, 'eval/loss': 1.0}
        checkpoints.save(dataclasses.replace(state, step=jnp.asarray(step)), metrics)
        checkpoints.close()
    checkpoints = Checkpoints(tmp_path, keep=2, best='eval/top1')
    assert checkpoints.steps() == [2, 6, 7]
    assert checkpoints.best() == 2
    checkpoints.close()


@pytest.mark.parametrize('name', ['a*', 'a?', '[a]/run'])
def test_a_workdir_that_is_a_pattern_is_refused(
    experiment: Experiment, tmp_path: Path, name: str
) -> None:
    """Orbax would not find what it wrote there, so that the run were lost; nothing is begun."""
    with pytest.raises(ValueError, match='which makes it a pattern of names'):
        loop.train(experiment, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_workdir_of_any_other_name_is_read_again(experiment: Experiment, tmp_path: Path) -> None:
    """Spaces, commas, signs, accents, a tilde: what is written is found."""
    workdir = tmp_path / "~a b,c=d:e #%20{x}'é$"
    loop.train(experiment, workdir)
    checkpoints = Checkpoints(workdir, write=False)
    (step, *_) = reversed(checkpoints.steps())
    assert checkpoints.variables(step).keys() >= {'params', 'batch_stats'}
    checkpoints.close()


def test_a_full_disk_is_told_before_the_first_step(
    experiment: Experiment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without room for one checkpoint the run does not start: bytes needed and left are named."""
    usage = type('Usage', (), {'free': 1000})
    monkeypatch.setattr('shutil.disk_usage', lambda _: usage)
    with pytest.raises(OSError, match=r'takes [\d,]+ bytes, the disk has 1,000 left'):
        loop.train(experiment, tmp_path)
    assert not (tmp_path / log.FILE).exists()

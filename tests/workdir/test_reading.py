"""Checkpoints are read while a run saves new ones and deletes old ones."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jcls
from jcls.workdir import reading, trees
from jcls.workdir.checkpoint import FOLDER, steps_in


@pytest.fixture
def workdir(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, whose newest checkpoint is 12."""
    return shutil.copytree(finished, tmp_path / 'run')


@pytest.fixture
def trains(monkeypatch: pytest.MonkeyPatch, workdir: Path) -> Callable[[int], list[Path]]:
    """Let a run save and delete in `workdir` the first times that a checkpoint is read there.

    The newest one becomes that of the next step before it is read: first some of its files are
    gone, then the folder. Gives the list of the folders read.
    """

    def let(times: int) -> list[Path]:
        read_tree, read = trees.read, []

        def disturbed(folder: Path) -> Any:
            read.append(folder)
            if len(read) <= times:
                newest = workdir / FOLDER / str(steps_in(workdir)[-1])
                shutil.copytree(newest, newest.with_name(str(int(newest.name) + 1)))
                shutil.rmtree(newest)
                if folder.exists():  # a copy that was not complete
                    shutil.rmtree(folder / 'default' / 'ocdbt.process_0')
            return read_tree(folder)

        monkeypatch.setattr(trees, 'read', disturbed)
        return read

    return let


def test_a_checkpoint_that_vanishes_is_not_missed(workdir: Path, trains: Any) -> None:
    """The newest one is taken, with the values that it has; nothing is left behind."""
    expected = reading.read(workdir)
    read = trains(3)
    saved = reading.read(workdir)
    assert (expected.step, saved.step, len(read)) == (12, 15, 4)
    for name, tree in expected.variables.items():
        for a, b in zip(_leaves(tree), _leaves(saved.variables[name]), strict=True):
            np.testing.assert_array_equal(a, b)
    assert saved.metrics == expected.metrics
    assert not any(folder.exists() for folder in read)


def _leaves(tree: Any) -> Iterator[np.ndarray]:
    for value in tree.values() if isinstance(tree, dict) else ():
        yield from _leaves(value) if isinstance(value, dict) else [value]


def test_evaluate_takes_the_newest_that_stays(workdir: Path, trains: Any) -> None:
    """Also predict and export, which read as jcls.load does; 'best' by the metric that it has."""
    trains(1)
    assert jcls.evaluate(workdir)['step'] == 13
    trains(1)
    jcls.load(workdir)


def test_a_run_that_is_faster_than_its_readers_is_told(workdir: Path, trains: Any) -> None:
    """Not endlessly tried: the message names the fields that help."""
    read = trains(1000)
    with pytest.raises(ValueError, match=r'deleted 20 checkpoints .* \(config.checkpoint.keep\)'):
        reading.read(workdir)
    assert len(read) == reading.ATTEMPTS


def test_a_number_that_is_deleted_is_told(workdir: Path, trains: Any) -> None:
    """Nobody gets another checkpoint than the one named."""
    trains(1)
    with pytest.raises(ValueError, match=r'step=12: no such checkpoint in .*13'):
        reading.read(workdir, 12)


def test_damage_is_told_and_nothing_is_changed(
    workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no run trains, a checkpoint that cannot be read is an error, and stays as it is."""
    monkeypatch.setattr(reading, 'PATIENCE', 0.1)
    shutil.rmtree(workdir / FOLDER / '12' / 'default')
    (workdir / FOLDER / '16.orbax-checkpoint-tmp').mkdir()  # what a run is writing
    before = sorted(workdir.rglob('*'))
    with pytest.raises(ValueError, match=r'checkpoint 12 in .* is damaged: .* is missing'):
        reading.read(workdir)
    assert sorted(workdir.rglob('*')) == before

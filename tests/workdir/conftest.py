"""A run that the tests of its folder share."""

from __future__ import annotations

from pathlib import Path

import pytest

import jcls
from helpers.runs import TINY
from jcls.training import loop
from jcls.training.experiment import Experiment


@pytest.fixture(scope='session')
def experiment() -> Experiment:
    """One experiment for many runs, so that its step is compiled once."""
    return jcls.build(TINY)


@pytest.fixture(scope='session')
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing disturbed."""
    workdir = tmp_path_factory.mktemp('finished')
    loop.train(experiment, workdir)
    return workdir

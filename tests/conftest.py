"""What the tests share: a CPU, a tiny run, and processes of their own for more devices or hosts."""

from __future__ import annotations

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ['JAX_PLATFORMS'] = 'cpu'  # before anything imports JAX
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'  # of tests, even small programs

import pytest

pytest.register_assert_rewrite('helpers')
from helpers import compiler

os.environ['XLA_FLAGS'] = compiler.flags()

import numpy as np

import jcls
from helpers import golden_path
from helpers.runs import TINY, environment
from jcls.training import loop
from jcls.training.experiment import Experiment

# Seldom: JAX and TensorFlow make many objects, and few of them are garbage.
gc.set_threshold(100_000, 20, 20)

# Files of long tests. The first starts processes that wait for each other, so another file compiles
# beside it. If they came last, one of pytest's two processes would have nothing left to do.
FIRST = ('test_processes', 'test_models', 'test_step', 'test_configs', 'test_readme', 'test_loop')


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files in `FIRST`."""
    rank = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_report_header() -> str:
    """The compiler's options, which decide how long the tests take."""
    return f'XLA_FLAGS: {os.environ["XLA_FLAGS"] or "none"}'


@pytest.fixture(autouse=True, scope='session')
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is remembered on disk is remembered for these tests alone, by all of their processes.

    Compiled programs are among it: many tests run the same small program.
    """
    base = tmp_path_factory.getbasetemp()
    base = base.parent if os.environ.get('PYTEST_XDIST_WORKER') else base
    os.environ['XDG_CACHE_HOME'] = str(base / 'cache')


@pytest.fixture
def tiny() -> dict[str, Any]:
    """The config of a run of seconds, to change at will."""
    import copy

    return copy.deepcopy(TINY)


@pytest.fixture(scope='session')
def experiment() -> Experiment:
    """One experiment for many runs, so that its step is compiled once."""
    return jcls.build(TINY)


@pytest.fixture(scope='session')
def finished(experiment: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `experiment` that nothing disturbed."""
    workdir = tmp_path_factory.mktemp('finished')
    loop.train(experiment, workdir)
    return workdir


@pytest.fixture(scope='session')
def golden() -> Callable[[str], Any]:
    """Load a file of tests/golden by name."""
    return lambda name: np.load(golden_path(name))


@pytest.fixture
def run_python(tmp_path: Path) -> Callable[..., list[str]]:
    """Run a script in processes of its own: ``run_python(code, devices=8, processes=2)``.

    Returns the standard output of each process; fails, with its errors, if one fails.
    """

    def run(code: str, *args: str, devices: int = 1, processes: int = 1, **env: str) -> list[str]:
        script = tmp_path / 'script.py'
        script.write_text(code)
        if processes > 1:
            with socket.socket() as free:
                free.bind(('localhost', 0))
                address = f'localhost:{free.getsockname()[1]}'
            env |= {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': str(processes)}
        own = [{'JAX_PROCESS_ID': str(i)} if processes > 1 else {} for i in range(processes)]
        running = [
            subprocess.Popen(
                [sys.executable, str(script), *args],
                env=environment(devices, **env, **named),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for named in own
        ]
        results = [process.communicate(timeout=300) for process in running]
        for process, (_, errors) in zip(running, results, strict=True):
            assert process.returncode == 0, errors
        return [output for output, _ in results]

    return run

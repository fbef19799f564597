"""A tiny run, and runs in processes of their own."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jcls.training.experiment import Experiment
from jcls.workdir import log
from jcls.workdir.checkpoint import Checkpoints

# A run of seconds on the ten digits, too short to learn to tell them apart.
TINY: dict[str, Any] = {
    'batch_size': 8,
    'duration': '12 steps',
    'data': {'name': 'digits'},
    'augment': ({'name': 'pad_and_crop', 'size': 8, 'padding': 1},),
    'model': {'name': 'resnet20', 'blocks': (1, 1), 'width': 4},
    'optimizer': {'lr': 0.05, 'reference_batch': None},
    'evaluate': {'every': '5 steps', 'preprocess': (), 'batch_size': 120},
    'checkpoint': {'every': '4 steps'},
    'log': {'every': '2 steps', 'tensorboard': False},
}


def environment(devices: int = 1, **more: str) -> dict[str, str]:
    """The environment of a test's own process with so many virtual CPU devices."""
    flags = os.environ['XLA_FLAGS']
    flags += f' --xla_force_host_platform_device_count={devices}'
    return {**os.environ, 'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, **more}


def lines(workdir: Path) -> list[dict[str, Any]]:
    """metrics.jsonl without the speed, the only thing in it that a clock decides."""
    read = log.read(workdir / log.FILE)
    return [{k: v for k, v in line.items() if k != 'train/images_per_second'} for line in read]


def assert_same_run(workdir: Path, reference: Path, experiment: Experiment) -> None:
    """The newest checkpoints are equal bit for bit, and so are all lines of metrics.jsonl."""
    states = []
    for path in (workdir, reference):
        checkpoints = Checkpoints(path, write=False)
        states.append(checkpoints.restore(experiment.state_shapes()))
        checkpoints.close()
    ours, theirs = (jax.tree_util.tree_leaves_with_path(state) for state in states)
    assert len(ours) == len(theirs) > 30
    for (path, a), (_, b) in zip(ours, theirs, strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path
    assert lines(workdir) == lines(reference)


def crashing(experiment: Experiment, at: int) -> Experiment:
    """The experiment with a step that fails at the update number `at`."""

    def step(state: Any, batch: Any) -> Any:
        if int(state.step) + 1 == at:
            raise RuntimeError('power cut')
        return experiment.train_step(state, batch)

    return dataclasses.replace(experiment, train_step=step)


def batch_of(experiment: Experiment, step: int = 0) -> dict[str, np.ndarray]:
    """The training batch of a step, on the host."""
    return jax.device_get(next(experiment.train_batches(step, step + 1)))


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


MAIN = ('-m', 'jcls.main')


def start(
    workdir: Path,
    processes: int,
    *more: str,
    each: Sequence[Sequence[str]] = ((), ()),
    programs: Sequence[Sequence[str]] = (MAIN, MAIN),
) -> list[subprocess.Popen[str]]:
    """The command line in so many processes of two devices each; `each` has words of its own."""
    config = workdir.with_suffix('.py')
    config.write_text(f'def get_config():\n    return {TINY!r}\n')
    address = f'localhost:{free_port()}'
    named = {'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': str(processes)}
    words = ['--config', str(config), '--workdir', str(workdir), *more]
    return [
        subprocess.Popen(
            [sys.executable, *programs[i], *words, *each[i]],
            env=environment(2, **named, JAX_PROCESS_ID=str(i)),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for i in range(processes)
    ]  # fmt: skip

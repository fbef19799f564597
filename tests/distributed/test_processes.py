"""Several real processes on one machine: one run, one workdir, one answer."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import jcls
from helpers.runs import MAIN, TINY, start
from jcls.workdir import log
from jcls.workdir.checkpoint import FOLDER

# The command line, but the 20th batch of this process fails.
FAILS = """
import sys
from jcls import main
from jcls.data import pipeline

batches = pipeline.batches

def failing(*args, **mixing):
    for i, batch in enumerate(batches(*args, **mixing)):
        if i == 20:
            raise {error}('x.jpg is damaged')
        yield batch

pipeline.batches = failing
sys.exit(main.main())
"""


def ends(processes: list[subprocess.Popen[str]], code: int) -> list[str]:
    """Wait for all; the standard output of each, after a check of the exit codes."""
    results = [process.communicate(timeout=180) for process in processes]
    for process, (output, errors) in zip(processes, results, strict=True):
        assert process.returncode == code, output + errors
    return [output for output, _ in results]


def test_two_processes_share_a_run_that_one_goes_on_with(tmp_path: Path) -> None:
    """2 processes x 2 devices write one workdir, count every held-out image once and start as one
    process does; a single process resumes what they saved."""
    workdir, alone = tmp_path / 'run', tmp_path / 'alone'
    first, second = ends(start(workdir, 2), 0)
    assert 'done: 12 steps' in first
    assert 'done' not in second  # only the first process talks
    jcls.train(TINY, alone)
    ours, theirs = (log.read(path / log.FILE) for path in (workdir, alone))
    assert [line['step'] for line in ours] == [line['step'] for line in theirs]
    # float32 drifts from step to step; the second is close still.
    assert ours[0]['train/loss'] == pytest.approx(theirs[0]['train/loss'], rel=1e-3)
    assert all(line['eval/examples'] == 360 for line in ours if 'eval/top1' in line)
    result = jcls.train({**TINY, 'duration': '14 steps'}, workdir)
    assert result.step == 14
    assert jcls.evaluate(workdir)['examples'] == 360


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_one_process_saves_on_all(number: signal.Signals, tmp_path: Path) -> None:
    """Sent to the second of two processes: both stop after the same step, saved, code 75, and the
    first one names the signal."""
    workdir = tmp_path / 'run'
    more = ('--config.duration=100000 steps', '--config.evaluate.every=never')
    processes = start(workdir, 2, *more)
    deadline = time.monotonic() + 120
    while len(log.read(workdir / log.FILE)) < 3:
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[1].send_signal(number)
    first, _ = ends(processes, 75)
    step = first.split(f'stopped by {number.name} at step ')[1].split()[0]
    assert (workdir / FOLDER / step).is_dir()


@pytest.mark.parametrize('victim', [0, 1])
def test_when_a_process_dies_the_other_ends_with_an_error(tmp_path: Path, victim: int) -> None:
    """Killed without warning: the other does not hang, and what was saved is intact."""
    workdir = tmp_path / 'run'
    more = ('--config.duration=100000 steps', '--config.evaluate.every=never')
    processes = start(workdir, 2, *more)
    deadline = time.monotonic() + 120
    while not any(entry.name.isdigit() for entry in (workdir / FOLDER).glob('*')):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[victim].kill()
    killed = time.monotonic()
    _, errors = processes[1 - victim].communicate(timeout=60)
    assert time.monotonic() - killed < 20  # JAX alone takes up to 100
    assert processes[1 - victim].returncode == 1
    assert f'error: process {victim} of 2, on {socket.gethostname()}, has died: killed' in errors
    assert 'stack trace' not in errors
    assert jcls.evaluate(workdir)['examples'] == 360


@pytest.mark.parametrize(('culprit', 'error'), [(0, 'ValueError'), (1, 'TypeError')])
def test_when_a_process_fails_the_other_ends_too(tmp_path: Path, culprit: int, error: str) -> None:
    """It says why and ends at once; the other neither hangs nor goes on."""
    more = ('--config.duration=100000 steps', '--config.evaluate.every=never')
    programs: list[Sequence[str]] = [MAIN, MAIN]
    programs[culprit] = ('-c', FAILS.format(error=error))
    processes = start(tmp_path / 'run', 2, *more, programs=programs)
    _, errors = processes[culprit].communicate(timeout=120)
    ended = time.monotonic()
    assert processes[culprit].returncode == 1
    assert 'x.jpg is damaged' in errors
    _, errors = processes[1 - culprit].communicate(timeout=60)
    assert processes[1 - culprit].returncode == 1
    assert f'error: process {culprit} of 2, on {socket.gethostname()}, has failed' in errors
    assert time.monotonic() - ended < 30


def test_every_process_refuses_a_workdir_of_another_config(tmp_path: Path) -> None:
    """A refused config ends all processes with the message, none waits for the others."""
    workdir = tmp_path / 'run'
    (workdir / 'checkpoints' / '4').mkdir(parents=True)
    made_by: dict[str, Any] = json.loads(json.dumps(jcls.build(TINY).config))
    (workdir / 'config.json').write_text(json.dumps({**made_by, 'seed': 7}))
    processes = start(workdir, 2)
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1
        assert '+ seed = 0' in errors


# Saves this process's part of the global batches of some steps.
BATCHES = """
import json, sys
import jax, numpy as np
from jcls.distributed import launch
launch.initialize()
import jcls

exp = jcls.build(json.loads(sys.argv[1]))
kept = {}
for at, batch in enumerate(exp.train_batches(*json.loads(sys.argv[2]))):
    for key, array in batch.items():
        parts = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start)
        kept[f'{at}_{key}'] = np.concatenate([np.asarray(shard.data) for shard in parts])
np.savez(f'{sys.argv[3]}_{jax.process_index()}.npz', **kept)
"""


def test_two_processes_mix_as_one(
    tiny: dict[str, Any], run_python: Callable[..., list[str]], tmp_path: Path
) -> None:
    """With repeated images and groups that are mixed, 2 processes x 2 devices that start at step 3
    put together the very batches that one process sees there: images, labels, lambdas."""
    tiny['data'] |= {'repeats': 2}
    tiny['mix'] = {'mixup': 0.8, 'cutmix': 1.0, 'batch_size': 2, 'mode': 'elem'}
    run_python(
        BATCHES, json.dumps(tiny), '[3, 6]', str(tmp_path / 'part'), devices=2, processes=2
    )  # fmt: skip
    parts = [np.load(tmp_path / f'part_{i}.npz') for i in range(2)]
    whole = list(jcls.build(tiny).train_batches(0, 6))[3:]
    assert len(parts[0].files) == len(parts[1].files) == 15
    for at, batch in enumerate(whole):
        assert set(batch) == {'image', 'label', 'label2', 'lam', 'mask'}
        assert (np.asarray(batch['lam']) < 1).any()
        for key, array in batch.items():
            joined = np.concatenate([part[f'{at}_{key}'] for part in parts])
            np.testing.assert_array_equal(joined, array, err_msg=key)


TRAIN = """
import json, sys
from jcls.distributed import launch
launch.initialize()
import jcls
jcls.train(json.loads(sys.argv[1]), sys.argv[2], summary=False)
"""


@pytest.mark.slow
def test_a_run_goes_on_with_any_devices_and_processes(
    tiny: dict[str, Any], run_python: Callable[..., list[str]], tmp_path: Path
) -> None:
    """Saved on 4 devices at step 4; gone on with on 1, on 8 and in 2 processes of 2: in float64 the
    very losses of the run that was never interrupted, for the order of the images is the same."""
    tiny |= {'log': {'every': '1 steps', 'tensorboard': False}, 'evaluate': {'every': 'never'}}
    tiny |= {'augment': (), 'checkpoint': {'every': '4 steps', 'keep': 9, 'best': None}}
    text, whole = json.dumps(tiny), tmp_path / 'whole'
    run_python(TRAIN, text, str(whole), devices=4, JAX_ENABLE_X64='1')
    expected = [line['train/loss'] for line in log.read(whole / log.FILE) if 'train/loss' in line]
    assert len(expected) == 12
    for devices, processes in ((1, 1), (8, 1), (2, 2)):
        again = tmp_path / f'{devices}x{processes}'
        shutil.copytree(whole, again)
        for step in (again / FOLDER).iterdir():
            if step.name.isdigit() and int(step.name) > 4:
                shutil.rmtree(step)
        run_python(
            TRAIN, text, str(again), devices=devices, processes=processes, JAX_ENABLE_X64='1'
        )
        found = [line['train/loss'] for line in log.read(again / log.FILE) if 'train/loss' in line]
        np.testing.assert_allclose(found, expected, rtol=1e-9)
        later = [path.name for path in (again / FOLDER).iterdir() if path.name.isdigit()]
        assert sorted(map(int, later)) == [4, 8, 12]

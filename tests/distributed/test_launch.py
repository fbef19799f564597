"""Several processes: found in the environment, waited for, and made to agree before they begin."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.runs import environment, start
from jcls.data.sources.folder import folder
from jcls.data.sources.source import from_memory
from jcls.distributed import agree, launch


@pytest.mark.parametrize(
    ('env', 'expected'),
    [
        ({}, False),
        ({'SLURM_NTASKS': '4'}, False),  # sbatch without srun: one process
        ({'SLURM_STEP_NUM_TASKS': '4'}, True),
        ({'SLURM_STEP_NUM_TASKS': '1'}, False),
        ({'OMPI_COMM_WORLD_SIZE': '2'}, True),
        ({'TPU_WORKER_HOSTNAMES': 'a,b'}, True),
        ({'TPU_WORKER_HOSTNAMES': 'a'}, False),
        (dict(zip(launch.BY_HAND, ('host:1234', '2', '1'), strict=True)), True),
    ],
)
def test_peers_are_found_in_the_environment(env: dict[str, str], expected: bool) -> None:
    """Launchers of several processes are recognised, allocations without them are not."""
    assert launch.has_peers(env) == expected


def test_half_an_address_is_an_error() -> None:
    """A process number without a coordinator would silently train alone."""
    with pytest.raises(ValueError, match='JAX_PROCESS_ID is set, but JAX_COORDINATOR_ADDRESS'):
        launch.has_peers({'JAX_PROCESS_ID': '1'})


@pytest.mark.parametrize('index', [0, 1])
def test_a_missing_host_is_told_after_the_stated_time(index: int, tmp_path: Path) -> None:
    """The coordinator without the other process, and a process whose coordinator is wrong."""
    began = time.monotonic()
    named = {'JAX_COORDINATOR_ADDRESS': 'localhost:9', 'JAX_NUM_PROCESSES': '2'}
    if index == 0:
        named['JAX_COORDINATOR_ADDRESS'] = f'localhost:{_free_port()}'
    done = subprocess.run(
        [sys.executable, '-m', 'jcls.main', '--config', 'configs/quickstart.py', '--workdir',
         str(tmp_path / 'run'), '--distributed_wait=3'],
        env=environment(1, **named, JAX_PROCESS_ID=str(index)),
        capture_output=True, text=True, check=False, timeout=100,
    )  # fmt: skip
    assert done.returncode == 1
    assert f'process {index} of 2, on ' in done.stdout
    assert 'waited 3 s for the others at localhost:' in done.stderr
    assert '--distributed=off runs alone' in done.stderr
    assert not (tmp_path / 'run').exists()
    assert time.monotonic() - began < 60


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(('localhost', 0))
        return free.getsockname()[1]


def test_a_host_with_another_config_is_named(tmp_path: Path) -> None:
    """One process with another rate: both refuse, and say who has what; nothing is written."""
    processes = start(tmp_path / 'run', 2, each=[(), ('--config.optimizer.lr=0.07',)])
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        assert 'do not run the same' in errors
        assert 'process 1 on ' in errors
        assert 'optimizer.lr = 0.07; process 0 on ' in errors
        assert errors.count(' = ') == 1
    assert not (tmp_path / 'run').exists()


AGREE = """
import json, sys
from pathlib import Path
import jax
from jcls.assembly import SECTIONS
from jcls.config import common_fields
from jcls.distributed import agree, launch
launch.initialize()
index, code = jax.process_index(), agree._code
config = common_fields({'seed': 0, 'data': {'dir': f'/host{index}'}}, SECTIONS)
messages = {}
for what in ('nothing', 'code', 'data', 'workdir'):
    other = what if index == 1 else ''
    agree._code = (lambda: 'another') if other == 'code' else code
    workdir = Path(sys.argv[1]) / what / ('other' if other == 'workdir' else 'run')
    try:
        agree.agree(config, lambda: {'training images': 10 + (other == 'data')}, workdir)
    except ValueError as error:
        messages[what] = str(error)
print(json.dumps(messages))
"""


def test_code_and_data_are_compared_and_folders_are_not(run_python: Any, tmp_path: Path) -> None:
    """A host may have its data elsewhere, but the same, and the same code and workdir."""
    for output in run_python(AGREE, str(tmp_path), processes=2):
        messages = json.loads(output.strip().split('\n')[-1])
        assert messages.keys() == {'code', 'data', 'workdir'}
        assert "code: jcls = 'another'; process 0 on" in messages['code']
        assert 'data: training images = 11; process 0 on' in messages['data']
        assert '/other) does not see what process 0 on' in messages['workdir']
    made = [path.relative_to(tmp_path).as_posix() for path in tmp_path.glob('*/*')]
    assert made == ['nothing/run']
    assert not list(tmp_path.glob('*/run/.*'))


def test_data_are_compared_by_some_of_their_images_and_labels() -> None:
    """Other labels, or other images, are other data; the same are the same."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (50, 4, 4, 3), np.uint8)
    labels = np.arange(50) % 2

    def checksum(images: np.ndarray, labels: np.ndarray) -> int:
        return from_memory(images, labels, ('a', 'b'), 'image').checksum()

    assert checksum(images, labels) == checksum(images.copy(), labels.copy())
    assert checksum(images, labels) != checksum(images, 1 - labels)
    assert checksum(images, labels) != checksum(images[::-1].copy(), labels)


def test_data_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A file that one host lacks: the message is its path."""
    for name in ('train/a/0.png', 'train/b/0.png', 'val/a/0.png', 'val/b/0.png'):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new('RGB', (4, 4)).save(tmp_path / name)
    train, _ = folder(dir=str(tmp_path))
    assert train.checksum() == train.checksum()
    missing = Path(train.name(0))
    missing.unlink()
    with pytest.raises(ValueError, match=f'cannot read .*{missing.name}'):
        train.checksum()


@pytest.mark.parametrize(
    ('address', 'count', 'index', 'message'),
    [
        ('localhost', '2', '0', 'must be host:port'),
        ('localhost:http', '2', '0', 'must be host:port'),
        ('host:99999', '2', '1', 'must be host:port'),
        ('host:1234', 'two', '1', 'JAX_NUM_PROCESSES=two: must be a whole number, at least 1'),
        ('host:1234', '2', '-1', 'JAX_PROCESS_ID=-1: must be a whole number, at least 0'),
        ('host:1234', '2', '2', 'JAX_NUM_PROCESSES=2: processes count from 0'),
    ],
)
def test_a_wrong_address_is_refused(address: str, count: str, index: str, message: str) -> None:
    """Before JAX is asked, which would end with a traceback."""
    env = dict(zip(launch.BY_HAND, (address, count, index), strict=True))
    with pytest.raises(ValueError, match=message):
        launch.has_peers(env)


def test_a_port_in_use_is_refused() -> None:
    """The first process must listen there; JAX would crash."""
    with socket.socket() as taken:
        taken.bind(('', 0))
        taken.listen()
        address = f'localhost:{taken.getsockname()[1]}'
        with pytest.raises(ValueError, match='cannot listen at the port'):
            launch.has_peers(dict(zip(launch.BY_HAND, (address, '2', '0'), strict=True)))
        assert launch.has_peers(dict(zip(launch.BY_HAND, (address, '2', '1'), strict=True)))


@pytest.mark.parametrize(
    ('env', 'expected'),
    [
        ({'SLURM_STEP_TASKS_PER_NODE': '1(x4)'}, []),
        ({'SLURM_STEP_TASKS_PER_NODE': '1'}, []),
        ({'SLURM_STEP_TASKS_PER_NODE': '8(x4)'}, None),
        ({'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}, []),
        ({'OMPI_COMM_WORLD_LOCAL_SIZE': '8'}, None),
        ({'OMPI_COMM_WORLD_LOCAL_SIZE': '1', 'JAX_LOCAL_DEVICE_IDS': '0,1'}, None),
        ({}, None),
    ],
)
def test_a_process_alone_on_its_host_uses_all_of_its_gpus(env: dict[str, str], expected) -> None:
    """JAX would give each process that a launcher starts one GPU."""
    assert launch._local_device_ids(env) == expected


def test_joining_without_an_address_says_what_is_missing(run_python: Any) -> None:
    """--distributed=on where nothing tells who the others are."""
    script = """
from jcls.distributed import agree, launch
try:
    launch.initialize('on')
except ValueError as error:
    print(error)
"""
    assert 'srun or mpirun, or set JAX_COORDINATOR_ADDRESS' in run_python(script)[0]


def test_the_hash_of_the_code_changes_with_it(tmp_path: Path, monkeypatch) -> None:
    """With one byte of one source file."""
    folder = tmp_path / 'jcls' / 'training'
    folder.mkdir(parents=True)
    (folder / 'launch.py').write_text('a = 1')
    monkeypatch.setattr(agree, '__file__', os.fspath(folder / 'agree.py'))
    before = agree._code()
    assert before == agree._code()
    (folder / 'launch.py').write_text('a = 2')
    assert agree._code() != before

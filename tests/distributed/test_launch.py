"""Several processes are found in the environment, waited for, and told what is missing."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from helpers.runs import environment, free_port
from jcls.distributed import launch


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
        named['JAX_COORDINATOR_ADDRESS'] = f'localhost:{free_port()}'
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

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


TORCHRUN = {'RANK': '1', 'WORLD_SIZE': '4', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2'}
ADDRESS = {'JAX_COORDINATOR_ADDRESS': 'host0:1234'}
STEP = {'SLURM_STEP_NUM_TASKS': '2', 'SLURM_PROCID': '1', 'SLURM_STEP_NODELIST': 'a,b'}
ONE_TASK = {'SLURM_STEP_NUM_TASKS': '1', 'SLURM_PROCID': '0', 'SLURM_STEP_NODELIST': 'a'}


@pytest.mark.parametrize(
    ('env', 'told'),
    [
        ({**TORCHRUN, 'MASTER_ADDR': 'm'}, r'torchrun .* 1 of 4 .*ADDRESS=m:PORT'),
        ({'OMPI_COMM_WORLD_SIZE': '2', 'OMPI_COMM_WORLD_RANK': '0'}, 'Open MPI .* 0 of 2'),
        ({'PMI_SIZE': '2', 'PMI_RANK': '0'}, r'mpiexec of MPICH .* \(PMI_RANK=0, PMI_SIZE=2\)'),
        ({'MV2_COMM_WORLD_SIZE': '2', 'MV2_COMM_WORLD_RANK': '1'}, 'MVAPICH .* 1 of 2'),
        ({'FLUX_JOB_SIZE': '2', 'FLUX_TASK_RANK': '0'}, 'flux .* 0 of 2'),
        ({'AWS_BATCH_JOB_NUM_NODES': '2', 'AWS_BATCH_JOB_NODE_INDEX': '0'}, 'AWS Batch .* 0 of 2'),
        ({'PMIX_RANK': '2'}, 'PMIx .* 2 of several .*and JAX_NUM_PROCESSES'),
        ({'JOB_COMPLETION_INDEX': '1'}, 'Kubernetes .* 1 of several .*and JAX_NUM_PROCESSES'),
        ({**ONE_TASK, **TORCHRUN}, 'torchrun'),  # which srun started once
        ({**STEP, 'PMI_SIZE': '8', 'PMI_RANK': '5'}, 'MPICH .* 5 of 8'),  # through srun, on 2 nodes
    ],
)
def test_processes_that_do_not_know_the_first_one_are_refused(
    env: dict[str, str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would train side by side in one folder. The message names what started them, what to
    set, and the way to train alone."""
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f'{told}.*--distributed=off'):
        launch.initialize()
    launch.initialize('off')


@pytest.mark.parametrize(
    ('env', 'expected'),
    [
        ({**TORCHRUN, **ADDRESS}, ('host0:1234', '4', '1')),
        ({'PMI_SIZE': '2', 'PMI_RANK': '1', **ADDRESS}, ('host0:1234', '2', '1')),
        (
            {'JOB_COMPLETION_INDEX': '2', 'JAX_NUM_PROCESSES': '3', **ADDRESS},
            ('host0:1234', '3', '2'),
        ),
        (STEP, (None, None, None)),  # JAX finds out
        ({**STEP, 'PMI_SIZE': '2', 'PMI_RANK': '1', 'PMIX_RANK': '1'}, (None, None, None)),
        ({**STEP, 'WORLD_SIZE': '2', 'RANK': '1'}, (None, None, None)),  # set for PyTorch's sake
        ({'TPU_WORKER_HOSTNAMES': 'a,b', 'JOB_COMPLETION_INDEX': '1'}, (None, None, None)),
        ({'MEGASCALE_NUM_SLICES': '2', 'JOB_COMPLETION_INDEX': '0'}, (None, None, None)),
    ],
)
def test_a_launcher_completes_the_address(env: dict[str, str], expected: tuple[Any, ...]) -> None:
    """The number of processes and the own number come from the launcher."""
    assert launch.has_peers(env)
    assert launch._whereabouts(env, required=True) == expected


@pytest.mark.parametrize(
    'env',
    [
        {'WORLD_SIZE': '1', 'RANK': '0', 'LOCAL_RANK': '0', 'MASTER_ADDR': 'localhost'},
        {'WORLD_SIZE': '8'},  # exported for another program
        {'RANK': '1'},
        {'PMI_SIZE': '1', 'PMI_RANK': '0', 'PMIX_RANK': '0'},
        {'OMPI_COMM_WORLD_SIZE': '1', 'OMPI_COMM_WORLD_RANK': '0'},
        {**ONE_TASK, 'SLURM_NTASKS': '4', 'SLURM_JOB_NUM_NODES': '2'},  # a shell in an allocation
        {'SLURM_PROCID': '0', 'SLURM_NTASKS': '4'},  # sbatch without srun
        {'KUBERNETES_SERVICE_HOST': '10.0.0.1', 'JOB_COMPLETION_INDEX': '0'},
        {'MEGASCALE_NUM_SLICES': '1', 'TPU_WORKER_HOSTNAMES': 'localhost'},
    ],
)
def test_a_process_that_is_alone_trains(env: dict[str, str]) -> None:
    """Variables of one process are no reason to wait for others, or to refuse."""
    assert not launch.has_peers(env)


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
        (TORCHRUN, [1]),
        ({**TORCHRUN, 'LOCAL_WORLD_SIZE': '1', 'SLURM_STEP_TASKS_PER_NODE': '8'}, []),
        ({**TORCHRUN, 'SLURM_STEP_TASKS_PER_NODE': '1(x2)'}, [1]),
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

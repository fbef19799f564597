"""Launchers of several processes, recognised by the variables that they set in each.

JAX finds the first process of srun and Open MPI, and on TPUs. For the others somebody has to say
where it is: processes that do not know of each other would each train alone in one folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Launcher:
    """The names of a launcher's variables; '' for those that it lacks.

    Attributes:
      name: what users call it.
      count: number of processes.
      index: number of this process, from 0.
      local_count: number of processes on this host.
      local_index: number of this process among those on its host, from 0.
    """

    name: str
    count: str
    index: str
    local_count: str = ''
    local_index: str = ''


@dataclasses.dataclass(frozen=True)
class Place:
    """This process is number `index` of `count` processes, which is None where nothing tells."""

    launcher: Launcher
    index: int
    count: int | None


SRUN = Launcher('srun', 'SLURM_STEP_NUM_TASKS', 'SLURM_PROCID', '', 'SLURM_LOCALID')
# The innermost first: mpirun and torchrun may themselves have been started by srun.
LAUNCHERS = (
    Launcher('torchrun', 'WORLD_SIZE', 'RANK', 'LOCAL_WORLD_SIZE', 'LOCAL_RANK'),
    Launcher(
        'mpirun of Open MPI',
        'OMPI_COMM_WORLD_SIZE',
        'OMPI_COMM_WORLD_RANK',
        'OMPI_COMM_WORLD_LOCAL_SIZE',
        'OMPI_COMM_WORLD_LOCAL_RANK',
    ),
    Launcher(
        'mpirun of MVAPICH',
        'MV2_COMM_WORLD_SIZE',
        'MV2_COMM_WORLD_RANK',
        'MV2_COMM_WORLD_LOCAL_SIZE',
        'MV2_COMM_WORLD_LOCAL_RANK',
    ),
    Launcher(
        'mpiexec of MPICH or Intel MPI',
        'PMI_SIZE',
        'PMI_RANK',
        'MPI_LOCALNRANKS',
        'MPI_LOCALRANKID',
    ),
    Launcher('flux', 'FLUX_JOB_SIZE', 'FLUX_TASK_RANK', '', 'FLUX_TASK_LOCAL_ID'),
    SRUN,
    Launcher('AWS Batch', 'AWS_BATCH_JOB_NUM_NODES', 'AWS_BATCH_JOB_NODE_INDEX'),
    Launcher('a launcher with PMIx', '', 'PMIX_RANK'),
    Launcher('an indexed job of Kubernetes', '', 'JOB_COMPLETION_INDEX'),
)
# {count: the variable by which JAX finds the first process}; Open MPI sets it up to version 4.
FOUND_BY_JAX = {
    'SLURM_STEP_NUM_TASKS': 'SLURM_STEP_NODELIST',
    'OMPI_COMM_WORLD_SIZE': 'OMPI_MCA_orte_hnp_uri',
}


def place(env: Mapping[str, str]) -> Place | None:
    """The place of this process among several that a launcher started; None if it is alone."""
    for launcher in LAUNCHERS:
        index, count = _number(env, launcher.index), _number(env, launcher.count)
        if launcher.count == 'WORLD_SIZE' and (index is None or count is None):
            continue  # anybody may set one of these
        if (count or 1) > 1 or (index or 0) > 0:
            # srun and its users set the variables of others, too.
            same = (_number(env, SRUN.index), _number(env, SRUN.count)) == (index, count)
            return Place(SRUN, index or 0, count) if same else Place(launcher, index or 0, count)
    return None


def on_tpus(env: Mapping[str, str]) -> bool:
    """Whether this is one of several hosts with TPUs, which JAX knows by itself."""
    slices = _number(env, 'MEGASCALE_NUM_SLICES') or 1
    return slices > 1 or ',' in env.get('TPU_WORKER_HOSTNAMES', '')


def is_found_by_jax(here: Place, env: Mapping[str, str]) -> bool:
    """Whether JAX finds the first of the processes by itself."""
    return FOUND_BY_JAX.get(here.launcher.count, '') in env


def local_devices(here: Place, env: Mapping[str, str]) -> list[int] | None:
    """The GPU of this process; [], for all of them, if it is alone on its host; None if unknown."""
    if _number(env, here.launcher.local_count) == 1:
        return []
    index = _number(env, here.launcher.local_index)
    return None if index is None else [index]


def refusal(here: Place, env: Mapping[str, str]) -> str:
    """What to set where nothing says which process is the first."""
    launcher, index, count = here.launcher, here.index, here.count
    seen = [f'{name}={env[name]}' for name in (launcher.index, launcher.count) if env.get(name)]
    needed = f'JAX_COORDINATOR_ADDRESS={env.get("MASTER_ADDR") or "HOST"}:PORT'
    more = '' if count else ', and JAX_NUM_PROCESSES'
    return (
        f'{launcher.name} started this process as number {index} of {count or "several"} '
        f'({", ".join(seen)}), but nothing says where number 0 listens. Set {needed} for all of '
        f'them, the host of number 0 and a free port on it{more}. If each process is to train '
        'alone, in a --workdir of its own, add --distributed=off'
    )


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name, '')
    return int(text) if text.isdecimal() else None

"""Devices and hosts: start the distributed runtime, build the mesh, place states and batches.

One axis, 'data', over all devices of all processes, in the order of the processes: so that the rows
of a global batch are the same examples in the same places on any number of hosts and devices.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jcls.schema import choose

PLATFORMS = ('any', 'cpu', 'gpu', 'tpu')
# What tells that a launcher started several processes of one run: variable and its separator.
LAUNCHERS = ('SLURM_NTASKS', 'SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')


def initialize(mode: str = 'auto') -> None:
    """Join the processes of this run through `jax.distributed`; call before any other use of JAX.

    'auto' does so where a launcher's environment shows more than one process or names a coordinator
    (JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID); 'on' always; 'off' never.
    """
    choose(dict.fromkeys(('auto', 'on', 'off')), mode, '--distributed')
    env = os.environ
    several = any(int(env.get(name, '1') or 1) > 1 for name in LAUNCHERS)
    several |= ',' in env.get('TPU_WORKER_HOSTNAMES', '')
    named = 'JAX_COORDINATOR_ADDRESS' in env
    if mode == 'off' or (mode == 'auto' and not (several or named)):
        return
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    count, index = env.get('JAX_NUM_PROCESSES'), env.get('JAX_PROCESS_ID')
    jax.distributed.initialize(
        num_processes=int(count) if count else None, process_id=int(index) if index else None
    )


def make_deterministic() -> None:
    """Ask XLA for bit-equal results on GPUs; must come before JAX first touches a device."""
    flags = os.environ.get('XLA_FLAGS', '')
    for flag in ('--xla_gpu_deterministic_ops=true', '--xla_gpu_autotune_level=0'):
        if flag.partition('=')[0] not in flags:
            flags = f'{flags} {flag}'.strip()
    os.environ['XLA_FLAGS'] = flags


def create(platform: str, batch_size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices` (default: all there are).

    Raises:
      ValueError: if `platform` is not what JAX found, or the batch does not divide over the
        devices.
    """
    choose(dict.fromkeys(PLATFORMS), platform, 'config.platform')
    found = jax.devices() if devices is None else devices
    devices = sorted(found, key=lambda d: (d.process_index, d.id))
    kind = {'cuda': 'gpu', 'rocm': 'gpu'}.get(devices[0].platform, devices[0].platform)
    if platform not in ('any', kind):
        raise ValueError(
            f'config.platform={platform!r}, but JAX found {describe(devices)}; install '
            f'jcls[{"tpu" if platform == "tpu" else "cuda12"}] on a machine with one, '
            "or set config.platform='any'"
        )
    if batch_size % len(devices):
        raise ValueError(
            f'config.batch_size={batch_size} does not divide over {describe(devices)}; use a '
            f'multiple of {len(devices)}'
        )
    return Mesh(np.array(devices), ('data',), axis_types=(AxisType.Auto,))


def describe(devices: Any = None) -> str:
    """What the run runs on, in words: '8 TPU v5 lite devices in 2 processes'."""
    devices = jax.devices() if devices is None else devices
    kind = (
        devices[0].device_kind.upper() if devices[0].platform == 'cpu' else devices[0].device_kind
    )
    plural, processes = 's' if len(devices) > 1 else '', jax.process_count()
    hosts = f' in {processes} processes (this is number {jax.process_index()})'
    return f'{len(devices)} {kind} device{plural}' + (hosts if processes > 1 else '')


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_split(mesh: Mesh) -> NamedSharding:
    """The sharding of what is split over the devices along its first axis."""
    return NamedSharding(mesh, PartitionSpec('data'))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """This process's rows of a global batch -> the global batch on the devices (asynchronous)."""
    sharding = batch_split(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }

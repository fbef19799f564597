"""The mesh of devices, and the placement of states and batches on it.

The mesh has one axis, 'data', over the devices of all processes, in the order of the processes. The
rows of a global batch are therefore the same examples on any number of hosts and devices.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax._src import xla_bridge  # nothing else tells whether JAX has backends yet
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jcls.config.parts import choose
from jcls.host.machine import may_have_tpu

AHEAD = 2  # batches on their way to the devices while one is computed
OF_TPUS = ('TPU_NAME', 'TPU_ACCELERATOR_TYPE', 'TPU_WORKER_HOSTNAMES')  # set where there are TPUs
PLATFORMS = ('any', 'cpu', 'gpu', 'tpu')


def make_deterministic() -> None:
    """Ask XLA for bit-equal results on GPUs.

    Raises ValueError if JAX has touched its devices already: XLA reads the flags only then.
    """
    flags = os.environ.get('XLA_FLAGS', '')
    if 'xla_gpu_deterministic_ops' not in flags and xla_bridge.backends_are_initialized():
        raise ValueError(
            'config.deterministic=True comes too late: JAX has its devices already. Set it before '
            "anything uses JAX, or set the environment variable XLA_FLAGS='"
            "--xla_gpu_deterministic_ops=true --xla_gpu_autotune_level=0'"
        )
    for flag in ('--xla_gpu_deterministic_ops=true', '--xla_gpu_autotune_level=0'):
        if flag.partition('=')[0] not in flags:
            flags = f'{flags} {flag}'.strip()
    os.environ['XLA_FLAGS'] = flags


def ignore_absent_tpu() -> None:
    """Let JAX not look for a TPU on a machine without one.

    Where libtpu is installed (for `jcls plan`, say), the search would take half a second and print
    errors. The environment stays as it is, so that no other process is concerned.
    """
    named = getattr(jax.config, 'jax_platforms', None)
    announced = any(map(os.environ.get, OF_TPUS))
    if not (named or announced or may_have_tpu() or xla_bridge.backends_are_initialized()):
        getattr(xla_bridge, '_backend_factories', {}).pop('tpu', None)


def create_mesh(platform: str, batch_size: int, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh over `devices`, by default all of them.

    Raises:
      ValueError: if `platform` is not what JAX found, or the batch does not divide over the
        devices.
    """
    choose(dict.fromkeys(PLATFORMS), platform, 'config.platform')
    ignore_absent_tpu()
    available = jax.devices() if devices is None else devices
    devices = sorted(available, key=lambda d: (d.process_index, d.id))
    if platform not in ('any', kind(devices)):
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


def kind(devices: Iterable[Any]) -> str:
    """The kind of these devices: 'cpu', 'gpu' or 'tpu'."""
    platform = next(iter(devices)).platform
    return {'cuda': 'gpu', 'rocm': 'gpu'}.get(platform, platform)


def describe(devices: Iterable[Any]) -> str:
    """The devices of a run in words, such as '8 TPU v5 lite devices in 2 processes'."""
    devices = list(devices)
    name = devices[0].device_kind
    name = name.upper() if devices[0].platform == 'cpu' else name
    plural, processes = 's' if len(devices) > 1 else '', jax.process_count()
    hosts = f' in {processes} processes (this is number {jax.process_index()})'
    return f'{len(devices)} {name} device{plural}' + (hosts if processes > 1 else '')


def replicated(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that every device holds whole."""
    return NamedSharding(mesh, PartitionSpec())


def batch_split(mesh: Mesh) -> NamedSharding:
    """The sharding of an array that is split over the devices along its first axis."""
    return NamedSharding(mesh, PartitionSpec('data'))


def put_batch(batch: dict[str, np.ndarray], mesh: Mesh) -> dict[str, jax.Array]:
    """Start to put this process's rows on its devices; returns the global batch."""
    sharding = batch_split(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
    }


def put_batches(
    batches: Iterable[dict[str, np.ndarray]], mesh: Mesh
) -> Iterator[dict[str, jax.Array]]:
    """Yield the `put_batch` of each of `batches`, started `AHEAD` batches before it is used."""
    waiting: deque[dict[str, jax.Array]] = deque()
    for batch in batches:
        waiting.append(put_batch(batch, mesh))
        if len(waiting) > AHEAD:
            yield waiting.popleft()
    yield from waiting

"""Several processes of one run: find each other, say who they are, and agree on what they run.

`jax.distributed` connects them; what it lacks is told here: who waits for whom and how long, and
which host has another config, another code, other data or another workdir, before a step is
computed; and a process that fails does not keep the others waiting.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import socket
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jcls import config as configs
from jcls.schema import choose

LAUNCHERS = ('SLURM_STEP_NUM_TASKS', 'OMPI_COMM_WORLD_SIZE')  # how many processes they started
BY_HAND = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
OWN = ('data.dir', 'data.file', 'data.cache', 'recipe')  # fields that may be a host's own
SILENCE = 100  # seconds after which a process that does not answer is taken for dead
GRACE = 2.0  # seconds the first process leaves the others to say why they end, too
PATIENCE = 5  # seconds in which a file of another host appears
ONE_EACH = {'SLURM_STEP_TASKS_PER_NODE': r'1(\(x\d+\))?', 'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}


def initialize(mode: str = 'auto', *, wait: int = 300) -> None:
    """Join the processes of this run through `jax.distributed`; call before any other use of JAX.

    Args:
      mode: 'auto' does so where `has_peers` finds other processes in the environment; 'on' always,
        'off' never.
      wait: seconds until the process gives up on the others, says so and ends with exit code 1.
    """
    choose(dict.fromkeys(('auto', 'on', 'off')), mode, '--distributed')
    if wait < 1:
        raise ValueError(f'--distributed_wait={wait}: seconds, at least 1')
    if mode == 'off' or (mode == 'auto' and not has_peers(os.environ)):
        return
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    address, count, index = (os.environ.get(name) for name in BY_HAND)
    me = f'process {index} of {count}' if index else 'this process'
    where = f' at {address}' if address else ''
    _say(f'{me}, on {socket.gethostname()}, joins the others{where} (up to {wait} s)')
    with _patience(
        wait,
        f'error: {me}, on {socket.gethostname()}, waited {wait} s for the others{where} in vain. '
        'Every host must run this command, with the same coordinator address (host and port of '
        'process 0, reachable from all), the same number of processes and a number of its own; '
        '--distributed_wait=SECONDS waits longer, --distributed=off runs alone',
    ):
        try:
            jax.distributed.initialize(
                num_processes=int(count) if count else None,
                process_id=int(index) if index else None,
                local_device_ids=_local_device_ids(os.environ),
                initialization_timeout=wait + 60,  # JAX would abort without a message for people
                heartbeat_timeout_seconds=SILENCE,
            )
        except ValueError as error:
            raise ValueError(
                f'--distributed={mode}: {error} Start one process on each host with srun or '
                f'mpirun, or set {", ".join(BY_HAND)} on each; --distributed=off runs alone'
            ) from None
    _say(
        f'process {jax.process_index()} of {jax.process_count()}, on {socket.gethostname()}: '
        f'{jax.local_device_count()} of {jax.device_count()} devices'
    )


def has_peers(env: Mapping[str, str]) -> bool:
    """Whether the environment shows that this is one of several processes of a run.

    It does if srun, mpirun or a TPU launcher says so, or `BY_HAND` does: all three or none.
    """
    given = [name for name in BY_HAND if env.get(name)]
    if given and len(given) < len(BY_HAND):
        missing = ', '.join(name for name in BY_HAND if name not in given)
        raise ValueError(f'{", ".join(given)} is set, but {missing} is not: set all three or none')
    if given:
        _check(*(env[name] for name in BY_HAND))
    several = any(int(env.get(name) or 1) > 1 for name in LAUNCHERS)
    return bool(given) or several or ',' in env.get('TPU_WORKER_HOSTNAMES', '')


def _check(address: str, count: str, index: str) -> None:
    """Refuse what JAX would answer with a traceback, or not at all."""
    host, _, port = address.rpartition(':')
    if not host or not port.isdigit() or not 0 < int(port) < 2**16:
        raise ValueError(
            f'JAX_COORDINATOR_ADDRESS={address}: must be host:port of process 0, such as host0:1234'
        )
    for name, text, least in (('JAX_NUM_PROCESSES', count, 1), ('JAX_PROCESS_ID', index, 0)):
        if not text.isdigit() or int(text) < least:
            raise ValueError(f'{name}={text}: must be a whole number, at least {least}')
    if int(index) >= int(count):
        raise ValueError(
            f'JAX_PROCESS_ID={index}, but JAX_NUM_PROCESSES={count}: processes count from 0'
        )
    if int(index) == 0:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(('', int(port)))
            except OSError as error:
                raise ValueError(
                    f'JAX_COORDINATOR_ADDRESS={address}: this host cannot listen at the port '
                    f'({error.strerror}); choose another, the same for all processes'
                ) from None


def _local_device_ids(env: Mapping[str, str]) -> list[int] | None:
    """[] where a launcher started one process on each host: it uses all of its GPUs.

    None leaves it to JAX, which gives every process of srun or mpirun one GPU.
    """
    alone = any(re.fullmatch(form, env.get(name, '')) for name, form in ONE_EACH.items())
    return [] if alone and not env.get('JAX_LOCAL_DEVICE_IDS') else None


def leave(code: int) -> int:
    """End this process at once with `code` if it is one of several; else give `code` back.

    A proper exit would wait for the others, and they for this process.
    """
    if not jax.distributed.is_initialized():
        return code
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:  # whose end is the others'
        time.sleep(GRACE)
    os._exit(code)


@contextlib.contextmanager
def _patience(seconds: float, message: str) -> Iterator[None]:
    """End the process with `message` unless what is inside ends first."""

    def give_up() -> None:
        print(message, file=sys.stderr, flush=True)
        os._exit(1)  # nothing else ends a thread that waits in C++

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _say(text: str) -> None:
    print(text, flush=True)


def agree(config: Mapping[str, Any], data: Callable[[], Mapping[str, Any]], workdir: Path) -> None:
    """Make sure that all processes run the same: config, code, libraries, data, and in one place.

    Args:
      config: complete; fields of `OWN` may differ.
      data: finds facts of the data, by name.
      workdir: which all must see.

    Raises:
      ValueError: in every process, naming the hosts that differ from process 0, and in what.
    """
    if jax.process_count() == 1:
        return
    mine = {
        'host': socket.gethostname(),
        'config': {k: v for k, v in configs.flatten(config).items() if not k.startswith(OWN)},
        'code': {'jcls': _code(), **{name: importlib.metadata.version(name) for name in LIBRARIES}},
        'data': data(),
    }
    first, *others = _gather(mine)
    problems = []
    for index, other in enumerate(others, 1):
        for what in ('code', 'config', 'data'):
            for key, (expected, found) in configs.diff(first[what], other[what]).items():
                name = '' if what == 'config' else f'{what}: '
                problems.append(
                    f'  process {index} on {other["host"]}: {name}{key} = {found!r}; process 0 on '
                    f'{first["host"]}: {expected!r}'
                )
    if problems:
        shown = '\n'.join(problems[:12])
        raise ValueError(f'the processes of this run do not run the same:\n{shown}')
    _share(workdir)


def _share(workdir: Path) -> None:
    """Make sure that every process sees what the first one writes."""
    primary, existed = jax.process_index() == 0, False
    mark = workdir / f'.{_gather(uuid.uuid4().hex)[0]}'  # named by the first
    if primary:
        existed = workdir.exists()
        workdir.mkdir(parents=True, exist_ok=True)
        mark.touch()
    _gather(0)  # all wait for that
    seen = _gather((socket.gethostname(), str(workdir), _appears(mark)))
    if primary:
        mark.unlink()
    blind = [
        f'process {i} on {host} ({path})' for i, (host, path, sees) in enumerate(seen) if not sees
    ]
    if blind:
        if primary and not existed:
            workdir.rmdir()
        raise ValueError(
            f'--workdir: {", ".join(blind)} does not see what process 0 on {seen[0][0]} writes '
            f'into {seen[0][1]}; all hosts need the same folder, on a file system that they share'
        )


def _appears(file: Path) -> bool:
    """Whether `file` is there, or comes within seconds: shared file systems take their time."""
    for _ in range(PATIENCE):
        if file.exists():
            return True
        time.sleep(1)
    return False


def _code() -> str:
    """A hash of the sources of jcls."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(root.rglob('*.py')):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _gather(value: Any) -> list[Any]:
    """This value of every process, in their order."""
    text = np.frombuffer(json.dumps(value, default=list).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(text)]))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = text
    texts = multihost_utils.process_allgather(padded)
    return [
        json.loads(row[: int(length)].tobytes())
        for row, length in zip(texts, lengths.reshape(-1), strict=True)
    ]

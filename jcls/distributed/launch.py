"""Processes of one run find each other, say who they are, and end together.

`jax.distributed` connects them. This adds what it lacks: messages that say who waits for whom and
for how long, and an end of all processes when one of them fails.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import NoReturn

import jax

from jcls.config.parts import choose
from jcls.distributed import launchers
from jcls.host.terminal import say

MODES = ('auto', 'on', 'off')
BY_HAND = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
SILENCE = 100  # seconds after which a process that does not answer is taken for dead
GRACE = 2.0  # seconds that the first process gives the others to say why they end
ONE_EACH = {'SLURM_STEP_TASKS_PER_NODE': r'1(\(x\d+\))?', 'OMPI_COMM_WORLD_LOCAL_SIZE': '1'}


def initialize(mode: str = 'auto', *, wait: int = 300) -> None:
    """Join the processes of this run through `jax.distributed`; call before any other use of JAX.

    Args:
      mode: 'auto' to join where `has_peers` finds other processes in the environment, 'on' to join
        always, 'off' never.
      wait: seconds after which the process gives up on the others and ends with exit code 1.
    """
    choose(dict.fromkeys(MODES), mode, '--distributed')
    if wait < 1:
        raise ValueError(f'--distributed_wait={wait}: seconds, at least 1')
    if mode == 'off' or (mode == 'auto' and not has_peers(os.environ)):
        return
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    address, count, index = _whereabouts(os.environ, required=mode == 'auto')
    me = f'process {index} of {count}' if index else 'this process'
    where = f' at {address}' if address else ''
    say(f'{me}, on {socket.gethostname()}, joins the others{where} (up to {wait} s)')
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
                initialization_timeout=wait + 60,  # JAX would abort without a readable message
                heartbeat_timeout_seconds=SILENCE,
            )
        except ValueError as error:
            raise ValueError(
                f'--distributed={mode}: {error} Start one process on each host with srun or '
                f'mpirun, or set {", ".join(BY_HAND)} on each; --distributed=off runs alone'
            ) from None
    say(
        f'process {jax.process_index()} of {jax.process_count()}, on {socket.gethostname()}: '
        f'{jax.local_device_count()} of {jax.device_count()} devices'
    )


def has_peers(env: Mapping[str, str]) -> bool:
    """Whether the environment shows that this is one of several processes of a run.

    srun, mpirun or a TPU launcher sets variables of its own, see `jcls.distributed.launchers`. By
    hand one sets all of `BY_HAND`; to set only some of them is a ValueError, unless a launcher has
    set the others.
    """
    given = [name for name in BY_HAND if env.get(name)]
    several = launchers.on_tpus(env) or launchers.place(env) is not None
    if given and len(given) < len(BY_HAND) and not several:
        missing = ', '.join(name for name in BY_HAND if name not in given)
        raise ValueError(f'{", ".join(given)} is set, but {missing} is not: set all three or none')
    if len(given) == len(BY_HAND):
        _check(*(env[name] for name in BY_HAND))
    return bool(given) or several


def _whereabouts(env: Mapping[str, str], *, required: bool) -> tuple[str | None, ...]:
    """The values of `BY_HAND`, which a launcher completes; JAX finds out those that are None.

    Raises:
      ValueError: if the address is `required`, but nothing tells it.
    """
    address, count, index = (env.get(name) for name in BY_HAND)
    here = None if launchers.on_tpus(env) else launchers.place(env)
    if here is None or (address and count and index):
        return address, count, index
    if address and (count or here.count):
        count, index = count or str(here.count), index or str(here.index)
        _check(address, count, index)
    elif required and not launchers.is_found_by_jax(here, env):
        raise ValueError(launchers.refusal(here, env))
    return address, count, index


def _check(address: str, count: str, index: str) -> None:
    """Refuse settings that JAX would answer with a traceback, or not at all."""
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
    """[], for all GPUs of the host, if a launcher started one process on each host; else None.

    None leaves the choice to JAX, which gives every process of srun or mpirun one GPU.
    """
    if env.get('JAX_LOCAL_DEVICE_IDS'):
        return None
    here = launchers.place(env)
    if here is not None and here.launcher is not launchers.SRUN:
        return launchers.local_devices(here, env)
    alone = any(re.fullmatch(form, env.get(name, '')) for name, form in ONE_EACH.items())
    return [] if alone else None


def leave(code: int) -> NoReturn:
    """End this process, one of several, at once; a proper exit would wait for the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    if jax.process_index() == 0:  # when it ends, JAX ends the others
        time.sleep(GRACE)
    os._exit(code)


@contextlib.contextmanager
def _patience(seconds: float, message: str) -> Iterator[None]:
    """End the process with `message` after some time, unless the context is left first."""

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

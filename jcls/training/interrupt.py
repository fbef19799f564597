"""Signals that announce the end: a run ends after its current step, with a checkpoint.

They come from people (Ctrl-C, kill), from terminals that close (SIGHUP) and from schedulers:
SIGTERM of Kubernetes and Slurm, SIGUSR1 and SIGUSR2 where a job asks to be warned, SIGXCPU.

A single process handles them itself. With several processes, JAX's preemption service sees a
SIGTERM to any of them and makes all agree on a step; the other signals are passed on to it.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

from jcls.distributed.agree import gather

ALWAYS = ('SIGINT', 'SIGTERM')
# Only where they would end the process: nohup ignores SIGHUP, and others may use SIGUSR1.
UNLESS_USED = ('SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU')
ECHO = 5.0  # seconds in which a second SIGTERM repeats the first, as launchers and `timeout` do


class Stopped(Exception):  # noqa: N818  (it is no error)
    """An evaluation was left early, because the run shall end."""


class Interrupt:
    """A context in which a first signal asks the run to end, and a second one ends it at once.

    The second one is a SIGINT or SIGTERM after another of these two. Schedulers and terminals send
    the others before them and repeat them, and whoever repeats a SIGTERM within `ECHO` seconds has
    said the same thing twice.

    With `own_process`, signals remain without effect from the end of the context to the end of the
    process: when everything is saved, none may turn a run that is done into one that failed.
    """

    def __init__(self, *, own_process: bool = False) -> None:
        self._own_process = own_process
        self._received: str | None = None
        self._asked: float | None = None  # when the first of `ALWAYS` came
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is not threading.main_thread():
            return self
        several = jax.process_count() > 1  # then the preemption service handles SIGTERM
        for name in (*ALWAYS, *UNLESS_USED):
            number = getattr(signal, name, None)
            if number is None or (several and name == 'SIGTERM'):  # Windows lacks some
                continue
            if name in ALWAYS or signal.getsignal(number) == signal.SIG_DFL:
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self._own_process:
            self._ignore()
            atexit.register(self._ignore)  # Python would restore the defaults as its last act
            return
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        name, now = signal.Signals(number).name, time.monotonic()
        if name in ALWAYS:
            echo = name != 'SIGINT' and now < (self._asked or now) + ECHO
            if self._asked is not None and not echo:
                raise KeyboardInterrupt
            self._asked = self._asked or now
        if self._received:
            return
        self._received = name
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def _ignore(self) -> None:
        for number in {*self._previous, signal.SIGTERM}:
            signal.signal(number, signal.SIG_IGN)

    def is_requested(self) -> bool:
        """Whether the run must end. Among several processes none can tell for all of them."""
        return self._received is not None and jax.process_count() == 1

    def requested(self, step: int) -> str | None:
        """The signal's name if the run must end after `step`, on all processes alike; else None."""
        if jax.process_count() == 1:
            return self._received
        if not multihost_utils.reached_preemption_sync_point(step):
            return None
        # The service sees a SIGTERM by itself; of any other signal, the process that got it knows.
        return next(filter(None, gather(self._received)), 'SIGTERM')

"""SIGTERM and SIGINT end a run after its current step, with a checkpoint.

A single process handles them itself. With several processes, JAX's preemption service sees a
SIGTERM to any of them and makes all agree on a step.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils


class Interrupt:
    """A context in which a first signal asks the run to end, and a second one ends it at once."""

    def __init__(self) -> None:
        self._received: str | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            several = jax.process_count() > 1  # then the preemption service handles SIGTERM
            for number in (signal.SIGINT,) if several else (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self._received:
            raise KeyboardInterrupt
        self._received = signal.Signals(number).name
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)

    def requested(self, step: int) -> str | None:
        """The signal's name if the run must end after `step`, on all processes alike; else None."""
        if jax.process_count() > 1:
            return 'SIGTERM' if multihost_utils.reached_preemption_sync_point(step) else None
        return self._received

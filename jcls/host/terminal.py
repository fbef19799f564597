"""What is shown on the terminal: lines, what is waited for, and how far it is.

Lines go to standard output; what vanishes when it is done goes to standard error.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)

PATIENCE = 1.5  # seconds before anything is shown
PLAIN_SECONDS = 30.0  # seconds between two lines where there is no terminal


def say(text: str) -> None:
    """Print a line now, although standard output may be a file or a pipe."""
    print(text, flush=True)


@contextmanager
def status(text: str) -> Iterator[None]:
    """Show `text` and that something moves, where there is a terminal."""
    with Console(stderr=True).status(text):
        yield


@contextmanager
def progress(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` are done. Gives a function that adds a number to them.

    The function may be called from any thread. Nothing is shown in the first `PATIENCE` seconds.
    Without a terminal, lines go to the log.
    """
    console = Console(stderr=True)
    bar = Progress(
        TextColumn('{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(what, total=total)
    lock, next_word, done, started = threading.Lock(), time.monotonic() + PATIENCE, 0, False

    def advance(count: int) -> None:
        nonlocal next_word, done, started
        with lock:
            done += count
            bar.update(task, completed=done)
            if time.monotonic() < next_word:
                return
            next_word = time.monotonic() + PLAIN_SECONDS
            if bar.disable:
                logger.info('%s: %s of %s', what, f'{done:,}', f'{total:,}')
            elif not started:
                started = True
                bar.start()

    try:
        yield advance
    finally:
        if started:
            bar.stop()

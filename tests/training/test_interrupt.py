"""Signals ask a run to end, and none may spoil one that has ended."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jcls
from helpers.runs import TINY, assert_same_run, environment
from jcls.main import main
from jcls.training import interrupt
from jcls.training.experiment import Experiment
from jcls.training.interrupt import Interrupt
from jcls.workdir import log
from jcls.workdir.checkpoint import FOLDER, steps_in

NUMBERS = [getattr(signal, name) for name in (*interrupt.ALWAYS, *interrupt.UNLESS_USED)]


@pytest.fixture(autouse=True)
def handlers() -> Iterator[list[object]]:
    """The system's handlers, also under nohup; the test is over with the same ones."""
    before = [
        signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
        )
        for number in NUMBERS
    ]
    usual = [signal.getsignal(number) for number in NUMBERS]
    yield usual
    assert [signal.getsignal(number) for number in NUMBERS] == usual
    for number, handler in zip(NUMBERS, before, strict=True):
        signal.signal(number, handler)


@pytest.mark.parametrize('number', NUMBERS)
def test_each_signal_asks_the_run_to_end(number: int, handlers: list[object]) -> None:
    """By its name, once; afterwards the handlers are those of before."""
    with Interrupt() as signals:
        assert signals.requested(1) is None
        os.kill(os.getpid(), number)
        assert signals.requested(1) == signal.Signals(number).name
    assert [signal.getsignal(number) for number in NUMBERS] == handlers


def test_what_is_ignored_or_used_is_left_alone() -> None:
    """nohup ignores SIGHUP, and the caller may have a use of SIGUSR1: both are as before."""
    heard: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGUSR1)}
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda number, _: heard.append(number))
    try:
        with Interrupt() as signals:
            os.kill(os.getpid(), signal.SIGHUP)
            os.kill(os.getpid(), signal.SIGUSR1)
            assert signals.requested(1) is None
        assert heard == [signal.SIGUSR1]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_run_from_python_leaves_the_signals_to_its_caller(tmp_path: Path) -> None:
    """The command line, called with words, does not take the process to be its own."""
    before = [signal.getsignal(number) for number in NUMBERS]
    assert main(command(tmp_path, '--config.duration=2 steps')) == 0
    assert [signal.getsignal(number) for number in NUMBERS] == before


def test_a_second_ctrl_c_ends_at_once() -> None:
    """And so does a SIGTERM that is no echo of the first."""
    for number in (signal.SIGINT, signal.SIGTERM):
        with Interrupt() as signals:
            os.kill(os.getpid(), number)
            assert signals.requested(1) == number.name
            if number != signal.SIGINT:
                signals._asked -= interrupt.ECHO
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)


def test_schedulers_may_repeat_themselves() -> None:
    """`timeout` sends SIGTERM twice, a shell that closes SIGHUP: the run still ends with a save."""
    with Interrupt() as signals:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        signals._asked -= interrupt.ECHO
        os.kill(os.getpid(), signal.SIGHUP)
        assert signals.requested(1) == 'SIGTERM'


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_the_end_after_a_warning_is_no_second_request(number: int) -> None:
    """Slurm sends SIGUSR1 as asked, and SIGTERM minutes later; the save goes on meanwhile."""
    with Interrupt() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), number)
        assert signals.requested(1) == 'SIGUSR1'
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(('at', 'batch'), [(5, 2), (12, 8)])
def test_a_signal_during_an_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int, batch: int
) -> None:
    """The state is saved at once, and the evaluation made up for; in the end all is as ever."""
    jcls.train(TINY, tmp_path / 'whole', summary=False)
    batches, seen = Experiment.eval_batches, itertools.count(1)

    def signalled(self: Experiment, *examples: Any) -> Iterator[Any]:
        for found in batches(self, *examples):
            if next(seen) == batch:
                os.kill(os.getpid(), signal.SIGTERM)
            yield found

    with monkeypatch.context() as patch:
        patch.setattr(Experiment, 'eval_batches', signalled)
        result = jcls.train(TINY, tmp_path / 'run')
    assert (result.step, result.interrupted, next(seen)) == (at, 'SIGTERM', batch + 1)
    assert steps_in(tmp_path / 'run')[-1] == at
    assert jcls.train(TINY, tmp_path / 'run', summary=False).interrupted is None
    assert_same_run(tmp_path / 'run', tmp_path / 'whole', jcls.build(TINY))


# The command line, which signals itself in its last acts: while it saves, while it waits for that,
# when the metrics are closed, and when Python has already put back the default handlers.
LAST_ACTS = """
import os, signal, sys
from jcls import main
from jcls.workdir import checkpoint, log

def signalled(owner, name, number, where):
    act = getattr(owner, name)

    def both(self, *args):
        if where(self, *args):
            os.kill(os.getpid(), number)
        act(self, *args)
        if where(self, *args):
            os.kill(os.getpid(), number)

    setattr(owner, name, both)

class Last:
    def __del__(self, kill=os.kill, me=os.getpid(), number=signal.SIGTERM):
        kill(me, number)

at_end = lambda self, state, metrics=None: int(state.step) == 12
signalled(checkpoint.Checkpoints, 'save', signal.SIGTERM, at_end)
signalled(checkpoint.Checkpoints, 'wait', signal.SIGHUP, lambda self: True)
signalled(log.Log, 'close', signal.SIGUSR1, lambda self: True)
sys.last = Last()
sys.exit(main.main())
"""


def command(tmp_path: Path, *words: str) -> list[str]:
    """The words of the command line on the tiny config, but for the interpreter."""
    (tmp_path / 'tiny.py').write_text(f'def get_config():\n    return {TINY!r}\n')
    return ['--config', str(tmp_path / 'tiny.py'), '--workdir', str(tmp_path / 'run'), *words]


def test_no_signal_spoils_a_run_that_is_done(tmp_path: Path) -> None:
    """Signals in all last acts: the run ends with code 0, and everything is on disk."""
    done = subprocess.run(
        [sys.executable, '-c', LAST_ACTS, *command(tmp_path)],
        env=environment(), capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'done: 12 steps' in done.stdout
    assert steps_in(tmp_path / 'run')[-1] == 12
    assert not [*(tmp_path / 'run' / FOLDER).glob('*tmp*')]


def test_a_terminal_that_closes_ends_the_run_saved(tmp_path: Path) -> None:
    """Its hang-up stops the run as SIGTERM does, although nothing can be said any more."""
    ours, theirs = os.openpty()
    more = ['--config.duration=100000 steps', '--config.evaluate.every=never']
    process = subprocess.Popen(
        [sys.executable, '-m', 'jcls.main', *command(tmp_path, *more)],
        env=environment(), stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)
    deadline, workdir = time.monotonic() + 120, tmp_path / 'run'
    while len(log.read(workdir / log.FILE)) < 4:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 1 << 16)
    os.close(ours)
    assert process.wait(60) == 75
    assert steps_in(workdir)[-1] >= log.read(workdir / log.FILE)[-1]['step']


def test_a_reader_that_goes_away_does_not_end_the_run(tmp_path: Path) -> None:
    """`jcls ... | head -1`: the run goes on to its end."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'jcls.main', *command(tmp_path, '--json')],
        env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(120) == 0
    assert process.stderr.read() == ''
    assert log.read(tmp_path / 'run' / log.FILE)[-1]['step'] == 12

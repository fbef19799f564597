"""Kill and interrupt runs at random moments, resume them, and compare them with undisturbed ones.

python -m helpers.stress DIR --kills 100 --signals 40 --processes 2

Everything must be equal bit for bit: the newest checkpoint, and all lines of metrics.jsonl but for
their speed. It takes about ten seconds for each kill or signal.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ.setdefault('XLA_FLAGS', '')

import jcls
from helpers.runs import TINY, assert_same_run, start
from jcls.training.interrupt import ALWAYS, UNLESS_USED
from jcls.workdir import log
from jcls.workdir.checkpoint import FOLDER

MORE = {'duration': '900 steps', 'checkpoint.every': '30 steps', 'evaluate.every': '50 steps'}
LONGEST = 6.0  # seconds from the first new line of the log to a blow
PATIENCE = 300.0  # seconds in which every process must have ended after it
RESUMABLE, DONE = 75, 0


def begin(workdir: Path, processes: int) -> list[subprocess.Popen[str]]:
    words = [f'--config.{key}={value}' for key, value in MORE.items()]
    return start(workdir, processes, *words)


def moment(workdir: Path, running: list[subprocess.Popen[str]], rng: random.Random) -> None:
    """Wait for a random moment: while it starts, during its steps, or while it is saving."""
    seen, deadline = len(log.read(workdir / log.FILE)), time.monotonic() + PATIENCE
    kind = rng.choice(['start', 'steps', 'steps', 'steps', 'save'])
    if kind == 'start':
        time.sleep(rng.uniform(0, 8))
        return
    while len(log.read(workdir / log.FILE)) == seen and running[0].poll() is None:
        assert time.monotonic() < deadline, 'no step in time'
        time.sleep(0.01)
    time.sleep(rng.uniform(0, LONGEST / 2 if kind == 'save' else LONGEST))
    if kind == 'save':
        while running[0].poll() is None and not [*(workdir / FOLDER).glob('*tmp*')]:
            assert time.monotonic() < deadline, 'no save in time'
            time.sleep(0.002)


def ended(running: list[subprocess.Popen[str]]) -> list[int]:
    """The codes that the processes end with; one that does not end is an error."""
    return [(process.communicate(timeout=PATIENCE), process.returncode)[1] for process in running]


def main() -> None:
    """Run until so many blows have fallen, then to the end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('directory', type=Path)
    for name, default in (('kills', 100), ('signals', 40), ('processes', 1), ('seed', 0)):
        parser.add_argument(f'--{name}', type=int, default=default)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    blows = ['kill'] * args.kills + ['signal'] * args.signals
    rng.shuffle(blows)
    reference = args.directory / 'reference'
    args.directory.mkdir(parents=True)
    assert set(ended(begin(reference, args.processes))) == {DONE}
    (sections := {**TINY}).update({'duration': MORE['duration']})
    for key in ('checkpoint', 'evaluate'):
        sections[key] = {**TINY[key], 'every': MORE[f'{key}.every']}
    experiment = jcls.build(sections)
    codes: Counter[tuple[str, tuple[int, ...]]] = Counter()
    runs = 0
    while blows:
        workdir = args.directory / f'run{runs}'
        while True:
            running = begin(workdir, args.processes)
            if blows:
                moment(workdir, running, rng)
                blow, one = blows.pop(), rng.randrange(args.processes)
                name = rng.choice([*ALWAYS, *UNLESS_USED])
                for process in running if blow == 'kill' and rng.random() < 0.8 else [running[one]]:
                    with contextlib.suppress(ProcessLookupError):
                        process.send_signal(
                            signal.SIGKILL if blow == 'kill' else getattr(signal, name)
                        )
            else:
                blow, name = 'none', ''
            code = tuple(ended(running))
            lines = log.read(workdir / log.FILE)
            step = lines[-1]['step'] if lines else 0
            codes[name if blow == 'signal' else blow, code] += 1
            print(
                f'{len(blows):4} left: {blow} {name} -> {code}, run {runs}, step {step}', flush=True
            )
            if set(code) == {DONE}:
                break
        assert_same_run(workdir, reference, experiment)
        print(f'run {runs} equals the undisturbed one', flush=True)
        runs += 1
    for (blow, code), count in sorted(codes.items()):
        print(f'{count:4} x {blow} {code}')
    print(f'{runs} runs, all equal bit for bit')


if __name__ == '__main__':
    sys.exit(main())

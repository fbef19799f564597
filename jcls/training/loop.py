"""The training loop: exactly `horizon.total` updates, with logs, evaluations and checkpoints.

The order at a step is: update, log, evaluate, save. So if checkpoint N is finished, all lines of
metrics.jsonl up to N are written, and a run that resumes from it repeats none.
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax

from jcls.config import common_fields
from jcls.config.parts import own_sources
from jcls.distributed import agree
from jcls.host.disk import local
from jcls.training import freezing, report, same_data, traps
from jcls.training.experiment import Experiment
from jcls.training.interrupt import Interrupt, Stopped
from jcls.training.report import Result
from jcls.training.state import State
from jcls.workdir import files
from jcls.workdir.checkpoint import Checkpoints, has_checkpoint
from jcls.workdir.lock import Lock
from jcls.workdir.log import FILE, Log, flat, read

CHECK_EVERY = 100  # steps after which a loss that is not finite is found at the latest


def train(
    experiment: Experiment,
    workdir: str | Path,
    *,
    summary: bool = True,
    own_process: bool = False,
) -> Result:
    """Train in `workdir`, or go on from its newest checkpoint, to the end of the horizon.

    With `summary`, print at the end what was reached, where the files are and what to do next.
    `own_process` says that this process ends with the run, see `Interrupt`.

    Raises:
      ValueError: for a workdir of another config or in use, or more damaged images than allowed.
      FloatingPointError: if a loss, a gradient or an evaluation is not finite.
      OSError: if the workdir cannot be written.
    """
    path, horizon = local(workdir).resolve(), experiment.horizon
    settings, primary = experiment.checkpoint, jax.process_index() == 0
    began = time.perf_counter()
    agree.agree(_compared(experiment), experiment.data.checksums, path)
    files.check_name(path)
    with ExitStack() as stack:
        if not has_checkpoint(path):
            files.check_apart(path, experiment.config['data'])
        lock = stack.enter_context(closing(_lock(path))) if primary else None
        agree.wait()  # the others look at the workdir once nobody else changes it
        resumes = has_checkpoint(path)  # without one, the workdir begins anew
        forgotten = 0 if resumes else len(read(path / FILE))
        before = files.read_metadata(path) if resumes else {}
        experiment = experiment.with_teacher(before.get('teacher_step'))
        experiment.check_sources(start=not resumes)
        metadata = experiment.metadata()
        known = same_data.known_data(path)
        if resumes:
            files.check(path, experiment.config, experiment.sections, horizon)
        changed = same_data.check(path, known, metadata, experiment.data)
        if primary:
            files.prepare(path, experiment.config, metadata, anew=not resumes)
            if known is None or known.train is None:
                same_data.note(path, experiment.data)
        # Signals are handled until everything is on disk, so this context is left last.
        interrupt = stack.enter_context(Interrupt(own_process=own_process))
        checkpoints = stack.enter_context(
            closing(
                Checkpoints(
                    path,
                    keep=settings.keep,
                    best=settings.best,
                    best_is_highest=experiment.best_is_highest,
                )
            )
        )
        checkpoints.check_room(experiment.state_shapes())
        state = checkpoints.restore(experiment.state_shapes())
        start = 0 if state is None else int(state.step)
        if start > horizon.total:
            raise ValueError(
                f'{path} has a checkpoint at step {start}, beyond config.duration='
                f'{experiment.config["duration"]!r} ({horizon.total} steps): lengthen it'
            )
        evaluated = bool(start and checkpoints.metrics(start))

        def keep(line: dict[str, Any]) -> bool:
            """Whether to keep a line of the log: those up to the checkpoint; without one, none."""
            again = not evaluated and any(key.startswith('eval') for key in line)
            return state is not None and line['step'] <= start - again

        log = stack.enter_context(
            closing(Log(path, experiment.log, horizon, start, keep, active=primary))
        )
        log.say(report.describe(experiment))
        for warning in (
            *traps.warnings(experiment),
            *_changed_parts(experiment, before),
            *changed,
            *(_copied(experiment) if primary else ()),
            *(() if resumes else _seen(experiment)),
        ):
            log.say(f'warning: {warning}')
        log.say(f'workdir: {path}' + (f'; resuming from checkpoint {start}' if start else ''))
        if forgotten and primary:
            log.say(
                f'no checkpoint is there, so the run begins anew: {forgotten} line(s) of '
                f'{FILE} were dropped'
            )
        state = experiment.init() if state is None else state
        mark = _frozen_checksum(experiment, state, path, log, write=primary)
        stopped_by, state = _run(
            experiment, state, start, evaluated, checkpoints, log, interrupt, lock
        )
        checkpoints.wait()
        step = int(state.step)
        if mark is not None:
            _verify_frozen(experiment, state, mark)
            log.say('what is frozen has not changed by one bit')
        result = Result(step, horizon.total, report.last_evaluation(path), path, stopped_by)
        if primary:
            files.update_metadata(path, {'step': step, 'metrics': result.metrics})
        if summary:
            seconds = time.perf_counter() - began
            log.say(report.summary(experiment, result, checkpoints.steps(), seconds))
    return result


def _run(
    experiment: Experiment,
    state: State,
    start: int,
    evaluated: bool,
    checkpoints: Checkpoints,
    log: Log,
    interrupt: Interrupt,
    lock: Lock | None,
) -> tuple[str | None, State]:
    """Run the steps from `start` on; returns the signal that stopped them, or None, and the state.

    `evaluated` says whether the state at `start` was evaluated before it was saved.
    """
    total, intervals = experiment.horizon.total, experiment.every
    unchecked: list[tuple[int, dict[str, jax.Array]]] = []

    def due(step: int, what: str) -> bool:
        return step == total or bool(intervals[what] and step % intervals[what] == 0)

    # If a signal ended the run before an evaluation that was due, that one is made up for now.
    at_start = experiment.evaluate.at_start if start == 0 else due(start, 'evaluate')
    if at_start and not evaluated:
        log.evaluation(start, experiment.evaluations(state.variables, state.ema))
    for step, batch in enumerate(experiment.train_batches(start), start + 1):
        if step == start + 1:
            with log.waiting('compiling the training step'):
                state, metrics = jax.block_until_ready(experiment.train_step(state, batch))
            log.restart_clock(step)
        else:
            state, metrics = experiment.train_step(state, batch)
        unchecked.append((step, metrics))
        signal, unfinished = interrupt.requested(step), step < total
        # A signal leaves little time, so save first. A best state can only be kept if it is saved.
        evaluating = due(step, 'evaluate') and (signal is None or step == total)
        best = evaluating and experiment.checkpoint.best is not None
        saving = due(step, 'checkpoint') or signal is not None or best
        logging = due(step, 'log')
        if logging or evaluating or saving or len(unchecked) == CHECK_EVERY:
            _check_finite(unchecked)
            unchecked.clear()
            if lock is not None:
                lock.check()
        if logging:
            log.train(step, _to_floats(metrics))
        if evaluating or saving:
            with log.paused():
                results: dict[str, dict[str, float]] = {}
                if evaluating:
                    try:
                        results = experiment.evaluations(
                            state.variables, state.ema, stop=interrupt.is_requested
                        )
                        log.evaluation(step, results)
                    except Stopped:  # it is made up for when the run resumes
                        signal, saving, unfinished = interrupt.requested(step), True, True
                if saving:
                    checkpoints.save(state, flat(results))
        if signal is not None and unfinished:
            return signal, state
    return None, state


def _lock(workdir: Path) -> Lock:
    try:
        return Lock(workdir)
    except OSError as error:
        raise files.unwritable(workdir, error) from error


def _compared(experiment: Experiment) -> dict[str, Any]:
    """Facts that all hosts must agree on: fields of the config, and the user's own parts."""
    sources = own_sources(experiment.config)
    named = {f'source of {name}': digest for name, digest in sources.items()}
    return common_fields(experiment.config, experiment.sections) | named


def _changed_parts(experiment: Experiment, known: dict[str, Any]) -> list[str]:
    """Warnings about the user's own parts whose source has changed since the run began."""
    now = own_sources(experiment.config)
    return [
        f'the source of {name} has changed since this run began: it may compute something else'
        for name, digest in known.get('own_parts', {}).items()
        if now.get(name, digest) != digest
    ]


def _copied(experiment: Experiment) -> list[str]:
    return same_data.copied(experiment.data, experiment.config['data'].get('copies', 'ignore'))


def _seen(experiment: Experiment) -> list[str]:
    source = experiment.init_from.source
    return [] if source is None else same_data.trained_on(source, experiment.data.val)


def _frozen_checksum(
    experiment: Experiment, state: State, path: Path, log: Log, *, write: bool
) -> int | None:
    """Report what is frozen, and return its checksum; None if nothing is frozen."""
    frozen = experiment.frozen
    if not frozen:
        return None
    groups = experiment.optimizer.groups(state.params)
    log.console.print(freezing.report(state.variables, groups, frozen))
    known = files.read_metadata(path).get('frozen_crc32')
    if known is not None and int(state.step):
        _verify_frozen(experiment, state, known)
    mark = freezing.fingerprint(state.variables, frozen)
    if write:
        files.update_metadata(path, {'frozen_crc32': mark})
    return mark


def _verify_frozen(experiment: Experiment, state: State, mark: int) -> None:
    if freezing.fingerprint(state.variables, experiment.frozen) != mark:
        raise RuntimeError(
            f'what config.init freezes has changed between the start and step {int(state.step)}: '
            'this is a defect of jcls; do not use these weights'
        )


def _check_finite(steps: list[tuple[int, dict[str, jax.Array]]]) -> None:
    """Raise FloatingPointError if a loss or gradient is not finite, before it can be saved."""
    for step, metrics in jax.device_get(steps):
        for name in ('loss', 'gradient_norm'):
            if not math.isfinite(metrics[name]):
                raise FloatingPointError(
                    f'the {name.replace("_", " ")} at step {step} is {metrics[name]} (learning '
                    f'rate {metrics["learning_rate"]:.6g}). The last checkpoint is from before it; '
                    'lower config.optimizer.lr, lengthen config.schedule.warmup, or look at the '
                    'images of that step'
                )


def _to_floats(metrics: dict[str, jax.Array]) -> dict[str, float]:
    return {name: float(value) for name, value in jax.device_get(metrics).items()}

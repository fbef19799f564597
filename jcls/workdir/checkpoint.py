"""Checkpoints: one thin adapter over Orbax.

Checkpoint N holds the state after N updates. Saving is asynchronous and atomic (a folder that is
still being written has another name), so a killed run loses at most what came after the last
finished one. The latest and the best are both kept: keeping the best alone would delete the newest
and let a resumed run go backwards (orbax issue 526).
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import math
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from jcls.host.disk import free_space
from jcls.workdir import damage, trees

State = Any  # a pytree of arrays with a `step`: `jcls.training.state.State`
policy = ocp.checkpoint_managers
logger = logging.getLogger(__name__)

FOLDER = 'checkpoints'


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointSettings:
    """The ``checkpoint`` section.

    Attributes:
      every: interval between checkpoints, such as '1 epoch' or '500 steps'. With 'never' there is
        one at the end of the run, and one at an interruption.
      keep: number of the latest checkpoints to keep.
      best: also keep the checkpoint with the best value of this metric, such as 'eval/top1' or
        'eval_ema/loss' (see config.evaluate.metrics), and save at every evaluation, so that it can
        be kept; None to keep the latest only.
    """

    every: str = '1 epoch'
    keep: int = 2
    best: str | None = 'eval/top1'

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f'config.checkpoint.keep={self.keep}: at least 1')


class Checkpoints:
    """The checkpoints of a workdir. Everything is on disk only once `close` has returned."""

    def __init__(
        self,
        workdir: Path,
        *,
        keep: int = 2,
        best: str | None = None,
        best_is_highest: bool | None = True,
        write: bool = True,
    ) -> None:
        self.directory = workdir.resolve() / FOLDER
        self._best, self._best_is_highest = best, best_is_highest
        policies: list[Any] = [policy.LatestN(n=keep)]
        if best is not None:
            policies.append(policy.BestN(get_metric_fn=self._rank, n=1))
        # A process that reads needs nothing of the others, and may have to read again.
        alone = {} if write else trees.alone()
        try:
            with trees.quiet():
                self._manager = ocp.CheckpointManager(
                    self.directory,
                    options=ocp.CheckpointManagerOptions(
                        preservation_policy=policy.AnyPreservationPolicy(policies),
                        best_fn=self._rank,  # without it Orbax does not store the metrics
                        create=write,
                        read_only=not write,
                        cleanup_tmp_directories=write,  # left by writes that a kill cut off
                        lightweight_initialize=True,  # or one damaged evaluation would end it here
                        **alone,
                    ),
                )
                self._damaged = self._check()
                if write and not self._damaged:
                    self._manager.reload()  # reads the evaluations, for the best to be kept
        except OSError as error:
            raise _unwritable(self.directory, error) from error

    def _check(self) -> dict[int, str]:
        """{step: reason} of the checkpoints that are damaged, the values in them aside."""
        damaged = {}
        for step in steps_in(self.directory.parent):
            folder = self.directory / str(step)
            try:
                damage.read_metrics(folder)
            except Exception as error:  # damage makes the readers raise anything
                damaged[step] = damage.reason(error, folder)
        return damaged

    def _rank(self, metrics: dict[str, float] | None) -> float:
        """A number that is highest for the best checkpoint; one without the metric comes last."""
        value = (metrics or {}).get(self._best or '')
        if isinstance(value, list):
            raise ValueError(f'config.checkpoint.best={self._best!r} is a vector, not a number')
        if value is None or math.isnan(value):
            return -math.inf
        return value if self._best_is_highest else -value

    def steps(self) -> list[int]:
        """The steps that have a finished checkpoint, in order."""
        return sorted(self._manager.all_steps())

    def metrics(self, step: int) -> dict[str, float]:
        """The evaluation that was saved with a checkpoint; empty if there was none.

        Raises:
          ValueError: if it is damaged.
        """
        with self._named(step):
            return damage.read_metrics(self.directory / str(step))

    def best(self) -> int:
        """The step of the best checkpoint; the latest of equally good ones.

        Raises:
          ValueError: if there is none, or the evaluation of any of them is damaged.
        """
        ranked = [(self._rank(self.metrics(step)), step) for step in self.steps()]
        if not ranked:
            raise ValueError(f'{self.directory} holds no checkpoint')
        if max(ranked)[0] == -math.inf:
            raise ValueError(f'no checkpoint in {self.directory} has the metric {self._best!r}')
        return max(ranked)[1]

    def check_room(self, state: State) -> None:
        """Raise OSError if the disk has no room for a checkpoint of `state`, arrays or shapes."""
        needed = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        free = free_space(self.directory)
        if free is not None and free < needed:
            reason = OSError(f'a checkpoint takes {needed:,} bytes, the disk has {free:,} left')
            raise _unwritable(self.directory, reason)

    def save(self, state: State, metrics: dict[str, float] | None = None) -> None:
        """Start saving `state` with `metrics`, unless there is a checkpoint of its step.

        This raises the error of the previous save, if it failed.
        """
        step = int(state.step)
        if step in self._manager.all_steps():
            return
        self.check_room(state)
        try:
            args, metrics = ocp.args.StandardSave(state), metrics or {}
            sums = damage.checksums(state, metrics)
            self._manager.save(step, args=args, metrics=metrics, force=True, custom_metadata=sums)
        except Exception as error:
            raise _unwritable(self.directory, error) from error

    def restore(self, like: State) -> State | None:
        """The newest readable checkpoint, placed as `like`; None if there is no checkpoint.

        `like` is a tree of `jax.ShapeDtypeStruct` with shardings. Newer checkpoints that cannot be
        read, and older ones whose evaluation cannot, are reported and moved to ``damaged/`` in the
        workdir. If none can be read, nothing is moved, and the error of the newest one is raised as
        a ValueError.
        """
        failed = dict(self._damaged)
        restored: State | None = None
        for step in sorted({*self.steps()} - failed.keys(), reverse=True):
            folder = self.directory / str(step)
            try:
                state = self._manager.restore(step, args=ocp.args.StandardRestore(like))
                damage.require_same(folder, state)
                if int(state.step) != step:
                    raise ValueError(f'it holds the state after {int(state.step)} updates')
            except Exception as error:  # damage makes the readers raise anything
                failed[step] = damage.reason(error, folder)
            else:
                restored = state
                break
        if restored is not None:
            for step, why in failed.items():
                self._set_aside(step, int(restored.step), why)
            if failed:
                self._manager.reload()
        elif failed:
            newest = max(failed)
            if 'structure' in failed[newest]:
                raise ValueError(
                    f'checkpoint {newest} in {self.directory} has other parts than this run: it '
                    'was saved by another version of jcls, or is damaged. Use that version to '
                    'resume, or start another workdir from its weights with config.init.source'
                )
            raise ValueError(
                f'no checkpoint in {self.directory} can be read; the newest, {newest}: '
                f'{failed[newest]}. Bring one back from a copy, or begin again in another --workdir'
            )
        return restored

    def variables(self, step: int) -> dict[str, Any]:
        """The parameters, the statistics and, if there are any, their averages, as NumPy arrays.

        Raises:
          ValueError: if the checkpoint is damaged.
        """
        folder = self.directory / str(step)
        with self._named(step):
            damage.read_metrics(folder)
            tree = trees.read(folder)
            damage.require_same(folder, tree)
            return tree

    @contextmanager
    def _named(self, step: int) -> Iterator[None]:
        """Let an error say which checkpoint is damaged, and which others there are."""
        try:
            yield
        except Exception as error:  # damage makes the readers raise anything
            others = ', '.join(str(other) for other in self.steps() if other != step)
            raise ValueError(
                f'checkpoint {step} in {self.directory} is damaged: '
                f'{damage.reason(error, self.directory / str(step))}. '
                + (f'There are others: step {others}' if others else 'There is no other')
            ) from error

    def _set_aside(self, step: int, restored: int, why: str) -> None:
        target = self.directory.parent / 'damaged' / str(step)
        if jax.process_index() == 0:
            target.parent.mkdir(exist_ok=True)
            names = itertools.chain([str(step)], (f'{step}.{i}' for i in itertools.count(1)))
            target = next(p for p in map(target.with_name, names) if not p.exists())
            shutil.move(self.directory / str(step), target)  # `checkpoints` may be on another disk
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices('damaged checkpoint set aside')
        logger.warning(
            'checkpoint %d cannot be read (%s): moved to %s; going on from checkpoint %d',
            step,
            why,
            target.parent,
            restored,
        )

    def wait(self) -> None:
        """Wait until the last save is on disk, and raise its error if it failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise _unwritable(self.directory, error) from error

    def close(self) -> None:
        """Wait until the last save is on disk, then release everything."""
        try:
            self.wait()
        finally:
            self._manager.close()


def steps_in(workdir: Path) -> list[int]:
    """The steps of which a workdir has a checkpoint, in order; what is being written is none."""
    saved = workdir / FOLDER
    names = [entry.name for entry in saved.iterdir()] if saved.is_dir() else []
    return sorted(int(name) for name in names if re.fullmatch('0|[1-9][0-9]*', name))


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run has saved anything in this workdir yet."""
    return bool(steps_in(workdir))


def _unwritable(directory: Path, error: Exception) -> OSError:
    return OSError(
        f'cannot write to {directory}: {damage.reason(error, directory)}. The last finished '
        'checkpoint is intact; make room (or the folder writable) and run the same command to '
        'resume.'
    )

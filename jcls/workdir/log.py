"""What a run reports: metrics.jsonl, TensorBoard, a live display (lines, without a terminal).

Each line of metrics.jsonl is one object with ``step``, ``epoch`` and names like ``train/loss``. The
values of a step are that step's own, not averages over the interval. So a resumed run writes the
very lines that an uninterrupted one would, except for images_per_second.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jcls.config.horizon import Horizon
from jcls.host import tensorflow

FILE = 'metrics.jsonl'
PLAIN_SECONDS = 5.0  # seconds between two lines of progress, at least


@dataclasses.dataclass(frozen=True, kw_only=True)
class LogSettings:
    """The ``log`` section.

    Attributes:
      every: interval of the training metrics, such as '50 steps'; with 'never' only the last step's
        are written.
      tensorboard: also write event files for TensorBoard.
    """

    every: str = '50 steps'
    tensorboard: bool = True


class Log:
    """The writer of metrics and the display, from step `start` on.

    The lines of an earlier run stay where `keep` says so. With `active` false, as in every process
    but the first, nothing is written or shown.
    """

    def __init__(
        self,
        workdir: Path,
        settings: LogSettings,
        horizon: Horizon,
        start: int,
        keep: Callable[[dict[str, Any]], bool],
        *,
        active: bool = True,
    ) -> None:
        self._active, self._horizon = active, horizon
        self._path = workdir / FILE
        self._writer: Any = None
        self.console = Console(quiet=not active, soft_wrap=True)
        if active:
            truncate(self._path, keep)
            truncate_events(workdir, keep)
        if active and settings.tensorboard:
            tensorflow.load()  # before clu imports it: silent, and off the accelerators
            from clu.metric_writers import SummaryWriter

            self._writer = SummaryWriter(str(workdir))
        self._progress = Progress(
            TextColumn('step'),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn('{task.fields[status]}'),
            TimeRemainingColumn(),
            TextColumn('left'),
            console=self.console,
            disable=not (active and self.console.is_terminal),
        )
        self._task = self._progress.add_task(
            '', total=horizon.total, completed=start, status='starting ...'
        )
        self._plain_at, self._clock, self._clock_step = 0.0, time.perf_counter(), start
        self._progress.start()

    def train(self, step: int, metrics: dict[str, float]) -> None:
        """Log the training metrics of a step, with the speed since the last call."""
        now = time.perf_counter()
        status = f'loss {metrics["loss"]:.4f}  top-1 {metrics["top1"]:.3f}'
        left = ''
        if step > self._clock_step:
            seconds = (now - self._clock) / (step - self._clock_step)
            rate = self._horizon.batch_size / seconds
            metrics = {**metrics, 'images_per_second': rate}
            status += f'  {rate:,.0f} images/s'
            left = f'  {duration((self._horizon.total - step) * seconds)} left'
        self.restart_clock(step)
        self._write(step, flat({'train': metrics}))
        self._progress.update(self._task, completed=step, status=status)
        if not self.console.is_terminal and now - self._plain_at >= PLAIN_SECONDS:
            self._plain_at = now
            self.say(f'step {step}/{self._horizon.total}  {status}{left}')

    def evaluation(self, step: int, results: dict[str, dict[str, float]]) -> None:
        """Log evaluations, ``{'eval': {'top1': ...}, ...}``, as one line."""
        for prefix, metrics in results.items():
            self.say(
                f'step {step}  epoch {self._horizon.epoch(step):.4g}  {prefix}: '
                f'{format_metrics(metrics, "  ")}  ({metrics["examples"]:,} images)'
            )
        self._write(step, flat(results))

    def say(self, message: str) -> None:
        """Show a message to the user."""
        self.console.print(message, highlight=False, markup=False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show that `what` takes a while, and how long it took."""
        began = time.perf_counter()
        self._progress.update(self._task, status=f'{what} ...')
        if not self.console.is_terminal:
            self.say(f'{what} ...')
        yield
        self.say(f'{what} took {duration(time.perf_counter() - began)}')

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not count the time inside this context as training time."""
        began = time.perf_counter()
        yield
        self._clock += time.perf_counter() - began

    def restart_clock(self, step: int) -> None:
        """Measure the speed from this step on, such as after the first one, which compiles."""
        self._clock, self._clock_step = time.perf_counter(), step

    def close(self) -> None:
        """Stop the display and write everything to disk."""
        self._progress.stop()
        if self._writer is not None:
            self._writer.close()

    def _write(self, step: int, metrics: dict[str, float]) -> None:
        if not self._active:
            return
        for name, value in metrics.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise FloatingPointError(f'{name} at step {step} is {value}')
        line = json.dumps(
            {'step': step, 'epoch': self._horizon.epoch(step), **metrics}, allow_nan=False
        )
        try:
            with self._path.open('a') as file:
                file.write(line + '\n')
        except OSError as error:
            raise OSError(
                f'cannot write {self._path}: {error.strerror}. Once it can be written, the same '
                'command resumes from the last checkpoint.'
            ) from error
        if self._writer is not None:
            scalars = {
                name: value for name, value in metrics.items() if not isinstance(value, list)
            }
            self._writer.write_scalars(step, scalars)
            self._writer.flush()  # a run that is killed leaves what metrics.jsonl has


def flat(results: dict[str, dict[str, float]]) -> dict[str, float]:
    """``{'eval': {'top1': x}}`` -> ``{'eval/top1': x}``."""
    return {f'{prefix}/{k}': v for prefix, metrics in results.items() for k, v in metrics.items()}


def format_metrics(metrics: Mapping[str, Any], separator: str = ', ') -> str:
    """'top-1 0.9000, top-5 1.0000, loss 0.3000': accuracies first; vectors are left out."""
    labels = {'top1': 'top-1', 'top5': 'top-5'} | {
        name: name for name in sorted(metrics) if name not in ('top1', 'top5', 'examples')
    }
    return separator.join(
        f'{label} {metrics[name]:.4f}'
        for name, label in labels.items()
        if isinstance(metrics.get(name), float)
    )


def read(path: Path) -> list[dict[str, Any]]:
    """The complete lines of a metrics.jsonl; a last line that a kill cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_bytes().split(b'\n')[:-1]  # what follows the last newline is incomplete
    content = []
    for number, line in enumerate(lines, 1):
        try:
            content.append(json.loads(line))
            if not isinstance(content[-1].get('step'), int):
                raise ValueError('it names no step')
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f'line {number} of {path} is damaged ({error}); correct it, or move the file '
                'elsewhere: a run goes on without it'
            ) from None
    return content


def truncate(path: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep only the lines of a metrics.jsonl for which `keep` is true; atomically."""
    if path.exists():
        kept = [json.dumps(line) + '\n' for line in read(path) if keep(line)]
        temporary = path.with_suffix('.tmp')
        temporary.write_text(''.join(kept))
        temporary.replace(path)


def truncate_events(workdir: Path, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Keep only those values of TensorBoard's files for which `keep` is true; each file atomically.

    Values that are not a run's own, train/... and eval.../..., stay, and so do files that need no
    change. What follows the last readable event of a file is the rest of one that a kill cut off.
    """
    for path in filter(Path.is_file, sorted(workdir.glob('events.out.tfevents.*'))):
        tf, kept, cut = tensorflow.load(), [], False
        events = iter(tf.data.TFRecordDataset(str(path)).as_numpy_iterator())
        try:
            for record in events:
                event = tf.compat.v1.Event.FromString(record)
                own = [v.tag for v in event.summary.value if v.tag.startswith(('train/', 'eval'))]
                if own and not keep({'step': event.step, **dict.fromkeys(own)}):
                    cut = True
                else:
                    kept.append(record)
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError):
            cut = True
        if cut:
            temporary = workdir / 'events.tmp'  # a name that TensorBoard does not read
            with tf.io.TFRecordWriter(str(temporary)) as writer:
                for record in kept:
                    writer.write(record)
            temporary.replace(path)


def duration(seconds: float) -> str:
    """Seconds in words: '42 s', '3 min 20 s', '5 h 10 min', '2 d 3 h'."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    parts = [(days, 'd'), (h, 'h'), (m, 'min'), (s, 's')]
    first = next((i for i, (value, _) in enumerate(parts) if value), 3)
    return ' '.join(f'{value} {unit}' for value, unit in parts[first : first + 2] if value) or '0 s'

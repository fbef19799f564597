"""Read the checkpoints of a workdir, even of one in which a run trains.

That run saves new checkpoints and deletes old ones, maybe faster than they are read. So a reader
whose checkpoint vanishes takes the newest one again. It changes nothing in the workdir.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from jcls.workdir import damage
from jcls.workdir.checkpoint import FOLDER, Checkpoints, steps_in
from jcls.workdir.files import read_config, read_metadata

ATTEMPTS = 20
PATIENCE = 2.0  # seconds in which a checkpoint that is being deleted is gone


class Saved(NamedTuple):
    """What a checkpoint holds for those who use it.

    Attributes:
      step: the number of updates.
      variables: the parameters, the statistics and, if there are any, their averages, as NumPy
        arrays.
      metrics: the evaluation that was saved with them; empty if there was none.
    """

    step: int
    variables: dict[str, Any]
    metrics: dict[str, float]


def read(workdir: Path, step: int | str = 'last') -> Saved:
    """The checkpoint of `step`: 'last', 'best' (by config.checkpoint.best) or a number.

    Raises:
      ValueError: if there is no such checkpoint, or it cannot be read.
    """
    for attempt in range(ATTEMPTS):
        known = _require(workdir, step)
        number: int | str = step
        try:
            number = step_of(workdir, step)
            if attempt == 0:
                return _saved(workdir, number)
            # A copy takes less time than reading, so it outruns the run that deletes.
            with tempfile.TemporaryDirectory() as folder:
                shutil.copytree(_folder(workdir, number), _folder(Path(folder), number))
                return _saved(Path(folder), number)
        except Exception as error:  # what vanishes, or is damaged, makes the readers raise anything
            if _changes(workdir, known):
                continue
            if isinstance(error, ValueError):
                raise
            raise ValueError(
                f'checkpoint {number} in {workdir / FOLDER} cannot be read: '
                f'{damage.reason(error, _folder(workdir, number))}'
            ) from error
    raise ValueError(
        f'the run in {workdir} deleted {ATTEMPTS} checkpoints while they were read. Wait for its '
        'end, or let it keep more of them (config.checkpoint.keep) or save less often '
        '(config.checkpoint.every)'
    )


def step_of(workdir: Path, step: int | str = 'last') -> int:
    """The number of the checkpoint that `step` means now; a ValueError if there is none."""
    known = _require(workdir, step)
    return _best(workdir) if step == 'best' else known[-1] if step == 'last' else int(step)


def _require(workdir: Path, step: int | str) -> list[int]:
    """The steps that have a checkpoint; a ValueError if `step` is none of them."""
    known = steps_in(workdir)
    if not known:
        raise ValueError(f'{workdir / FOLDER} holds no finished checkpoint yet')
    if step not in ('last', 'best') and not (str(step).isdigit() and int(step) in known):
        raise ValueError(
            f'step={step!r}: no such checkpoint in {workdir / FOLDER} (there are: '
            f"{', '.join(map(str, known))}; or 'last', 'best')"
        )
    return known


def _best(workdir: Path) -> int:
    best = read_config(workdir)['checkpoint'].get('best')
    # Older runs have no such key: they kept the lowest loss and the highest of other metrics.
    highest = read_metadata(workdir).get('best_is_highest', not str(best).endswith('loss'))
    with closing(
        Checkpoints(workdir, best=best, best_is_highest=highest, write=False)
    ) as checkpoints:
        return checkpoints.best()


def _saved(workdir: Path, step: int) -> Saved:
    with closing(Checkpoints(workdir, write=False)) as checkpoints:
        return Saved(step, checkpoints.variables(step), checkpoints.metrics(step))


def _folder(workdir: Path, step: int | str) -> Path:
    return workdir / FOLDER / str(step)


def _changes(workdir: Path, known: list[int]) -> bool:
    """Whether other checkpoints than the `known` ones are there soon: a run trains here."""
    deadline = time.monotonic() + PATIENCE
    while steps_in(workdir) == known:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True

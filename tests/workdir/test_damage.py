"""A checkpoint of some thousand bytes, damaged everywhere: what was saved comes back, or nothing.

Most of these tests need no run: a state of four small arrays is saved twice.
"""

from __future__ import annotations

import dataclasses
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jcls.training.state import State
from jcls.workdir.checkpoint import FOLDER, Checkpoints

EVALUATIONS = {1: {'eval/top1': 0.75, 'eval/loss': 1.5}, 2: {'eval/top1': 0.5, 'eval/loss': 0.25}}
BYTES = 60  # how many are changed, one at a time, of about 6,000


def state_of(step: int) -> State:
    """A state of a few numbers, which `step` decides."""
    rng = np.random.default_rng(step)

    def array(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    return State(
        step=jnp.asarray(step),
        params={'head': {'kernel': array(3, 4)}},
        batch_stats={'norm': {'mean': array(4)}},
        opt_state=(array(3, 4),),
        ema={'params': {'head': {'kernel': array(3, 4)}}},
    )


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with the checkpoints 1 and 2."""
    workdir = tmp_path_factory.mktemp('saved')
    for step, evaluation in EVALUATIONS.items():
        with closing(Checkpoints(workdir)) as checkpoints:
            checkpoints.save(state_of(step), evaluation)
    return workdir


@pytest.fixture
def workdir(saved: Path, tmp_path: Path) -> Path:
    """A copy of `saved` to damage."""
    return Path(shutil.copytree(saved, tmp_path / 'workdir'))


def same(a: Any, b: Any) -> bool:
    """Whether two trees are equal bit for bit."""
    if jax.tree.structure(a) != jax.tree.structure(b):
        return False
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return all(
        x.dtype == y.dtype and x.shape == y.shape and np.asarray(x).tobytes() == y.tobytes()
        for x, y in pairs
    )


def resumed(workdir: Path) -> int:
    """The step that a run would go on from; what is restored must be what was saved."""
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), state_of(1)
    )
    with closing(Checkpoints(workdir)) as checkpoints:
        state = checkpoints.restore(like)
        assert state is not None, 'begun anew'
        step = int(state.step)
        assert same(jax.device_get(state), jax.device_get(state_of(step)))
        assert checkpoints.metrics(step) == EVALUATIONS[step]
        assert step == max(checkpoints.steps())
    return step


def read(workdir: Path, step: int) -> bool:
    """Whether the weights of a checkpoint can be read; then they must be those saved."""
    with closing(Checkpoints(workdir, write=False)) as checkpoints:
        if step not in checkpoints.steps():
            return False
        try:
            found, evaluation = checkpoints.variables(step), checkpoints.metrics(step)
        except ValueError as refused:
            message = str(refused)
            found = None
    if found is None:
        assert message.startswith(f'checkpoint {step} in {workdir / FOLDER} is damaged: ')
        assert message.endswith(f'There are others: step {3 - step}')
        return False
    state = jax.device_get(state_of(step))
    fields = {'params': state.params, 'batch_stats': state.batch_stats, 'ema': state.ema}
    assert same(found, fields)
    assert evaluation == EVALUATIONS[step]
    return True


def removed(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def emptied(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
        path.mkdir()
    else:
        path.write_bytes(b'')


def cut(path: Path) -> None:
    if path.is_file():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def of_another_kind(path: Path) -> None:
    """A folder in place of a file, or a file in place of a folder."""
    folder = path.is_dir()
    removed(path)
    path.write_bytes(b'?') if folder else path.mkdir()


def places(saved: Path, step: int) -> Iterator[Path]:
    """The files and folders of a checkpoint, itself included, relative to the workdir.

    The database of each process is left over from saving: its values are in that beside it.
    """
    folder = saved / FOLDER / str(step)
    for path in (folder, *sorted(folder.rglob('*'))):
        if 'ocdbt.process_0' not in path.parts:
            yield path.relative_to(saved)


@pytest.mark.parametrize('damage', [removed, emptied, cut, of_another_kind])
def test_every_file_in_every_way(
    saved: Path, tmp_path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """Of the newest checkpoint: the run goes on from it or from the one before, in one sentence.
    Of the older one: it goes on from the newest."""
    for step in (1, 2):
        for place in places(saved, step):
            shutil.copytree(saved, tmp_path, dirs_exist_ok=True)
            damage(tmp_path / place)
            caplog.clear()
            readable, found = read(tmp_path, step), resumed(tmp_path)
            warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
            said = [record.getMessage() for record in warnings if record.name.startswith('jcls')]
            if step == 1:
                assert found == 2, place
            elif found == 1 and (damage, place.name) != (removed, '2'):
                assert not readable, place
                (sentence,) = said
                assert sentence.startswith('checkpoint 2 cannot be read ('), place
                assert sentence.endswith(f'to {tmp_path}/damaged; going on from checkpoint 1')
                if place.name not in ('2', 'd', 'default', 'metrics', 'array_metadatas'):
                    assert place.name in sentence, place
            shutil.rmtree(tmp_path)
            tmp_path.mkdir()


def test_every_byte(saved: Path, tmp_path: Path) -> None:
    """What a changed bit leaves readable is what was saved; the rest is refused, or falls back."""
    files = [place for place in places(saved, 2) if (saved / place).is_file()]
    sizes = [(saved / file).stat().st_size for file in files]
    rng = np.random.default_rng(0)
    for count, number in enumerate(np.sort(rng.choice(sum(sizes), BYTES, replace=False)).tolist()):
        which = int(np.searchsorted(np.cumsum(sizes), number, side='right'))
        at = number - sum(sizes[:which])
        copy = tmp_path / str(count)
        shutil.copytree(saved, copy)
        content = bytearray((saved / files[which]).read_bytes())
        content[at] ^= 1 << int(rng.integers(8))
        (copy / files[which]).write_bytes(content)
        read(copy, 2)
        assert resumed(copy) in (1, 2), (files[which], at)


def test_all_damaged_is_refused(workdir: Path) -> None:
    """Nothing begins anew over what was there, or advises to delete it; nothing is moved."""
    for step in (1, 2):
        removed(workdir / FOLDER / str(step))
        (workdir / FOLDER / str(step)).touch()
    with pytest.raises(ValueError, match=r'the newest, 2: it is no folder\. Bring') as refused:
        resumed(workdir)
    assert 'emove' not in str(refused.value)
    assert len(list((workdir / FOLDER).iterdir())) == 2


def test_another_number_is_no_other_checkpoint(
    workdir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A copy of checkpoint 2 that is called 3 is not the state after 3 updates."""
    shutil.copytree(workdir / FOLDER / '2', workdir / FOLDER / '3')
    assert resumed(workdir) == 2
    assert 'checkpoint 3 cannot be read (it holds the state after 2 updates)' in caplog.text


def test_the_best_is_kept_when_the_evaluation_of_another_is_lost(workdir: Path) -> None:
    """Neither the best nor the damaged one is deleted."""
    (workdir / FOLDER / '2' / 'metrics' / 'metrics').write_text('{')
    assert resumed(workdir) == 1
    for step in (2, 3, 4):
        with closing(Checkpoints(workdir, keep=1, best='eval/top1')) as checkpoints:
            state = dataclasses.replace(state_of(step), step=jnp.asarray(step))
            checkpoints.save(state, {'eval/top1': 0.1})
    with closing(Checkpoints(workdir, write=False, best='eval/top1')) as checkpoints:
        assert (checkpoints.steps(), checkpoints.best()) == ([1, 4], 1)
    assert (workdir / 'damaged' / '2').is_dir()

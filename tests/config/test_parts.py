"""Your own parts: every table takes 'module:function' of a module in the working directory."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jcls
from helpers.runs import TINY
from jcls.assembly import SECTIONS
from jcls.config.parts import own_sources
from jcls.config.schema import complete
from jcls.main import main
from jcls.tools import train

MINE = """
import jax.numpy as jnp
import optax
from jcls.data.augment.operation import Operation
from jcls.data.sources.in_memory import digits
from jcls.optim.ema import Ema
from jcls.training.distill import Distillation


def half(length, to_steps, *, at: str = '0.5 run', factor: float = 0.5):
    step = to_steps(at)
    return lambda t: jnp.where(t < step, 1.0, factor)


def squared(*, scale: float = 1.0):
    return lambda logits, targets: scale * (targets - logits) ** 2


def signed(decay, *, momentum: float = 0.9):
    return optax.chain(decay.coupled, optax.trace(momentum), decay.decoupled)


def inverted(*, most: int = 255):
    return Operation(lambda image, rng: most - image, lambda size: size)


def few(*, fraction: float = 0.5):
    return digits(val_fraction=fraction)


def copied(run, *, every: int = 1):
    return Ema(lambda ema, new, step: new, 0.0, every)


def top3(logits, labels):
    rank = (logits > jnp.take_along_axis(logits, labels[:, None], 1)).sum(1)
    return rank < 3


def by_class(logits, labels):
    return jnp.eye(logits.shape[1])[labels] * (logits.argmax(1) == labels)[:, None]


def scalar(logits, labels):
    return logits.sum()


def forgot(length, to_steps, factor=0.5):
    return lambda t: factor


NUMBER = 3
"""


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's in the working directory."""
    (tmp_path / 'my_parts.py').write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    yield 'my_parts'
    sys.modules.pop('my_parts', None)


OWN: dict[str, dict[str, Any]] = {
    'schedule': {'name': 'my_parts:half', 'at': '6 steps'},
    'loss': {'name': 'my_parts:squared', 'scale': 0.1},
    'optimizer': {'name': 'my_parts:signed', 'lr': 0.01},
    'data': {'name': 'my_parts:few'},
    'ema': {'name': 'my_parts:copied'},
    'evaluate': {
        'metrics': ('top1', 'loss', 'my_parts:top3', 'my_parts:by_class'),
        'every': '6 steps',
        'preprocess': ({'name': 'my_parts:inverted'},),
        'batch_size': 120,
    },
    'checkpoint': {'best': 'eval/top3'},
}


def test_a_run_of_own_parts_trains_and_resumes(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Each is used, its fields too; vectors stay vectors; model.json names the sources."""
    augment = (*tiny['augment'], {'name': 'my_parts:inverted', 'most': 200})
    config = {**tiny, **OWN, 'augment': augment}
    first = jcls.train({**config, 'duration': '6 steps'}, tmp_path / 'run', summary=False)
    result = jcls.train(config, tmp_path / 'run', summary=False)
    assert (first.step, result.step) == (6, 12)
    metrics = result.metrics
    assert 0 <= metrics['eval/top1'] <= metrics['eval/top3'] <= 1
    vector: Any = metrics['eval/by_class']
    assert len(vector) == 10
    assert sum(vector) == pytest.approx(metrics['eval/top1'])
    assert metrics['eval_ema/loss'] == pytest.approx(metrics['eval/loss'])  # a copy, not a mean
    found = json.loads((tmp_path / 'run' / 'model.json').read_text())
    assert found['own_parts'] == own_sources(jcls.build(config).config)
    assert set(found['own_parts']) == {
        f'my_parts:{name}'
        for name in ('half', 'squared', 'signed', 'few', 'copied', 'inverted', 'top3', 'by_class')
    }
    experiment = jcls.build(config)
    assert float(experiment.schedule(5)) == pytest.approx(2 * float(experiment.schedule(6)))
    lines = (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()
    assert any('by_class' in line for line in lines)


@pytest.mark.parametrize('changes', [(), ('schedule.at=30 epochs',)])
def test_a_dry_run_of_own_parts(changes: tuple[str, ...], tmp_path: Path) -> None:
    """Times of a schedule that jcls does not know lie within the two steps, unless set."""
    config = {**TINY, 'schedule': {'name': 'my_parts:half'}, 'loss': {'name': 'my_parts:squared'}}
    (tmp_path / 'mine.py').write_text(f'def get_config():\n    return {config!r}\n')
    shrunk = train.dry_run('mine.py', dict(change.split('=') for change in changes))
    assert shrunk['schedule.at'] == ('30 epochs' if changes else '1 step')
    if not changes:
        assert main(['--config', 'mine.py', '--dry_run']) == 0


def test_a_changed_source_is_warned_of(
    tiny: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On resuming: the run may compute something else from here on."""
    config = {**tiny, 'schedule': OWN['schedule'], 'duration': '2 steps'}
    jcls.train(config, tmp_path / 'run', summary=False)
    (tmp_path / 'my_parts.py').write_text(MINE + '\n')
    capsys.readouterr()
    jcls.train({**config, 'duration': '3 steps'}, tmp_path / 'run', summary=False)
    assert 'the source of my_parts:half has changed' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'my_parts:half', 'ad': '1 step'}, r"schedule\.ad: .*did you mean 'at'"),
        ({'name': 'my_parts:half', 'factor': 'x'}, r'schedule\.factor: expected float'),
        ({'name': 'my_parts:hal'}, r"has no hal; did you mean 'half'"),
        ({'name': 'no_such:half'}, r'cannot import no_such \(ModuleNotFoundError'),
        ({'name': 'my_parts:'}, r'write your own as package\.module:function'),
        ({'name': 'my_parts:NUMBER'}, r'3 is not a function'),
        ({'name': 'my_parts:squared'}, r'must take \(length, to_steps, \*, your fields\)'),
        ({'name': 'my_parts:forgot'}, r'takes \(length, to_steps, factor\) before'),
    ],
)
def test_what_cannot_be_is_an_error_at_once(section: dict[str, Any], message: str) -> None:
    """Before any data are touched, with the place and the cure."""
    config = {'schedule': section, 'model': {'name': 'resnet20'}, 'data': {'name': 'digits'}}
    with pytest.raises(ValueError, match=message):
        complete(config, sections=SECTIONS)


def test_a_metric_must_give_a_value_for_each_example(tiny: dict[str, Any]) -> None:
    """One number for a whole batch cannot be averaged over a set; a vector is not the best."""
    with pytest.raises(ValueError, match=r"'my_parts:scalar' must give \[N\]"):
        jcls.build({**tiny, 'evaluate': {'metrics': ('my_parts:scalar',)}})
    with pytest.raises(ValueError, match=r"unknown config\.checkpoint\.best 'eval/top1'"):
        jcls.build({**tiny, 'evaluate': {'metrics': ('loss',)}})
    with pytest.raises(ValueError, match=r"unknown config\.evaluate\.metrics: 'top7'"):
        jcls.build({**tiny, 'evaluate': {'metrics': ('top7',)}})


def test_the_command_line_takes_own_parts(tiny: dict[str, Any]) -> None:
    """--config.schedule.name=my_parts:half opens its fields and drops the others."""
    overrides = {'schedule.name': 'my_parts:half', 'schedule.factor': '0.1'}
    found = complete(tiny, overrides, sections=SECTIONS)['schedule']
    assert found['factor'] == 0.1
    assert 'end' not in found

"""Averages of weights in whole runs: evaluated, saved, and the same after an interruption."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jcls
from helpers.runs import TINY, assert_same_run, crashing, lines
from jcls.main import main
from jcls.training import loop
from jcls.training.step import normalise

EMA = {'name': 'torchvision', 'every': 2, 'decay': 0.999}


@pytest.fixture(scope='module')
def averaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A finished run with an average, its best chosen by it."""
    config = {**TINY, 'ema': EMA, 'checkpoint': {'every': '4 steps', 'best': 'eval_ema/top1'}}
    experiment = jcls.build(config)
    workdir = tmp_path_factory.mktemp('averaged')
    loop.train(experiment, workdir)
    return experiment, workdir


def test_the_average_is_evaluated_and_saved_beside_the_weights(averaged):
    """eval and eval_ema at every evaluation; load and evaluate take the average, or the raw."""
    experiment, workdir = averaged
    evaluations = [line for line in lines(workdir) if 'eval/top1' in line]
    assert [line['step'] for line in evaluations] == [5, 10, 12]
    assert all('eval_ema/loss' in line for line in evaluations)
    last = evaluations[-1]
    assert last['eval/loss'] != last['eval_ema/loss']
    for ema, prefix in (('auto', 'eval_ema'), ('yes', 'eval_ema'), ('no', 'eval')):
        result = jcls.evaluate(workdir, ema=ema)
        assert result['ema'] == (prefix == 'eval_ema')
        assert result['loss'] == last[f'{prefix}/loss']
    data = experiment.data
    batches = experiment.eval_batches(data.val, np.arange(len(data.val)))
    batches = [jax.device_get(batch) for batch in batches]
    for ema, prefix in (('auto', 'eval_ema'), ('no', 'eval')):
        model, variables = jcls.load(workdir, ema=ema)
        hits = 0
        for batch in batches:
            logits = model.apply(variables, normalise(batch['image'], data.mean, data.std))
            hits += int(((logits.argmax(1) == batch['label']) * batch['mask']).sum())
        assert hits / len(data.val) == pytest.approx(last[f'{prefix}/top1'])


def test_the_best_by_the_average_is_kept(averaged):
    """The checkpoint of the highest eval_ema/top1 is there and is what 'best' means."""
    _, workdir = averaged
    by_step = {line['step']: line['eval_ema/top1'] for line in lines(workdir)
               if 'eval_ema/top1' in line}  # fmt: skip
    best = max(by_step, key=lambda step: (by_step[step], step))
    assert jcls.evaluate(workdir, 'best')['step'] == best
    assert jcls.evaluate(workdir, 'best')['top1'] == by_step[best]


def test_a_killed_run_with_an_average_ends_as_if_never_killed(averaged, tmp_path):
    """Weights, average and log are bit for bit those of the run that nothing disturbed."""
    experiment, workdir = averaged
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(experiment, 8), tmp_path)
    loop.train(experiment, tmp_path)
    assert_same_run(tmp_path, workdir, experiment)


def test_without_an_average_asking_for_it_is_an_error(tiny, tmp_path):
    """By checkpoint.best, by evaluate --ema=yes, by load."""
    with pytest.raises(ValueError, match=r"best='eval_ema/top1', but config.ema.name='none'"):
        jcls.build({**tiny, 'checkpoint': {'best': 'eval_ema/top1'}})
    with pytest.raises(ValueError, match=r"best='eval_train/top1' needs .*train_examples > 0"):
        jcls.build({**tiny, 'checkpoint': {'best': 'eval_train/top1'}})
    loop.train(jcls.build({**tiny, 'duration': '2 steps'}), tmp_path)
    with pytest.raises(ValueError, match=r"ema='yes', but .* has no averaged weights"):
        jcls.load(tmp_path, ema='yes')
    assert main(['evaluate', str(tmp_path), '--ema=yes']) == 1

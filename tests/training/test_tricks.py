"""Training tricks in whole runs: averages, micro-batches, a teacher, changing sizes, remat."""

from __future__ import annotations

import math
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import ad_checkpoint

import jcls
from helpers.runs import assert_same_run, crashing, lines
from jcls import models
from jcls.main import main
from jcls.training import loop
from jcls.training.experiment import process_shard
from jcls.training.step import normalise

pytestmark = pytest.mark.usefixtures('quick_compiler')

EMA = {'name': 'torchvision', 'every': 2, 'decay': 0.999}


def batch_of(experiment: Any, step: int = 0) -> dict[str, np.ndarray]:
    return jax.device_get(next(experiment.train_batches(step, step + 1)))


# Averages


@pytest.fixture(scope='module')
def averaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A finished run with an average, its best chosen by it."""
    from conftest import TINY

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
    model, variables = jcls.load(workdir)
    batch = jax.device_get(next(experiment.eval_batches(experiment.data.val, np.arange(120))))
    data = experiment.data
    logits = model.apply(variables, normalise(batch['image'], data.mean, data.std))
    assert logits.shape == (120, 10)


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


# Micro-batches


def test_micro_batches_add_up_to_the_batch(tiny):
    """With BatchNorm over single examples, 1, 2 and 4 micro-batches give one gradient."""
    tiny['norm'] = {'batch_size': 1}
    found = {}
    for parts in (1, 2, 4):
        experiment = jcls.build({**tiny, 'accumulate': parts})
        found[parts] = experiment.train_step(experiment.init(), batch_of(experiment))
    for parts in (2, 4):
        for name, value in found[1][1].items():
            assert float(found[parts][1][name]) == pytest.approx(float(value), rel=1e-5), name
        for a, b in zip(*(jax.tree.leaves(found[p][0].params) for p in (1, parts)), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_micro_batch_is_every_other_row(tiny):
    """The statistics of two micro-batches, one after the other, are those of rows 0::2, 1::2."""
    halves = jcls.build({**tiny, 'accumulate': 2})
    batch = batch_of(halves)
    state, _ = halves.train_step(halves.init(), batch)
    variables = halves.init().variables
    images = normalise(batch['image'], halves.data.mean, halves.data.std)
    for part in (images[0::2], images[1::2]):
        _, updated = halves.model.apply(
            variables, part, train=True, mutable=['batch_stats'],
            rngs={'dropout': jax.random.key(0)},
        )  # fmt: skip
        variables = {**variables, **updated}
    for a, b in zip(
        jax.tree.leaves(state.batch_stats), jax.tree.leaves(variables['batch_stats']), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_ghost_groups_are_the_same_with_and_without_micro_batches(tiny):
    """They stay whole in micro-batches: loss and gradient do not depend on `accumulate`; and the
    copies of an image stay in different groups."""
    tiny |= {'batch_size': 16, 'norm': {'batch_size': 4}, 'data': {'name': 'digits', 'repeats': 4}}
    found = []
    for parts in (1, 2, 4):
        experiment = jcls.build({**tiny, 'accumulate': parts})
        found.append(experiment.train_step(experiment.init(), batch_of(experiment)))
    for state, metrics in found[1:]:
        for name, value in metrics.items():
            assert float(value) == pytest.approx(float(found[0][1][name]), rel=1e-5), name
        for a, b in zip(*(jax.tree.leaves(s.params) for s in (state, found[0][0])), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    rows = experiment.train_sampler(process_shard(16))(0).indices.reshape(4, 4)
    assert all(len(set(group)) == 4 for group in rows)


@pytest.mark.parametrize('parts', [3, 0, 16])
def test_micro_batches_that_do_not_divide_the_batch_are_refused(parts, tiny):
    """accumulate=3 of 8 examples: the message says what must divide what."""
    with pytest.raises(
        ValueError, match=rf'config.accumulate={parts} does not divide the 8 exampl'
    ):
        jcls.build({**tiny, 'accumulate': parts})


def test_ghost_groups_must_divide_a_micro_batch(tiny):
    """Groups of 8 fit into the batch of 8, not into its halves."""
    with pytest.raises(ValueError, match=r'norm.batch_size=8: .*must divide the batch of 4'):
        jcls.build({**tiny, 'accumulate': 2, 'norm': {'batch_size': 8}})


# A teacher


@pytest.fixture(scope='module')
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from conftest import TINY

    workdir = tmp_path_factory.mktemp('teacher')
    loop.train(jcls.build({**TINY, 'duration': '3 steps'}), workdir)
    return workdir


@pytest.mark.parametrize('name', ['soft', 'hard'])
def test_a_student_learns_from_its_teacher_s_logits(name, teacher, tiny):
    """They are the teacher's own on the very images of the batch; the loss is the weighted one."""
    section = {'name': name, 'teacher': str(teacher), 'weight': 0.75}
    student = jcls.build({**tiny, 'distill': section})
    batch = batch_of(student)
    model, variables = jcls.load(teacher)
    images = normalise(batch['image'], student.data.mean, student.data.std)
    logits = model.apply(variables, images, train=False)
    np.testing.assert_allclose(batch['teacher'], logits, rtol=1e-5, atol=1e-5)

    state = student.init()
    own, _ = student.model.apply(
        state.variables, images, train=True, mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(0)},
    )  # fmt: skip
    log_p = jax.nn.log_softmax(own)
    label = -log_p[jnp.arange(8), batch['label']]
    q = jax.nn.softmax(logits)
    soft = (q * (jnp.log(q) - log_p)).sum(-1)
    hard = -log_p[jnp.arange(8), logits.argmax(-1)]
    expected = (0.25 * label + 0.75 * (soft if name == 'soft' else hard)).mean()
    _, metrics = student.train_step(state, batch)
    assert float(metrics['loss']) == pytest.approx(float(expected), rel=1e-5)


def test_a_student_of_weight_zero_is_one_without_a_teacher(teacher, tiny):
    """And one of weight 1 hears nothing of the labels."""
    alone = jcls.build(tiny)
    batch = batch_of(alone)
    _, plain = alone.train_step(alone.init(), batch)
    for weight in (0.0, 1.0):
        section = {'name': 'soft', 'teacher': str(teacher), 'weight': weight}
        student = jcls.build({**tiny, 'distill': section})
        taught = batch_of(student)
        _, metrics = student.train_step(student.init(), taught)
        taught['label'] = (taught['label'] + 1) % 10
        _, other = student.train_step(student.init(), taught)
        assert (float(metrics['loss']) == pytest.approx(float(plain['loss']))) == (weight == 0)
        assert (float(metrics['loss']) == float(other['loss'])) == (weight == 1)


def test_a_teacher_of_other_classes_is_refused_before_anything_is_made(teacher, tiny, tmp_path):
    """Also none at all; and the workdir is not made."""
    section = {'name': 'soft', 'teacher': str(teacher)}
    few = {'name': 'synthetic', 'examples': 64, 'size': 8, 'num_classes': 5}
    with pytest.raises(ValueError, match=r'knows 10 classes .*the data have 5'):
        loop.train(jcls.build({**tiny, 'data': few, 'distill': section}), tmp_path / 'a')
    section = {'name': 'soft', 'teacher': str(tmp_path)}
    with pytest.raises(ValueError, match=r'config.distill.teacher=.*is not a workdir of jcls'):
        loop.train(jcls.build({**tiny, 'distill': section}), tmp_path / 'a')
    assert not (tmp_path / 'a').exists()


def test_a_student_keeps_the_teacher_it_began_with(teacher, tiny, tmp_path):
    """The teacher trains on while the student is interrupted: the resumed run is the whole one."""
    section = {'name': 'soft', 'teacher': str(tmp_path / 'teacher')}
    shutil.copytree(teacher, tmp_path / 'teacher')
    student = jcls.build({**tiny, 'distill': section})
    loop.train(student, tmp_path / 'whole')
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(student, 6), tmp_path / 'run')
    loop.train(jcls.build({**tiny, 'duration': '5 steps'}), tmp_path / 'teacher')
    loop.train(jcls.build({**tiny, 'distill': section}), tmp_path / 'run')
    assert_same_run(tmp_path / 'run', tmp_path / 'whole', student)


# Changing sizes

CROP = {'name': 'random_resized_crop', 'size': 8}


def test_sizes_change_when_they_are_told_to(tiny, tmp_path):
    """8 px, from step 4 on 12, from step 8 on 16; killed and resumed across them is the same."""
    sizes = (('4 steps', 12), ('8 steps', 16))
    experiment = jcls.build({**tiny, 'augment': (CROP,), 'sizes': sizes})
    seen = [batch['image'].shape[1] for batch in experiment.train_batches()]
    assert seen == [8] * 4 + [12] * 4 + [16] * 4
    assert [b['image'].shape[1] for b in experiment.train_batches(6, 9)] == [12, 12, 16]
    assert [experiment.augmentation(i).output_size(None)[0] for i in (0, 3, 4, 11)] == [
        8,
        8,
        12,
        16,
    ]
    plain = jcls.build({**tiny, 'augment': ({**CROP, 'size': 12},)})
    np.testing.assert_array_equal(batch_of(experiment, 5)['image'], batch_of(plain, 5)['image'])
    loop.train(experiment, tmp_path / 'whole')
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(experiment, 8), tmp_path / 'killed')
    loop.train(experiment, tmp_path / 'killed')
    assert_same_run(tmp_path / 'killed', tmp_path / 'whole', experiment)


@pytest.mark.parametrize(
    ('augment', 'sizes', 'message'),
    [
        ((CROP,), (('8 steps', 12), ('4 steps', 16)), r'config.sizes\[1\]: .*must increase'),
        ((CROP,), (('12 steps', 12),), r'before the end of the run, step 12'),
        ((CROP,), (('4 steps', 0),), r'config.sizes\[0\]: 0 pixels'),
        ((), (('4 steps', 12),), r'one random_resized_crop of config.augment, but there are 0'),
        ((CROP,), (('4 stops', 12),), r'config.sizes\[0\]: .*not a length of time'),
    ],
)
def test_sizes_that_cannot_be_are_refused(augment, sizes, message, tiny):
    """Times that do not increase or lie beyond the run, and nothing whose size could change."""
    with pytest.raises(ValueError, match=message):
        jcls.build({**tiny, 'augment': augment, 'sizes': sizes})


# Memory


def test_remat_computes_the_same(tiny):
    """Loss and new weights are those without it, to rounding; paths are the same."""
    states = []
    for remat in (False, True):
        tiny['model'] |= {'remat': remat, 'drop_path': 0.5}
        experiment = jcls.build(tiny)
        states.append(experiment.train_step(experiment.init(), batch_of(experiment)))
    (one, first), (other, second) = states
    assert float(first['loss']) == pytest.approx(float(second['loss']), rel=1e-6)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


def test_remat_keeps_less_for_the_backward_pass(capsys):
    """JAX's own list of what a step keeps: a third or less of it, the inputs of blocks."""

    def kept(remat: bool) -> int:
        model = models.create('resnet20', width=16, remat=remat)
        images = jnp.zeros((4, 32, 32, 3))
        variables = model.init(jax.random.key(0), images)

        def loss(params: Any) -> jax.Array:
            inputs = {**variables, 'params': params}
            return model.apply(inputs, images, train=True, mutable=['batch_stats'])[0].sum()

        ad_checkpoint.print_saved_residuals(loss, variables['params'])
        listed = [line for line in capsys.readouterr().out.split('\n') if ' argument ' not in line]
        sizes = [re.match(r'\w+\[([\d,]+)\]', line) for line in listed]
        return sum(math.prod(map(int, found[1].split(','))) for found in sizes if found)

    assert 0 < kept(True) < kept(False) / 3

"""A student learns from its teacher's logits, and from the teacher it began with."""

from __future__ import annotations

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcls
from helpers.runs import TINY, assert_same_run, batch_of, crashing
from jcls.training import loop
from jcls.training.step import normalise
from jcls.workdir.checkpoint import FOLDER, steps_in


@pytest.fixture(scope='module')
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
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


def test_a_teacher_whose_checkpoint_is_gone_is_told_with_a_cure(teacher, tiny, tmp_path):
    """It was deleted by its own run, which keeps the newest ones alone."""
    section = {'name': 'soft', 'teacher': str(tmp_path / 'teacher')}
    shutil.copytree(teacher, tmp_path / 'teacher')
    student = jcls.build({**tiny, 'distill': section})
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(student, 6), tmp_path / 'run')
    (newest,) = steps_in(tmp_path / 'teacher')
    folder = tmp_path / 'teacher' / FOLDER
    (folder / str(newest)).rename(folder / str(newest + 1))
    with pytest.raises(ValueError, match=rf'step={newest}: no such .* bring it back from a copy'):
        loop.train(jcls.build({**tiny, 'distill': section}), tmp_path / 'run')

"""Whole trainings against torch's: model, loss, gradients, optimizer and statistics together."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.nets import difference, nested
from helpers.optim import to_steps
from jcls import models
from jcls.distributed.mesh import create_mesh, put_batch, replicated
from jcls.models import batch_norm, layers
from jcls.optim import optimizer, schedule
from jcls.training import freezing, losses
from jcls.training.state import State, new_state
from jcls.training.step import create_train_step

# How jcls says what tests/golden/make_trajectory.py does in torch, and how near it must stay. Torch
# started from weights that differ by 2**-52 of themselves differs from itself by up to 7e-13,
# 2e-10, 5e-11 and 1e-14: training amplifies rounding, most where few examples are normalised.
VARIANTS: dict[str, tuple[dict[str, Any], float]] = {
    'plain': ({}, 1e-11),
    'accumulate': ({'accumulate': 2}, 1e-9),
    'replicas': ({'group': 8}, 1e-9),
    'frozen': ({'freeze': 1}, 1e-12),
}
PARAMETERS, STATISTICS = r'(weight|bias)$', r'running_(mean|var)$'


def train(
    golden: Any, *, accumulate: int = 1, group: int = 0, freeze: int = -1
) -> tuple[dict[str, np.ndarray], State]:
    """The metrics of every step, and the final state, of the golden file's training in jcls."""
    images, rows = golden['images'], golden['rows']
    columns = {name: golden[name] for name in ('label', 'label2', 'lam')}
    (steps, batch_size), mesh = (
        rows.shape,
        create_mesh('any', rows.shape[1], jax.devices()[:1]),
    )
    start = {
        'params': nested(golden, 'weights/', False, PARAMETERS),
        'batch_stats': nested(golden, 'weights/', False, STATISTICS),
    }
    frozen_stats = freezing.norms_with_frozen_stats(**start, freeze=freeze, norm_eval=False)
    norm = batch_norm.batch_norm(frozen_stats, batch_size=group)
    model = models.create('resnet50', norm, num_classes=5, blocks=(1, 2, 1, 1), width=8)
    sgd = optimizer.create(
        batch_size,
        functools.partial(freezing.trained, freeze=freeze),
        lr=0.02,
        reference_batch=None,
        momentum=0.9,
        weight_decay=1e-3,
        decay='coupled',
    )
    rate = schedule.create(sgd.peak, steps, to_steps, warmup='4 steps', warmup_start=0.1)
    train_step = create_train_step(
        model,
        losses.create(lambda: None, label_smoothing=0.1),
        sgd,
        rate,
        mesh,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        seed=0,
        accumulate=accumulate,
    )
    start = jax.tree.map(lambda x: jnp.asarray(x, layers.param_dtype()), start)
    state = jax.device_put(new_state(start, sgd.direction), replicated(mesh))
    measured = []
    for i in range(steps):
        batch = {name: column[i] for name, column in columns.items()}
        batch |= {'image': images[rows[i]], 'mask': np.ones(batch_size, np.float32)}
        state, metrics = train_step(state, put_batch(batch, mesh))
        measured.append(metrics)
    curves = jax.tree.map(lambda *values: np.array(values), *measured)
    return curves, jax.device_get(state)


def pick(tree: Any, like: Any) -> Any:
    """The part of `tree` that `like` has, too."""
    return {k: pick(tree[k], v) for k, v in like.items()} if isinstance(like, dict) else tree


@pytest.mark.parametrize('variant', VARIANTS)
def test_a_training_is_torch_s(variant: str, golden: Any) -> None:
    """30 steps in float64 are those of torchvision's ResNet under torch's SGD, whole, in two
    micro-batches, with ghost groups (the replicas of DistributedDataParallel) and with a frozen
    beginning: each step's loss, gradient norm and rate, all final statistics and the parameters
    within the bound (rounding, amplified), top-1 exactly; what is frozen stays bit for bit."""
    numbers, (fields, bound) = golden('trajectory.npz'), VARIANTS[variant]
    with jax.enable_x64(True):
        curves, end = train(numbers, **fields)
    assert curves['loss'].dtype == np.float64
    errors = {
        name: difference(curves[name], numbers[f'{variant}/{name}'])
        for name in ('loss', 'gradient_norm', 'top1')
    }
    errors['rate'] = difference(curves['learning_rate'], numbers['rate'])
    for tree, what in ((end.batch_stats, STATISTICS), (end.params, PARAMETERS)):
        theirs = nested(numbers, f'{variant}/end/', False, what)
        errors[what] = difference(pick(tree, theirs), theirs)
    norm = np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(end.params)))
    errors['parameter_norm'] = difference(norm, numbers[f'{variant}/parameter_norm'])
    limits = dict.fromkeys(errors, bound) | {'top1': 0.0, 'rate': 1e-12, 'parameter_norm': 1e-12}
    assert {what: e for what, e in errors.items() if not e <= limits[what]} == {}
    if variant == 'frozen':
        for tree, what in ((end.batch_stats, STATISTICS), (end.params, PARAMETERS)):
            start = nested(numbers, 'weights/', False, what)
            for part in ('stem', 'stage1_block1'):
                jax.tree.map(np.testing.assert_array_equal, tree[part], start[part])

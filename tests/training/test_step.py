"""The step: the same mathematics on any number of devices and processes, and what a mask means."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcls
from helpers.runs import batch_of
from jcls.training.step import normalise

# Runs the loop's own step on real batches: one in float32 for its loss and gradients, then a run in
# float64 for its losses and its end.
SCRIPT = """
import json, sys
import jax, numpy as np
from jcls.distributed import launch
launch.initialize()
import jcls

config, updates, out = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
arrays = {}

def run(name, updates):
    exp = jcls.build(config)
    state, losses = exp.init(), []
    for batch in exp.train_batches(0, updates):
        state, metrics = exp.train_step(state, batch)
        losses.append(float(metrics['loss']))
    arrays[f'{name}_losses'] = losses
    # After one step the momentum buffer is the gradient.
    kept = {'momentum': state.opt_state, 'end': (state.params, state.batch_stats, state.ema)}
    for what, tree in kept.items():
        for i, leaf in enumerate(jax.device_get(jax.tree.leaves(tree))):
            arrays[f'{name}_{what}{i}'] = leaf

run('float32', 1)
jax.config.update('jax_enable_x64', True)
run('float64', updates)
if jax.process_index() == 0:
    np.savez(out, **arrays)
print(jax.device_count(), jax.process_count())
"""
TOPOLOGIES = {'8 devices': (8, 1), '2 processes x 2 devices': (2, 2)}


def worst(ours: Any, theirs: Any, prefix: str) -> float:
    """Largest |difference| / largest |reference| over the arrays whose names start so."""
    names = [name for name in theirs.files if name.startswith(prefix)]
    assert names
    return max(np.abs(ours[n] - theirs[n]).max() / np.abs(theirs[n]).max() for n in names)


@pytest.mark.parametrize(
    ('group', 'more'),
    [
        (0, {}),
        pytest.param(
            4,
            {'accumulate': 2, 'ema': {'name': 'torchvision', 'every': 3, 'decay': 0.9}},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_devices_and_processes_do_not_change_the_mathematics(
    group: int,
    more: dict[str, Any],
    tiny: dict[str, Any],
    run_python: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    """1 device = 8 devices = 2 processes x 2 devices, cross-replica and with ghost groups (one of
    which spans devices; then with micro-batches and an average of the weights, too), drop path and
    dropout on: float32, the first loss and every gradient
    within 1e-5; float64, 20 steps' losses and the final weights and statistics within 1e-9."""
    tiny |= {'batch_size': 16, 'norm': {'batch_size': group}, **more}
    tiny['model'] |= {'drop_path': 0.2, 'dropout': 0.1}
    results = {}
    for name, (devices, processes) in {'1 device': (1, 1), **TOPOLOGIES}.items():
        out = str(tmp_path / f'{devices}_{processes}.npz')
        printed = run_python(
            SCRIPT, json.dumps(tiny), '20', out, devices=devices, processes=processes
        )
        assert printed[0].split('\n')[-2].split() == [str(devices * processes), str(processes)]
        results[name] = np.load(out)
    theirs = results['1 device']
    assert theirs['float64_end0'].dtype == np.float64
    for name in TOPOLOGIES:
        for what, bound in (
            ('float32_losses', 1e-5), ('float32_momentum', 1e-5),
            ('float64_losses', 1e-9), ('float64_end', 1e-9),
        ):  # fmt: skip
            assert worst(results[name], theirs, what) < bound, (name, what)


def test_metrics_are_numpy_on_the_model_s_logits(tiny: dict[str, Any]) -> None:
    """Loss (with smoothing), top-1, top-5 and the applied rate of a step agree with NumPy on the
    logits that the model gives in training mode; the state that comes out is step + 1."""
    tiny['loss'] = {'label_smoothing': 0.1}
    tiny['schedule'] = {'warmup': '4 steps', 'warmup_start': 0.25}
    exp = jcls.build(tiny)
    state, batch = exp.init(), batch_of(exp)
    mean, std = np.array(exp.data.mean), np.array(exp.data.std)
    images = (batch['image'] / 255 - mean) / std
    logits, _ = exp.model.apply(
        state.variables, jnp.asarray(images, jnp.float32), train=True, mutable=['batch_stats'],
        rngs={'dropout': jax.random.key(0)},
    )  # fmt: skip
    logits, labels = np.asarray(logits, np.float64), batch['label']
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = 0.9 * np.eye(10)[labels] + 0.1 / 10
    state, metrics = exp.train_step(state, batch)
    assert metrics['loss'] == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-5)
    order = np.argsort(-logits, axis=1)
    assert metrics['top1'] == pytest.approx((order[:, 0] == labels).mean())
    assert metrics['top5'] == pytest.approx((order[:, :5] == labels[:, None]).any(1).mean())
    assert metrics['learning_rate'] == pytest.approx(0.05 * 0.25)
    assert int(state.step) == 1


def test_a_masked_example_adds_nothing_to_loss_gradient_and_metrics(tiny: dict[str, Any]) -> None:
    """With each example its own BatchNorm group, a batch with masked rows gives the very loss,
    gradient norm and accuracy of the smaller batch without them."""
    tiny['norm'] = {'batch_size': 1}
    exp = jcls.build(tiny)
    batch = batch_of(exp)
    masked = {**batch, 'mask': np.array([1, 1, 0, 1, 1, 0, 1, 0], np.float32)}
    masked['label'] = np.where(masked['mask'] > 0, batch['label'], (batch['label'] + 1) % 10)
    _, with_mask = exp.train_step(exp.init(), masked)
    kept = {name: rows[masked['mask'] > 0] for name, rows in batch.items()}
    _, without = exp.train_step(exp.init(), kept)
    for name in with_mask:
        assert float(with_mask[name]) == pytest.approx(float(without[name]), rel=1e-5), name


def test_normalisation_is_per_channel_and_exact() -> None:
    """uint8 0..255 -> (x / 255 - mean) / std, within float32 rounding, for every grey level."""
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, -1)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = (levels / 255 - np.array(mean)) / np.array(std)
    assert np.abs(np.asarray(normalise(levels, mean, std)) - expected).max() < 1e-6


def test_random_numbers_differ_from_step_to_step(tiny: dict[str, Any]) -> None:
    """Dropout draws anew at every step, and again the same at the same step and seed."""
    tiny['model'] |= {'dropout': 0.5}
    exp = jcls.build(tiny)
    batch = batch_of(exp)

    def loss_at(step: int, exp: Any = exp) -> float:
        state = exp.init()
        state = type(state)(jnp.asarray(step, jnp.int32), *list(vars(state).values())[1:])
        return float(exp.train_step(state, batch)[1]['loss'])

    assert loss_at(3) == loss_at(3)
    assert loss_at(3) != loss_at(4)
    other = jcls.build({**tiny, 'seed': 1})
    assert loss_at(3, other) != loss_at(3)


def test_the_step_donates_its_state(tiny: dict[str, Any]) -> None:
    """The state that goes into a step is given up: its memory serves the new one."""
    exp = jcls.build(tiny)
    state = exp.init()
    exp.train_step(state, batch_of(exp))
    assert jax.tree.leaves(state.params)[0].is_deleted()

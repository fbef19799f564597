"""Numbers that are none, and images that are none: what they must not touch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jcls
from helpers.runs import TINY
from jcls.models.batch_norm import BatchNorm, DeferredConv1x1
from jcls.training.evaluate import evaluate
from jcls.weights import artifact
from jcls.weights.load import read
from jcls.weights.sound import require_sound


def batch_of(rows: int, holes: list[int], seed: int = 0, garbage: int = 0) -> dict[str, np.ndarray]:
    """A batch of noise with mask 0 at the `holes`, whose pixels `garbage` decides."""
    rng, other = np.random.default_rng(seed), np.random.default_rng(garbage)
    image = rng.integers(0, 256, (rows, 8, 8, 3), np.uint8)
    image[holes] = other.integers(0, 256, (len(holes), 8, 8, 3), np.uint8)
    mask = np.ones(rows, np.float32)
    mask[holes] = 0
    return {'image': image, 'label': rng.integers(0, 10, rows).astype(np.int32), 'mask': mask}


def after(batch: dict[str, np.ndarray], **changes: Any) -> tuple[Any, dict[str, Any]]:
    """The state, without its optimizer's, and the metrics after a step on a batch."""
    data = {'name': 'digits', 'max_damaged': 5}
    changes = {'batch_size': len(batch['mask']), 'data': data, **changes}
    experiment = jcls.build({**TINY, **changes})
    state, metrics = experiment.train_step(experiment.init(), batch)
    return jax.device_get((state.variables, metrics))


@pytest.mark.parametrize('changes', [{}, {'norm': {'batch_size': 4}}, {'accumulate': 2}])
@pytest.mark.parametrize('name', ['resnet20', 'resnet50'])
def test_a_masked_image_touches_nothing(name: str, changes: dict[str, Any]) -> None:
    """Whatever is in its place, every bit of the new state and of the metrics is the same."""
    changes = changes | {'model': {'name': name, 'blocks': (1, 1), 'width': 8}}
    results = [after(batch_of(8, [1, 6], garbage=g), **changes) for g in (0, 1)]
    jax.tree.map(np.testing.assert_array_equal, *results)


@pytest.mark.parametrize('name', ['resnet20', 'resnet50'])
def test_a_batch_with_holes_is_the_smaller_batch(name: str) -> None:
    """The step is that on a batch of the other images alone."""
    model = {'name': name, 'blocks': (1, 1), 'width': 8}
    holed = batch_of(8, [1, 6])
    rest = {key: values[holed['mask'] == 1] for key, values in holed.items()}
    found = after(holed, model=model)
    expected = after(rest, model=model)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-6), found, expected
    )


@pytest.mark.parametrize('changes', [{}, {'norm': {'batch_size': 4}}, {'accumulate': 2}])
def test_tolerance_alone_changes_no_bit(changes: dict[str, Any]) -> None:
    """So a run that is allowed more damage goes on as the run that it was."""
    batch = batch_of(8, [])
    strict = {'data': {'name': 'digits', 'max_damaged': 0}}
    jax.tree.map(
        np.testing.assert_array_equal, after(batch, **changes), after(batch, **changes, **strict)
    )


@pytest.mark.parametrize('deferred', [False, True])
def test_a_group_without_images_moves_no_statistic(deferred: bool) -> None:
    """Of four groups one is empty: the running statistics are those of the three others."""
    rng = np.random.default_rng(0)
    x, kernel = rng.normal(3, 2, (8, 4, 4, 5)), rng.normal(0, 1, (5, 6))
    mask = np.array([1, 1, 0, 0, 1, 0, 1, 1], np.float32)
    layer = BatchNorm(batch_size=2, momentum=0.9)
    values = DeferredConv1x1(jax.numpy.asarray(x), jax.numpy.asarray(kernel)) if deferred else x
    whole = x @ kernel if deferred else x
    variables = layer.init(jax.random.key(0), values, False)
    _, updated = layer.apply(variables, values, True, mask, mutable=['batch_stats'])
    groups = [
        whole[i : i + 2][mask[i : i + 2] == 1].reshape(-1, whole.shape[-1]) for i in (0, 4, 6)
    ]
    stats = updated['batch_stats']
    for name, start, values_of in (
        ('mean', 0, [g.mean(0) for g in groups]),
        ('var', 1, [g.var(0, ddof=1) for g in groups]),
    ):
        expected = 0.9 * start + 0.1 * np.mean(values_of, axis=0)
        np.testing.assert_allclose(stats[name], expected, rtol=1e-5)
    _, kept = layer.apply(variables, values, True, 0 * mask, mutable=['batch_stats'])
    jax.tree.map(np.testing.assert_array_equal, kept['batch_stats'], variables['batch_stats'])


def test_a_group_with_a_single_value_left_moves_no_statistic() -> None:
    """It has no variance, so the running one is that of the other group."""
    x = np.random.default_rng(0).normal(3, 2, (4, 1, 1, 5))
    layer = BatchNorm(batch_size=2, momentum=0.9)
    variables = layer.init(jax.random.key(0), x, False)
    mask = np.array([1, 1, 1, 0], np.float32)
    y, updated = layer.apply(variables, x, True, mask, mutable=['batch_stats'])
    assert np.isfinite(y).all()
    stats = updated['batch_stats']
    np.testing.assert_allclose(stats['mean'], 0.1 * x[:2].mean((0, 1, 2)), rtol=1e-5)
    var = 0.9 + 0.1 * x[:2].var((0, 1, 2), ddof=1)
    np.testing.assert_allclose(stats['var'], var, rtol=1e-5)


def test_one_value_per_channel_is_refused() -> None:
    """It has no variance; one image of 2 x 2 has."""
    message = r'norm\d: 1 example of 1 x 1 in a group is one value for each channel.*batch_size'
    with pytest.raises(ValueError, match=message):
        after(batch_of(8, []), norm={'batch_size': 1}, model={'name': 'resnet18', 'width': 4})
    after(batch_of(8, []), norm={'batch_size': 1})


# Weights and evaluations that are not finite


@pytest.fixture(scope='module')
def weights() -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata and the variables of a tiny network."""
    experiment = jcls.build(TINY)
    variables = jax.device_get(experiment.init().variables)
    return json.loads(json.dumps(experiment.metadata())), variables


@pytest.mark.parametrize(
    ('leaf', 'value', 'fault'),
    [
        ('var', np.nan, '1 NaN'), ('var', np.inf, '1 infinite'), ('var', -1, '1 negative'),
        ('mean', np.nan, '1 NaN'), ('mean', -np.inf, '1 infinite'),
    ],
)  # fmt: skip
def test_weights_that_are_no_numbers(
    weights: Any, tmp_path: Path, leaf: str, value: float, fault: str
) -> None:
    """They are refused by name, wherever weights are read."""
    metadata, variables = weights
    stats = jax.tree.map(np.array, variables['batch_stats'])
    stats['stem']['norm1'][leaf][1] = value
    artifact.write(tmp_path / 'w', metadata, {**variables, 'batch_stats': stats})
    match = rf'1 tensor.*\n  batch_stats/stem/norm1/{leaf}: {fault}.*\(of 4\)'
    picture = tmp_path / 'x.png'
    for call in (
        lambda: jcls.load(tmp_path / 'w'),
        lambda: jcls.predict(tmp_path / 'w', picture),
        lambda: jcls.import_weights(tmp_path / 'w', tmp_path / 'out'),
        lambda: jcls.build({**TINY, 'init': {'source': str(tmp_path / 'w')}}).init(),
        lambda: jcls.evaluate(tmp_path / 'w', images=tmp_path),
    ):
        picture.write_bytes(b'')
        with pytest.raises(ValueError, match=match):
            call()
    require_sound(variables, 'sound')


def test_an_evaluation_that_is_not_finite_is_an_error(weights: Any) -> None:
    """The metric is named."""
    experiment = jcls.build({**TINY, 'evaluate': TINY['evaluate'] | {'every': 'never'}})
    batches = iter(experiment.eval_batches(experiment.data.val, np.arange(8)))
    variables = jax.tree.map(np.array, weights[1])
    variables['params']['head']['bias'][0] = np.inf
    with pytest.raises(FloatingPointError, match=r'the evaluation gives loss = (nan|inf)'):
        evaluate(experiment.eval_step, variables, batches)


def test_every_way_to_read_checks(tmp_path: Path) -> None:
    """A run's weights, read from its workdir."""
    jcls.train(TINY, tmp_path)
    metadata, variables = read(tmp_path)
    require_sound(variables, tmp_path)
    assert metadata['step'] == 12

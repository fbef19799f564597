"""The networks against torchvision's and timm's, and every preset through one battery."""

from __future__ import annotations

import json
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import golden_path
from helpers.nets import difference, nested
from jcls import models
from jcls.models import batch_norm, layers

COUNTS = json.loads(golden_path('parameter_counts.json').read_text())
GOLDEN = {
    'tv_bottleneck': {'name': 'resnet50', 'blocks': (2, 1, 1, 2)},
    'tv_basic': {'name': 'resnet18', 'blocks': (1, 2, 1, 1)},
    'timm_d': {'name': 'resnet50d', 'blocks': (1, 2, 1, 1)},
}


@pytest.mark.parametrize('net', GOLDEN)
def test_logits_statistics_and_gradients_are_the_peers(net: str, golden: Any) -> None:
    """Eval logits, an odd size included, one training step's logits, running statistics and
    gradients are those of torchvision and timm, within float32 rounding."""
    numbers, deep = golden('models.npz'), net == 'timm_d'
    model = models.create(**GOLDEN[net], num_classes=10, width=8)
    params = nested(numbers, f'{net}/weights/', deep, r'(weight|bias)$')
    stats = nested(numbers, f'{net}/weights/', deep, r'running_(mean|var)$')
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    assert jax.tree.map(jnp.shape, {'params': params, 'batch_stats': stats}) == jax.tree.map(
        jnp.shape, dict(shapes)
    )

    def images(size: int) -> Any:
        return jnp.asarray(numbers[f'{net}/image{size}'].transpose(0, 2, 3, 1))

    apply = jax.jit(model.apply)
    for size in (64, 75):
        logits = apply({'params': params, 'batch_stats': stats}, images(size))
        assert difference(logits, numbers[f'{net}/logits{size}']) < 1e-5

    @jax.jit
    def loss_of(params: Any) -> Any:
        logits, new = model.apply(
            {'params': params, 'batch_stats': stats}, images(64), train=True, mutable='batch_stats'
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, numbers[f'{net}/labels'])
        return losses.mean(), (logits, new['batch_stats'])

    gradients, (logits, new_stats) = jax.grad(loss_of, has_aux=True)(params)
    assert difference(logits, numbers[f'{net}/train_logits64']) < 1e-5
    theirs = nested(numbers, f'{net}/train_stats/', deep, r'running_')
    assert difference(new_stats, theirs) < 1e-5
    # The stored gradients are rounded to 1.2e-4 of their largest entry to keep the file small.
    theirs = nested(numbers, f'{net}/train_grads/', deep, r'(weight|bias)$')
    assert difference(gradients, theirs) < 2e-4


def test_every_preset_has_the_exact_parameter_count() -> None:
    """Each preset has the peers' number of parameters, and none is missing from the table."""
    assert set(COUNTS) == set(models.MODELS)
    for name, expected in COUNTS.items():
        model = models.create(name, num_classes=10 if 'He et al.' in expected['from'] else 1000)
        shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
        assert sum(x.size for x in jax.tree.leaves(shapes['params'])) == expected['count'], name


# With one block a stage, presets that differ in depth alone are the same network: one of each kind.
KINDS = {
    str({**preset, 'blocks': len(preset['blocks'])}): n for n, preset in models.PRESETS.items()
}


@pytest.mark.parametrize('name', KINDS.values())
def test_every_parameter_of_every_kind_of_preset_gets_a_gradient(name: str) -> None:
    """A gradient reaches every parameter, with drop path and dropout on; logits are float32."""
    stages = len(models.PRESETS[name]['blocks'])
    model = models.create(
        name, num_classes=5, blocks=(1,) * stages, width=16, drop_path=0.1, dropout=0.1
    )
    images = jax.random.normal(jax.random.key(1), (4, 33, 33, 3))
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    key = jax.random.key(0)
    variables = jax.tree.map(
        lambda x: 0.2 * jax.random.normal(jax.random.fold_in(key, x.size), x.shape), variables
    )
    variables['batch_stats'] = jax.tree.map(jnp.square, variables['batch_stats'])

    @jax.jit
    def gradients(params: Any) -> Any:
        def loss(params: Any) -> Any:
            logits, _ = model.apply(
                {**variables, 'params': params}, images, train=True, mutable=['batch_stats'],
                rngs={'dropout': key},
            )  # fmt: skip
            assert logits.dtype == jnp.float32
            return jnp.sum(jax.nn.log_softmax(logits)[:, 0])

        return jax.grad(loss)(params)

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients(variables['params'])):
        assert jnp.isfinite(leaf).all(), path
        assert jnp.any(leaf != 0), path


def test_initialisation_has_the_published_moments() -> None:
    """Convolutions: normal, untruncated, std sqrt(2 / (k k out)) (a grouped one not divided);
    classifier: uniform within 1 / sqrt(in); zero-gamma on the last norm of each block only."""
    model = models.create('resnext50_32x4d', num_classes=1000, zero_gamma=True)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))['params']
    for name, fan_out in (('conv1', 256), ('conv2', 9 * 256), ('conv3', 512)):
        kernel = np.asarray(params['stage2_block2'][name]['kernel'])
        expected = np.sqrt(2 / fan_out)
        assert abs(kernel.std() / expected - 1) < 0.02
        assert np.abs(kernel).max() > 3 * expected  # a truncated normal would stop at 2
    head = params['head']
    for leaf, tolerance in (('kernel', 0.001), ('bias', 0.02)):
        bound = 1 / np.sqrt(2048)
        assert bound * (1 - tolerance) < np.abs(head[leaf]).max() <= bound
        assert abs(np.asarray(head[leaf]).std() / (bound / np.sqrt(3)) - 1) < 0.05
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        keys = [k.key for k in path]
        if keys[-1] == 'scale':
            assert (leaf == (0 if keys[-2] == 'norm3' else 1)).all(), keys


def ghost_reference(x: np.ndarray, groups: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised x [N, H, W, C], and the means over groups of mean and unbiased variance."""
    parts = np.split(x.astype(np.float64), groups)
    normal = [(p - p.mean((0, 1, 2))) / np.sqrt(p.var((0, 1, 2)) + 1e-5) for p in parts]
    means = np.mean([p.mean((0, 1, 2)) for p in parts], 0)
    variances = np.mean([p.reshape(-1, p.shape[-1]).var(0, ddof=1) for p in parts], 0)
    return np.concatenate(normal), means, variances


@pytest.mark.parametrize('batch_size', [0, 2, 4, 8])
def test_batch_norm_of_groups_is_numpy(batch_size: int) -> None:
    """Ghost groups normalise by their own moments; running statistics are means over groups of the
    mean and the unbiased variance, with weight 1 - momentum."""
    x = np.random.default_rng(0).normal(3, 2, (8, 5, 3, 4)).astype(np.float32)
    norm = batch_norm.batch_norm(batch_size=batch_size, momentum=0.9)()
    variables = norm.init(jax.random.key(0), x, train=False)
    y, new = norm.apply(variables, x, train=True, mutable=['batch_stats'])
    expected, mean, variance = ghost_reference(x, 8 // (batch_size or 8))
    assert difference(y, expected) < 1e-5
    assert difference(new['batch_stats']['mean'], 0.1 * mean) < 1e-5
    assert difference(new['batch_stats']['var'], 0.9 + 0.1 * variance) < 1e-5
    evaluated = norm.apply({**variables, **new}, x, train=False)
    running = new['batch_stats']
    by_hand = (x - running['mean']) / np.sqrt(np.asarray(running['var']) + 1e-5)
    assert difference(evaluated, by_hand) < 1e-5


def test_ghost_groups_must_fill_the_batch() -> None:
    """A group size that does not divide the batch is an error that lists those that do."""
    with pytest.raises(ValueError, match=r'norm.batch_size=3: .* 8 examples.*\[1, 2, 4, 8\]'):
        batch_norm.group_count(8, 3)


def test_drop_path_keeps_the_expectation_and_drops_whole_examples() -> None:
    """Kept branches are divided by the keep probability; an example is dropped whole or not."""
    drop, x = layers.DropPath(0.25), jnp.ones((4000, 2, 2, 3))
    y = np.asarray(drop.apply({}, x, train=True, rngs={'dropout': jax.random.key(0)}))
    kept = y[:, 0, 0, 0] > 0
    assert abs(kept.mean() - 0.75) < 0.03
    assert np.allclose(y[kept], 1 / 0.75)
    assert (y[~kept] == 0).all()
    assert (drop.apply({}, x, train=False) == x).all()


def test_shortcut_of_the_cifar_nets_has_no_parameters() -> None:
    """Option A: only 6n + 1 convolutions and the classifier have weights (He et al. 2015, 4.2)."""
    model = models.create('resnet20', num_classes=10)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    kernels = [p for p, _ in jax.tree_util.tree_leaves_with_path(shapes) if 'kernel' in str(p)]
    assert len(kernels) == 6 * 3 + 1 + 1


def test_compute_dtype_leaves_parameters_statistics_and_logits_alone() -> None:
    """In bfloat16 the activations are bfloat16; parameters, statistics and logits stay float32."""
    model = models.create('resnet20', num_classes=10, blocks=(1, 1), dtype='bfloat16')
    x = jnp.ones((2, 8, 8, 3))
    variables = model.init(jax.random.key(0), x)
    logits, state = model.apply(variables, x, train=True, mutable=['batch_stats', 'intermediates'],
                                capture_intermediates=True)  # fmt: skip
    assert logits.dtype == jnp.float32
    assert {a.dtype for a in jax.tree.leaves(variables)} == {jnp.dtype('float32')}
    block = state['intermediates']['stage1_block1']['__call__'][0]
    assert block.dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'name': 'ressnet50'}, "unknown model 'ressnet50'; did you mean 'resnet50'"),
        ({'stem': 'cifr'}, "config.model.stem 'cifr'; did you mean 'cifar'"),
        ({'dtype': 'float8'}, 'config.model.dtype'),
        ({'drop_path': 1.0}, 'config.model.drop_path=1.0'),
        ({'num_classes': 1}, 'config.model.num_classes=1'),
        ({'blocks': ()}, 'config.model.blocks'),
        ({'width': 7}, 'config.model.width=7'),
        ({'name': 'resnext50_32x4d', 'width': 8}, 'needs at least 16'),
    ],
)
def test_a_model_that_cannot_be_is_an_error(changes: dict[str, Any], message: str) -> None:
    """Each wrong field of the model section is named, with what is allowed."""
    with pytest.raises(ValueError, match=re.escape(message)):
        models.create(**{'name': 'resnet18', **changes})

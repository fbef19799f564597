"""A run whose weights others start from, and weights compared bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jcls
from jcls import models
from jcls.training import loop

WIDE = {'name': 'resnet20', 'blocks': (1, 1), 'width': 4}


def shapes(name: str = 'resnet50', **fields: Any) -> Any:
    """Of a model's parameters and statistics."""
    model = models.create(name, **fields)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))


def config(**changes: Any) -> dict[str, Any]:
    """A run of seconds."""
    return {
        'batch_size': 8,
        'duration': '6 steps',
        'data': {'name': 'digits'},
        'augment': (),
        'model': WIDE,
        'optimizer': {'lr': 0.05, 'reference_batch': None, 'weight_decay': 0.1},
        'evaluate': {'every': 'never', 'preprocess': (), 'batch_size': 120},
        'checkpoint': {'every': 'never'},
        'log': {'every': '3 steps', 'tensorboard': False},
        **changes,
    }


def flat(tree: Any) -> dict[str, np.ndarray]:
    """The leaves of a tree by their paths."""
    pairs = jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in pairs}


def assert_same(one: Any, other: Any) -> None:
    """Two trees are equal bit for bit."""
    a, b = flat(one), flat(other)
    assert a.keys() == b.keys()
    for path, leaf in a.items():
        assert leaf.tobytes() == b[path].tobytes(), path


def averaged_run(workdir: Path) -> Path:
    """A run with averaged weights, on the digits 0 to 9."""
    loop.train(jcls.build(config(ema={'name': 'timm', 'decay': 0.5})), workdir)
    return workdir

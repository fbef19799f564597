"""State dicts as other systems write them, of small networks."""

from __future__ import annotations

from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jcls import models
from jcls.weights.foreign import convert, layouts

SMALL = {'width': 4, 'blocks': (2, 1), 'num_classes': 3}


def variables_of(model: models.ResNet) -> Any:
    """Numbers that are all different, with positive variances."""
    rng = np.random.default_rng(0)
    leaves = {
        path: rng.normal(0, 0.3, leaf.shape).astype(np.float32)
        for path, leaf in flatten_dict(convert.shapes_of(model)).items()
    }
    return unflatten_dict(
        {path: abs(leaf) + 0.5 if path[-1] == 'var' else leaf for path, leaf in leaves.items()}
    )


def state(layout: str = 'torch', name: str = 'resnet18', **fields: Any) -> dict[str, np.ndarray]:
    """The state dict of a small network with a layout's names, and torch's counters."""
    model = models.create(name, **{**SMALL, **fields})
    tensors = convert.state_dict(model, variables_of(model), layouts.LAYOUTS[layout])
    counters = {
        name.replace('running_var', 'num_batches_tracked'): np.zeros((), np.int64)
        for name in tensors
        if name.endswith('running_var')
    }
    return {**tensors, **counters}


def below(root: str, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {root + name: value for name, value in tensors.items()}


def without_head(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: value for name, value in tensors.items() if not name.startswith('fc.')}

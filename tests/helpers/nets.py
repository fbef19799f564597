"""Networks beside those of torch."""

from __future__ import annotations

import re
from typing import Any

import jax
import numpy as np

DEEP_STEM = {'conv1.0': 'conv1', 'conv1.1': 'norm1', 'conv1.3': 'conv2', 'conv1.4': 'norm2',
             'conv1.6': 'conv3', 'bn1': 'norm3'}  # fmt: skip


PLAIN_STEM = {'conv1': 'conv1', 'bn1': 'norm1'}


LEAVES = {'weight': 'scale', 'bias': 'bias', 'running_mean': 'mean', 'running_var': 'var'}


def path_of(torch_name: str, deep: bool) -> tuple[str, ...]:
    """'layer1.0.conv2.weight' -> ('stage1_block1', 'conv2', 'kernel')."""
    module, _, leaf = torch_name.rpartition('.')
    if module == 'fc':
        return ('head', 'kernel' if leaf == 'weight' else 'bias')
    if match := re.fullmatch(r'layer(\d)\.(\d+)\.(.*)', module):
        first = 1 if deep else 0  # timm's downsample.0 is the pool
        inner = {f'downsample.{first}': 'shortcut_conv', f'downsample.{first + 1}': 'shortcut_norm'}
        name = inner.get(match[3], match[3].replace('bn', 'norm'))
        where = f'stage{match[1]}_block{int(match[2]) + 1}'
    else:
        where, name = 'stem', (DEEP_STEM if deep else PLAIN_STEM)[module]
    return (where, name, 'kernel' if 'conv' in name else LEAVES[leaf])


def nested(golden: Any, prefix: str, deep: bool, wanted: str) -> dict[str, Any]:
    """The arrays below `prefix` whose torch name matches `wanted`, as a tree of ours."""
    tree: dict[str, Any] = {}
    for key in golden.files:
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or not re.search(wanted, name):
            continue
        value = golden[key]
        value = value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
        *parents, leaf = path_of(name, deep)
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return tree


def difference(ours: Any, theirs: Any) -> float:
    """Largest difference over the largest entry, the worst leaf of two trees of equal structure."""
    worst = jax.tree.map(lambda a, b: float(np.abs(a - b).max() / np.abs(b).max()), ours, theirs)
    return max(jax.tree.leaves(worst))

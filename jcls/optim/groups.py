"""Groups of parameters by regex over their paths: the first rule that matches wins.

A path is the keys joined by '/', such as ``stage1_block2/norm3/scale``; a rule's pattern must match
all of it. Rules must cover every parameter, and a rule that applies to none is an error: both
reveal a typing mistake in a pattern.
"""

from __future__ import annotations

import re
import sys
from typing import Any

import jax
from flax.traverse_util import flatten_dict

Rules = tuple[tuple[str, float], ...]


def path_of(keys: tuple[Any, ...]) -> str:
    """The path of a leaf, from its keys in `jax.tree_util`."""
    return jax.tree_util.keystr(keys, simple=True, separator='/')


def assign(params: Any, rules: Rules, where: str) -> Any:
    """The tree of `params` with the value that `rules`, ((pattern, value), ...), give each leaf.

    Raises:
      ValueError: for an invalid pattern, a parameter that no rule matches, or a rule that is the
        first to match no parameter. `where` names the rules' place in the config.
    """
    patterns = []
    for pattern, value in rules:
        try:
            patterns.append((re.compile(pattern), value))
        except re.error as error:
            raise ValueError(f'{where}: {pattern!r} is not a regular expression: {error}') from None
    used: set[int] = set()

    def value_of(keys: tuple[Any, ...], _: Any) -> float:
        path = path_of(keys)
        for i, (pattern, value) in enumerate(patterns):
            if pattern.fullmatch(path):
                used.add(i)
                return value
        raise ValueError(f"{where}: no rule covers {path!r}; end the rules with ('.*', value)")

    values = jax.tree_util.tree_map_with_path(value_of, params)
    idle = [rules[i][0] for i in range(len(rules)) if i not in used]
    if idle:
        paths = [*flatten_dict(params, sep='/')]
        raise ValueError(
            f'{where}: {idle[0]!r} decides about no parameter (paths look like '
            f'{", ".join(paths[:4])}); correct it or take it out'
        )
    return values


def depths(params: Any) -> Any:
    """The tree of `params` with how many blocks each leaf's block is before the last one.

    Blocks are the parts of the model: the stem, every residual block, the head (which gets 0).
    """

    def place(part: str) -> tuple[int, ...]:
        numbers = tuple(map(int, re.findall(r'\d+', part)))  # 'stage2_block3' -> (2, 3)
        return {'stem': (0,), 'head': (sys.maxsize,)}.get(part, numbers)

    parts = {path.split('/')[0] for path in flatten_dict(params, sep='/')}
    depth = {part: i for i, part in enumerate(sorted(parts, key=place, reverse=True))}
    return jax.tree_util.tree_map_with_path(
        lambda keys, _: depth[path_of(keys).split('/')[0]], params
    )

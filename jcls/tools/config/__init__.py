"""Look at configs: ``jcls config show FILE``, ``explain FILE`` and ``diff A B``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jcls.assembly import build_or_assume, load_config
from jcls.config import diff, show
from jcls.config.schema import plain
from jcls.tools.config import explain, facts


def run(
    overrides: Mapping[str, Any], *, action: str, configs: Sequence[str], out: str = 'explain.png'
) -> dict[str, Any]:
    """The verb: print fields, facts, or the differences of both, and return them for --json."""
    wanted = 2 if action == 'diff' else 1
    if len(configs) != wanted:
        raise ValueError(f'jcls config {action} takes {wanted} config(s): {configs}')
    trees = [_read(path, overrides) for path in configs]
    if action == 'show':
        print(show(trees[0]))
        return trees[0]
    if action == 'explain':
        return explain.explain(trees[0], out)
    both = [facts.collect(*build_or_assume(tree)) for tree in trees]
    different = diff(*trees)
    _print_pairs(different)
    if not different:
        print('no difference')
        return {}
    print('\nand so, before any run:')
    effects = {
        key: pair
        for key, pair in diff(*both).items()
        if key not in ('recipe', 'learning_rate', 'promises')
    }
    _print_pairs(effects)
    changed = {'fields': different, 'facts': effects}
    return {what: {key: list(pair) for key, pair in d.items()} for what, d in changed.items()}


def _print_pairs(different: Mapping[str, tuple[Any, Any]]) -> None:
    for key, (old, new) in different.items():
        print(f'- {key} = {old!r}\n+ {key} = {new!r}')


def _read(path: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(plain(load_config(path, overrides))))

"""Look at configs: ``jcls config show FILE`` and ``jcls config diff A B``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jcls import config as configs
from jcls.experiment import SECTIONS, load_config
from jcls.schema import complete, plain
from jcls.training import workdir as folder


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The verb: print every field, or those that differ, and return them for --json."""
    wanted = 1 if args.action == 'show' else 2
    if len(args.configs) != wanted:
        raise ValueError(f'jcls config {args.action} takes {wanted} config(s): {args.configs}')
    trees = [_read(path, overrides) for path in args.configs]
    if args.action == 'show':
        print(configs.show(trees[0]))
        return trees[0]
    different = configs.diff(*trees)
    for key, (old, new) in different.items():
        print(f'- {key} = {old!r}\n+ {key} = {new!r}')
    if not different:
        print('no difference')
    return {key: list(pair) for key, pair in different.items()}


def _read(path: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    if Path(path).is_dir():
        tree = complete(folder.read_config(Path(path)), overrides, sections=SECTIONS)
    else:
        tree = plain(load_config(path, overrides))
    return json.loads(json.dumps(tree))

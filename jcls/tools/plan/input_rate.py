"""What ``jcls bench input`` measured last on this machine, for ``jcls plan`` to tell it beside."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jcls.data import disk
from jcls.schema import plain

SECTIONS = ('data', 'augment', 'mix', 'sizes')  # what the speed of the input depends on


def _file(config: Mapping[str, Any]) -> Path:
    tree = plain(config)
    # Not on where the data are.
    kept: dict[str, Any] = {name: tree[name] for name in SECTIONS}
    kept['data'] = {k: v for k, v in kept['data'].items() if k not in ('dir', 'file')}
    text = json.dumps([disk.processor(), kept], sort_keys=True, default=list)
    return disk.folder() / 'bench' / f'{hashlib.sha256(text.encode()).hexdigest()[:32]}.json'


def remember(config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Keep the result of a measurement of `config`'s input."""
    file = _file(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(result)))


def per_core(config: Mapping[str, Any]) -> float | None:
    """Images a second of a core, as last measured for an input like this one's; None: never."""
    return (recall(config) or {}).get('images_per_second_per_core')


def recall(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The last measurement of an input like this one's; None if there was none."""
    try:
        return json.loads(_file(config).read_text())
    except (OSError, ValueError):
        return None

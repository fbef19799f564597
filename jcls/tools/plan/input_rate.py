"""The last results of ``jcls bench input`` on this machine, which ``jcls plan`` reports, too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jcls.assembly import SECTIONS
from jcls.config.schema import plain
from jcls.host.cache import cache_folder
from jcls.host.machine import processor

INPUT_SECTIONS = ('data', 'augment', 'mix', 'sizes')  # which decide the speed of the input


def _file(config: Mapping[str, Any]) -> Path:
    tree = plain(config)
    sections: dict[str, Any] = {name: tree[name] for name in INPUT_SECTIONS}
    # The speed does not depend on where the data are.
    places = set(SECTIONS['data'].host_specific) - {'cache'}
    sections['data'] = {key: value for key, value in sections['data'].items() if key not in places}
    text = json.dumps([processor(), sections], sort_keys=True, default=list)
    return cache_folder() / 'bench' / f'{hashlib.sha256(text.encode()).hexdigest()[:32]}.json'


def remember(config: Mapping[str, Any], result: Mapping[str, Any]) -> None:
    """Keep the result of measuring the input of `config`."""
    file = _file(config)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dict(result)))


def per_core(config: Mapping[str, Any]) -> float | None:
    """The images per second of a core in the last measurement of such an input, or None."""
    return (recall(config) or {}).get('images_per_second_per_core')


def recall(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The last measurement of an input like this config's, or None."""
    try:
        return json.loads(_file(config).read_text())
    except (OSError, ValueError):
        return None

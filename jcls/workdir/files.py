"""The files of a run that say which config made it, and what its model is.

config.json   the complete config
model.json    what someone needs to use the weights: architecture, classes, preprocessing, ...
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jcls.config import diff
from jcls.config.horizon import Horizon
from jcls.config.schema import Sections, complete, is_free

CONFIG, METADATA = 'config.json', 'model.json'
NEEDED = ('data', 'model', 'checkpoint')  # sections that every config has


def prepare(
    workdir: Path,
    config: dict[str, Any],
    sections: Sections,
    horizon: Horizon,
    metadata: dict[str, Any],
    *,
    write: bool = True,
) -> None:
    """Make the folder, or check that a run with `config` may go on in it, and write both files.

    Every process of a run checks, so that all of them stop together; one of them writes.

    Raises:
      ValueError: if it was made by a config with other mathematics (with the differences), by other
        data, or trained for longer than `horizon`.
      OSError: if it cannot be written.
    """
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        if (workdir / CONFIG).exists():
            check(workdir, config, sections, horizon)
            check_data(workdir, metadata)
        if write:
            write_json(workdir / CONFIG, config)
            update_metadata(workdir, metadata)
    except OSError as error:
        raise OSError(
            f'cannot write to the workdir {workdir}: {error.strerror or error}; choose another '
            '--workdir, or make this one writable and with room to spare'
        ) from error


def check(workdir: Path, config: dict[str, Any], sections: Sections, horizon: Horizon) -> None:
    """Refuse a `config` with other mathematics than the one that made the workdir.

    Fields that jcls has got since then have their defaults in the old config.
    """
    different = diff(complete(read_config(workdir), sections=sections), config)
    refused = {key: pair for key, pair in different.items() if not is_free(sections, key)}
    old, new = refused.pop('duration', ('', ''))
    if old and horizon.steps(new) < horizon.steps(old):
        refused['duration'] = (old, new)
    if refused:
        lines = [f'  - {k} = {a!r}\n  + {k} = {b!r}' for k, (a, b) in refused.items()]
        listed = '\n'.join(lines)
        raise ValueError(
            f'{workdir} was made by another config:\n{listed}\nUse another --workdir, or the '
            'config of this one (a longer duration is fine).'
        )


def check_data(workdir: Path, metadata: dict[str, Any]) -> None:
    """Refuse other data: a folder may have changed, and another folder may hold other images."""
    old, new = read_metadata(workdir), json.loads(json.dumps(metadata))
    for key, what in (('classes', 'classes'), ('train_examples', 'number of training images')):
        if key in old and old[key] != new[key]:
            raise ValueError(
                f'{workdir} was trained on other data: its {what}: {_short(old[key])}; now: '
                f'{_short(new[key])}. Bring the data back, or use another --workdir.'
            )


def _short(value: Any) -> str:
    text = ', '.join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) < 200 else f'{text[:200]}, ...'


def read_config(workdir: Path) -> dict[str, Any]:
    """The config that the workdir was made with."""
    config = read_json(workdir / CONFIG)
    lacking = [name for name in NEEDED if not isinstance(config.get(name), dict)]
    if lacking:
        raise ValueError(f'{workdir / CONFIG} is damaged: it lacks {", ".join(lacking)}')
    return config


def read_metadata(workdir: Path) -> dict[str, Any]:
    """The content of model.json; empty if there is none yet."""
    path = workdir / METADATA
    return read_json(path) if path.exists() else {}


def update_metadata(workdir: Path, changes: dict[str, Any]) -> None:
    """Set `changes`, {key: value}, in model.json."""
    write_json(workdir / METADATA, {**read_metadata(workdir), **changes})


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically: it is the old or the new one, never half of one."""
    temporary = path.with_suffix('.tmp')
    temporary.write_text(json.dumps(content, indent=2) + '\n')
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a ValueError that names the file if there is none."""
    if not path.exists():
        raise ValueError(f'{path.parent} is not a workdir of jcls: it has no {path.name}')
    try:
        content = json.loads(path.read_text('utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged: {error}') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path} is damaged: it is no JSON object')
    return content

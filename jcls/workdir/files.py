"""The files of a run that say which config made it, and what its model is.

config.json   the complete config
model.json    what someone needs to use the weights: architecture, classes, preprocessing, ...
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jcls.config import diff
from jcls.config.horizon import Horizon
from jcls.config.schema import Sections, complete, is_free
from jcls.host.disk import local

CONFIG, METADATA = 'config.json', 'model.json'
NEEDED = ('data', 'model', 'checkpoint')  # sections that every config has


def prepare(workdir: Path, config: dict[str, Any], metadata: dict[str, Any], *, anew: bool) -> None:
    """Write both files; `anew` forgets the model.json of before.

    Raises:
      OSError: if it cannot be written.
    """
    try:
        write_json(workdir / CONFIG, config)
        write_json(workdir / METADATA, {**({} if anew else read_metadata(workdir)), **metadata})
    except OSError as error:
        raise unwritable(workdir, error) from error


def unwritable(workdir: Path, error: OSError) -> OSError:
    """The error for a workdir that cannot be written."""
    return OSError(
        f'cannot write to the workdir {workdir}: {error.strerror or error}; choose another '
        '--workdir, or make this one writable and with room to spare'
    )


def check_name(workdir: Path) -> None:
    """Refuse a workdir whose checkpoints could be written but not read.

    Orbax looks for its files by the whole path as a pattern.
    """
    if found := re.search(r'[*?[]', str(workdir.resolve())):
        raise ValueError(
            f'--workdir: {workdir.resolve()} has {found[0]!r} in it, which makes it a pattern of '
            'names for what writes the checkpoints, so that they could not be read again; choose '
            'another'
        )


def check_apart(workdir: Path, data: Mapping[str, Any]) -> None:
    """Refuse a workdir inside the folder of the images, whose files would be images, or around it.

    Args:
      workdir: the folder of a run that begins.
      data: the ``data`` section.
    """
    ours = local(workdir).resolve()
    for field in ('dir', 'val_dir', 'file', 'train_list', 'val_list'):
        if not data.get(field):
            continue
        theirs = local(data[field]).resolve()
        if data['name'] == 'folder' and ours.is_relative_to(theirs):
            raise ValueError(
                f'--workdir {workdir} lies inside config.data.{field}={data[field]!r}, so the '
                'files of the run would be taken for images; choose a --workdir beside it'
            )
        if theirs.is_relative_to(ours):
            raise ValueError(
                f'config.data.{field}={data[field]!r} lies inside --workdir {workdir}, so whoever '
                'tidies up the run would lose the images; choose a --workdir beside them'
            )


def check(workdir: Path, config: dict[str, Any], sections: Sections, horizon: Horizon) -> None:
    """Refuse a `config` with other mathematics than the one that made the workdir.

    Every process of a run checks, so that all of them stop together. Fields that jcls has got since
    then have their defaults in the old config.
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
    temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + '\n')
    temporary.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; a ValueError that names the file if there is none."""
    if not path.exists():
        if any((path.parent / 'checkpoints').glob('*')):
            raise ValueError(f'{path} is gone: bring it back from a copy')
        raise ValueError(f'{path.parent} is not a workdir of jcls: it has no {path.name}')
    try:
        content = json.loads(path.read_text('utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{path} is damaged: {error}. Bring it back from a copy') from None
    if not isinstance(content, dict):
        raise ValueError(f'{path} is damaged: it is no JSON object. Bring it back from a copy')
    return content

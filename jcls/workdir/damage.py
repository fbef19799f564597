"""Whether a checkpoint on disk is what was saved, and in plain words what is wrong with it.

Orbax returns values whose bytes changed on disk without a word, takes a lost file of its own for
one that never was, and names no file where JSON is cut off. So each checkpoint carries checksums of
the arrays and of the evaluation in it.
"""

from __future__ import annotations

import json
import re
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

ITEM, METADATA, METRICS = 'default', '_CHECKPOINT_METADATA', 'metrics'  # Orbax's names
VARIABLES = ('params', 'batch_stats', 'ema')  # the fields of a state that hold a model's variables
FILES = (METADATA, f'{METRICS}/metrics', f'{ITEM}/_METADATA', f'{ITEM}/manifest.ocdbt')
JSON_FILES = (*FILES[:3], f'{ITEM}/_sharding', f'{ITEM}/array_metadatas/*')


def checksums(tree: Any, metrics: dict[str, float] | None = None) -> dict[str, int]:
    """The CRC-32 of each field of a state, or of a dict of its fields, over its leaves in order.

    With `metrics` also that of 'metrics'. A field without leaves has 0.
    """
    fields = tree if isinstance(tree, dict) else vars(tree)
    sums = {}
    for name, field in fields.items():
        crc = 0
        for leaf in jax.device_get(jax.tree.leaves(field)):
            crc = zlib.crc32(np.ascontiguousarray(leaf).data, crc)
        sums[name] = crc
    if metrics is not None:
        sums[METRICS] = zlib.crc32(json.dumps(metrics, sort_keys=True).encode())
    return sums


def read_metrics(folder: Path) -> dict[str, float]:
    """The evaluation in a checkpoint's folder; empty if there was none.

    Raises:
      ValueError: if a file that describes the checkpoint is missing or damaged, or the evaluation
        is not the one saved.
    """
    metrics: dict[str, float] = _described(folder)[f'{METRICS}/metrics']
    if _saved_checksums(folder).get(METRICS) not in (None, checksums({}, metrics)[METRICS]):
        raise ValueError(f'the checksum of {METRICS} differs')
    return metrics


def require_same(folder: Path, part: Any) -> None:
    """Raise ValueError if `part`, a state or a dict of its variables, is not what was saved."""
    saved, found = _saved_checksums(folder), checksums(part)
    if not saved:  # an older version of jcls saved it
        return
    for name in dict.fromkeys((*found, *VARIABLES)):
        if found.get(name, 0) != saved.get(name, 0):
            raise ValueError(f'the checksum of {name} differs')


def _saved_checksums(folder: Path) -> dict[str, int]:
    return _described(folder)[METADATA].get('custom_metadata') or {}


def _described(folder: Path) -> dict[str, Any]:
    """The content of each file of JSON by its name; a ValueError names one that is damaged."""
    if not folder.is_dir():
        raise ValueError('it is no folder')
    for name in FILES:
        if not (folder / name).is_file():
            raise ValueError(f'{name} is missing')
    content = {}
    for path in (path for pattern in JSON_FILES for path in sorted(folder.glob(pattern))):
        name = path.relative_to(folder).as_posix()
        try:
            content[name] = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f'{name} is damaged: {error}') from None
        except OSError as error:
            raise ValueError(f'{name} cannot be read: {error.strerror or error}') from None
        if not isinstance(content[name], dict):
            raise ValueError(f'{name} is damaged: it is no JSON object')
    try:
        step_metadata = ocp.path.step.standard_name_format().find_step(
            folder.parent, int(folder.name)
        )
        _ = step_metadata.commit_timestamp  # which Orbax reads of every checkpoint
    except Exception as error:  # damage makes it raise anything
        raise ValueError(f'{METADATA} is damaged: {error}') from None
    return content


def reason(error: Exception, folder: Path) -> str:
    """Why a checkpoint cannot be read: one line that names the file, of an error of any reader."""
    line = (str(error).strip() or type(error).__name__).split('\n')[0]
    line = line.split(' [tensorstore_spec')[0].replace(f'{folder}/', '')
    found = re.search(r'^([A-Z_]+): .*local file ("[^"]+[^/"]".*)$', line)  # of TensorStore
    if found:
        line = f'{found[1].replace("_", " ").lower()}: {found[2]}'
    elif not isinstance(error, ValueError | OSError):
        line = f'{type(error).__name__}: {line}'
    return line if len(line) <= 200 else f'{line[:60]} ... {line[-130:]}'

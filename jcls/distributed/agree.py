"""Before the first step all processes of a run compare what they are about to do.

Without that, a host with another config, code, libraries, data or workdir would make the run hang,
or spoil it without a word.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import socket
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jcls.config import diff

LIBRARIES = ('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'numpy')
PATIENCE = 5  # seconds to wait for a file that another host has made


def agree(config: Mapping[str, Any], data: Callable[[], Mapping[str, Any]], workdir: Path) -> None:
    """Make sure that all processes have the same config, code, libraries, data and workdir.

    Args:
      config: {field: value}, without the fields that may differ between hosts.
      data: computes facts about the data, {name: value}.
      workdir: folder that all processes must see.

    Raises:
      ValueError: in every process, naming the hosts that differ from process 0, and in what.
    """
    if jax.process_count() == 1:
        return
    mine = {
        'host': socket.gethostname(),
        'config': dict(config),
        'code': {'jcls': _code(), **{name: importlib.metadata.version(name) for name in LIBRARIES}},
        'data': data(),
    }
    first, *others = gather(mine)
    problems = []
    for index, other in enumerate(others, 1):
        for what in ('code', 'config', 'data'):
            for key, (expected, actual) in diff(first[what], other[what]).items():
                name = '' if what == 'config' else f'{what}: '
                problems.append(
                    f'  process {index} on {other["host"]}: {name}{key} = {actual!r}; process 0 on '
                    f'{first["host"]}: {expected!r}'
                )
    if problems:
        shown = '\n'.join(problems[:12])
        raise ValueError(f'the processes of this run do not run the same:\n{shown}')
    _share(workdir)


def _share(workdir: Path) -> None:
    """Make sure that every process sees what the first process writes into `workdir`."""
    primary, existed = jax.process_index() == 0, False
    probe = workdir / f'.{gather(uuid.uuid4().hex)[0]}'  # the first process names it
    if primary:
        existed = workdir.exists()
        workdir.mkdir(parents=True, exist_ok=True)
        probe.touch()
    gather(0)  # all processes wait for it
    seen = gather((socket.gethostname(), str(workdir), _appears(probe)))
    if primary:
        probe.unlink()
    blind = [
        f'process {i} on {host} ({path})' for i, (host, path, sees) in enumerate(seen) if not sees
    ]
    if blind:
        if primary and not existed:
            workdir.rmdir()
        raise ValueError(
            f'--workdir: {", ".join(blind)} does not see what process 0 on {seen[0][0]} writes '
            f'into {seen[0][1]}; all hosts need the same folder, on a file system that they share'
        )


def _appears(file: Path) -> bool:
    """Whether `file` appears within `PATIENCE` seconds: shared file systems take their time."""
    for _ in range(PATIENCE):
        if file.exists():
            return True
        time.sleep(1)
    return False


def _code() -> str:
    """A hash of the sources of jcls."""
    root, digest = Path(__file__).parent.parent, hashlib.sha256()
    for path in sorted(root.rglob('*.py')):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def wait() -> None:
    """Wait until every process has come here."""
    if jax.process_count() > 1:
        gather(0)


def require_same(what: str, weights: Any) -> None:
    """Raise ValueError in every process unless all have read the same `weights`, a tree of arrays.

    They would differ if another run saved a checkpoint in between.
    """
    if jax.process_count() == 1:
        return
    digest = hashlib.sha256()
    for leaf in jax.device_get(jax.tree.leaves(weights)):
        digest.update(np.asarray(leaf).tobytes())
    if len({*gather(digest.hexdigest())}) > 1:
        raise ValueError(
            f'{what}: the processes of this run read different weights from it, maybe since a run '
            'trains in it and has saved new ones meanwhile. Name a step that stays, or start again'
        )


def gather(value: Any) -> list[Any]:
    """The `value` of every process, in the order of the processes."""
    text = np.frombuffer(json.dumps(value, default=list).encode(), np.uint8)
    lengths = multihost_utils.process_allgather(np.array([len(text)]))
    padded = np.zeros(int(lengths.max()), np.uint8)
    padded[: len(text)] = text
    texts = multihost_utils.process_allgather(padded)
    return [
        json.loads(row[: int(length)].tobytes())
        for row, length in zip(texts, lengths.reshape(-1), strict=True)
    ]

"""What takes long to find out about files, remembered on disk until the files change.

It is kept in $XDG_CACHE_HOME/jcls (~/.cache/jcls); whoever deletes that waits once more, no worse.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def folder() -> Path:
    """Where it is kept."""
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'jcls'


def processor() -> str:
    """A name for this kind of CPU: a home may serve machines of several kinds."""
    described, facts = platform.processor(), Path('/proc/cpuinfo')
    if facts.exists():
        lines = facts.read_text().split('\n')
        described = next((line for line in lines if line.startswith(('flags', 'Features'))), '')
    return f'{platform.machine()}-{zlib.crc32(described.encode()):08x}'


def fingerprint(files: Sequence[str]) -> list[tuple[str, int, int]]:
    """(absolute path, bytes, nanoseconds of the last change) of each file: equal if unchanged.

    Raises:
      ValueError: for a file that is not there or not to be looked at.
    """
    found = []
    for file in files:
        try:
            facts = Path(file).stat()
        except OSError as error:
            raise ValueError(f'cannot read {file}: {error.strerror}') from None
        found.append((str(Path(file).absolute()), facts.st_size, facts.st_mtime_ns))
    return found


def remembered(what: str, key: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """``compute()``, from disk if it was once computed for the same `what` and `key` (JSON).

    A memory that is damaged, or cannot be written, costs a warning and the time.
    """
    name = hashlib.sha256(json.dumps([what, key]).encode()).hexdigest()[:32]
    try:
        path = folder() / f'{what}-{name}.npy'
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, RuntimeError) as error:
        logger.warning('cannot use what is remembered of the %s: %s', what, error)
    values = compute()
    try:
        folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder(), delete=False) as file:
            try:
                np.save(file, values)
                file.close()
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
    except (OSError, RuntimeError) as error:
        logger.warning('cannot remember the %s for the next time: %s', what, error)
    return values

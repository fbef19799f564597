"""Results that take long to compute from files, kept on disk until the files change.

Everything that jcls caches lies in one folder: $JCLS_CACHE, else $XDG_CACHE_HOME/jcls, else
~/.cache/jcls. Deleting it costs the time to compute and download it again, and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder of all caches of jcls."""
    base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache') / 'jcls'
    return Path(os.environ.get('JCLS_CACHE') or base).expanduser()


def fingerprint(files: Sequence[str]) -> list[tuple[str, int, int]]:
    """(absolute path, bytes, nanoseconds of the last change) of each file: equal if unchanged.

    Raises:
      ValueError: for a file that does not exist or cannot be accessed.
    """
    prints = []
    for file in files:
        try:
            status = Path(file).stat()
        except OSError as error:
            raise ValueError(f'cannot read {file}: {error.strerror}') from None
        prints.append((str(Path(file).absolute()), status.st_size, status.st_mtime_ns))
    return prints


def remembered(what: str, key: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """``compute()``, read from disk if it was computed before for the same `what` and `key` (JSON).

    A cache file that is damaged, or cannot be written, costs a warning and the time to compute.
    """
    name = hashlib.sha256(json.dumps([what, key]).encode()).hexdigest()[:32]
    try:
        path = cache_folder() / f'{what}-{name}.npy'
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, RuntimeError) as error:
        logger.warning('cannot read the cached %s: %s', what, error)
    values = compute()
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache_folder(), delete=False) as file:
            try:
                np.save(file, values)
                file.close()
                Path(file.name).replace(path)
            except OSError:
                Path(file.name).unlink(missing_ok=True)
                raise
    except (OSError, RuntimeError) as error:
        logger.warning('cannot cache the %s for the next time: %s', what, error)
    return values

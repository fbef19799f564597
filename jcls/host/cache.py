"""What takes long to find out about files, remembered on disk until the files change.

Everything that jcls caches lies in one folder: $JCLS_CACHE, else $XDG_CACHE_HOME/jcls, else
~/.cache/jcls. Deleting it costs the time to find things out again and nothing else.
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
    """The root of all caches of jcls."""
    base = Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache') / 'jcls'
    return Path(os.environ.get('JCLS_CACHE') or base).expanduser()


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
        path = cache_folder() / f'{what}-{name}.npy'
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, RuntimeError) as error:
        logger.warning('cannot use what is remembered of the %s: %s', what, error)
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
        logger.warning('cannot remember the %s for the next time: %s', what, error)
    return values

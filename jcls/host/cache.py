"""Results that take long to compute from files, kept on disk until the files change.

Everything that jcls caches lies in one folder: $JCLS_CACHE, else $XDG_CACHE_HOME/jcls, else
~/.cache/jcls. Where it cannot be written, or there is no home, it is a temporary folder of the
user's. Deleting it costs the time to compute and download it again, and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jcls.host.disk import local

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder of all caches of jcls, which may not exist yet.

    Raises:
      OSError: if there is none that can be written and is the user's alone.
    """
    return _temporary() if unusable() else local(_wanted())


def unusable() -> str:
    """Why the cache is in a temporary folder; '' if it is where it should be."""
    try:
        folder = local(_wanted())
    except ValueError:
        return 'there is no home folder'
    paths = (folder, *folder.absolute().parents)
    existing = next(path for path in paths if os.path.exists(path))  # noqa: PTH110  (Path's raises)
    usable = existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
    return '' if usable else f'{folder} cannot be written'


def _wanted() -> str:
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return os.environ.get('JCLS_CACHE') or f'{base}/jcls'


def _temporary() -> Path:
    """The user's temporary folder; anybody may have made one of this name, so it is checked."""
    folder = Path(tempfile.gettempdir()) / f'jcls-{os.getuid()}'
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    private = stat.S_ISDIR(status.st_mode) and not status.st_mode & 0o077
    if not private or status.st_uid != os.getuid():
        raise PermissionError(f"{folder} is not this user's alone; JCLS_CACHE names another")
    return folder


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
    except (OSError, ValueError, EOFError) as error:
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
    except OSError as error:
        logger.warning('cannot cache the %s for the next time: %s', what, error)
    return values

"""The disk: paths as people write them, and the space that is left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def local(path: str | Path) -> Path:
    """The path with ~ replaced by the home folder; ~name stays if there is no such user.

    Raises:
      ValueError: for ~ where there is no home folder: HOME is not set, and the system has no entry
        for the user.
    """
    expanded = Path(os.path.expanduser(path))  # noqa: PTH111 (pathlib's raises for ~name, too)
    if expanded.parts[:1] == ('~',):
        raise ValueError(f'{path}: there is no home folder; write the whole path, or set HOME')
    return expanded


def free_space(folder: str | Path) -> int | None:
    """Bytes that may be written below a folder; None if its file system does not tell.

    Some network file systems report 0 and can be written. A disk that is full says so when it is
    written.
    """
    try:
        return shutil.disk_usage(folder).free or None
    except OSError:
        return None

"""images.txt.gz: the names of a run's training and held-out images, one a line, as JSON strings.

They say on which side an image is, when a run goes on or is evaluated and its folder has changed.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

IMAGES = 'images.txt.gz'


def write_names(workdir: Path, names: Mapping[str, np.ndarray]) -> None:
    """Note the names (bytes [N]) of each set, atomically."""
    lines = [
        f'{part}\t{json.dumps(os.fsdecode(name))}\n'
        for part, some in names.items()
        for name in some.tolist()
    ]
    temporary = workdir / f'{IMAGES}.tmp'
    temporary.write_bytes(gzip.compress(''.join(lines).encode(), mtime=0))
    temporary.replace(workdir / IMAGES)


def read_names(workdir: Path) -> dict[str, np.ndarray] | None:
    """The names (bytes [N]) of each set; None if the run noted none.

    Raises:
      ValueError: if the file is damaged.
    """
    path = workdir / IMAGES
    if not path.exists():
        return None
    names: dict[str, list[bytes]] = {}
    try:
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            part, name = line.split('\t')
            names.setdefault(part, []).append(os.fsencode(json.loads(name)))
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f'{path} is damaged: {error}') from None
    return {part: np.array(some) for part, some in names.items()}

"""Folders of small images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def paint(*paths: Path) -> None:
    """An image file, one colour and unlike the others, at each path."""
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {'.jpg': 'JPEG', '.jpeg': 'JPEG'}.get(path.suffix.lower())
        Image.new('RGB', (3, 2), (i, 0, 0)).save(path, kind)


def noise(root: Path, *names: str, side: int = 8) -> None:
    """Different images of noise, which their names decide."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng([*name.encode()])
        Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(root / name)

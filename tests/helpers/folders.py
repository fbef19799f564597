"""Folders of small images."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def paint(*paths: Path) -> None:
    """An image file, one colour and unlike the others, at each path."""
    for i, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        kind = {'.jpg': 'JPEG', '.jpeg': 'JPEG'}.get(path.suffix.lower())
        Image.new('RGB', (3, 2), (i, 0, 0)).save(path, kind)

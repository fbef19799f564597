"""images.txt.gz: a run's training and held-out images, one a line.

They say on which side an image is, when a run goes on or is evaluated and its folder has changed. A
line has, with tabs between them, the set, the image's name as JSON, the size of its file in bytes,
and where the file was: what stands before the name, or the whole path where it does not end with
the name. Runs of before noted the set and the name alone.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

IMAGES = 'images.txt.gz'


class Files(NamedTuple):
    """The image files of a set.

    Attributes:
      names: their names in the data set, bytes [N].
      sizes: their sizes in bytes, int64 [N]; -1 where unknown.
      places: their whole paths, [N].
    """

    names: np.ndarray
    sizes: np.ndarray
    places: list[str]


def write(workdir: Path, sets: Mapping[str, Files]) -> None:
    """Note the files of each set, atomically."""
    lines = [
        f'{part}\t{json.dumps(name)}\t{size}\t{json.dumps(_front(place, name))}\n'
        for part, files in sets.items()
        for name, size, place in zip(
            map(os.fsdecode, files.names.tolist()), files.sizes.tolist(), files.places, strict=True
        )
    ]
    temporary = workdir / f'{IMAGES}.tmp'
    temporary.write_bytes(gzip.compress(''.join(lines).encode(), mtime=0))
    temporary.replace(workdir / IMAGES)


def read_names(workdir: Path) -> dict[str, np.ndarray] | None:
    """The names (bytes [N]) of each set; None if the file is not there.

    Raises:
      ValueError: if the file is damaged.
    """
    names: dict[str, list[bytes]] = {}
    for part, name, *_ in _lines(workdir):
        names.setdefault(part, []).append(os.fsencode(name))
    return {part: np.array(some) for part, some in names.items()} or None


def read(workdir: Path, part: str) -> Files | None:
    """The files of a set, of which sizes and places may be unknown; None if there are none.

    Raises:
      ValueError: if the file is damaged.
    """
    names, sizes, places = [], [], []
    for of, name, size, front in _lines(workdir):
        if of == part:
            names.append(os.fsencode(name))
            sizes.append(size)
            places.append(front + name if front[-1:] in ('', '/') else front)
    return Files(np.array(names), np.array(sizes, np.int64), places) if names else None


def _front(place: str, name: str) -> str:
    """What is before the name, ending with a slash or nothing; the place if it has another end."""
    front = place.removesuffix(name)
    return front if front[-1:] in ('', '/') else place


def _lines(workdir: Path) -> Iterator[tuple[str, str, int, str]]:
    """(set, name, size or -1, what is before the name or the whole path) of each line."""
    path = workdir / IMAGES
    if not path.exists():
        return
    try:
        lines = gzip.decompress(path.read_bytes()).decode().splitlines()
        if not lines:
            raise ValueError('it is empty')
        for line in lines:
            part, name, *more = line.split('\t')
            size, front = more or (-1, '""')
            # Strings, or os.fsencode would raise TypeError.
            yield part, os.fsdecode(json.loads(name)), int(size), os.fsdecode(json.loads(front))
    except (OSError, EOFError, ValueError, TypeError, RecursionError, zlib.error) as error:
        raise ValueError(
            f'{path} is damaged: {error}. It says which images trained: bring it back from a copy'
        ) from None

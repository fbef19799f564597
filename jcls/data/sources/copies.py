"""Exact copies among image files: an image that trains must not evaluate, too.

Files of equal size are compared by their last bytes, and those that are equal there as a whole. The
result is kept on disk until a file changes.
"""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from jcls.data.sources.source import Source
from jcls.host.cache import remembered
from jcls.host.terminal import progress

THREADS = 16  # for network file systems, whose answers take long
CHUNK = 500  # files of a task
TAIL = 4096  # bytes at the end of a file, where two images differ almost surely
MISSING = -1  # size of a file that cannot be read; it is like no other


def groups(files: Sequence[str]) -> np.ndarray:
    """The group of each file, int64 [N]: files with equal content are in one."""
    return _grouped(files, np.zeros(len(files), bool), both=False)


def across(train: Source, val: Source) -> list[tuple[int, int]]:
    """(a held-out image, an exact copy of it that trains) for each held-out image with a copy."""
    return pairs(*([source.name(i) for i in range(len(source))] for source in (train, val)))


def pairs(train: Sequence[str], val: Sequence[str]) -> list[tuple[int, int]]:
    """The same for files."""
    files = [*train, *val]
    group = _grouped(files, np.arange(len(files)) >= len(train), both=True)
    trains = {int(group[i]): i for i in reversed(range(len(train)))}
    found = ((i, trains.get(int(group[len(train) + i]))) for i in range(len(val)))
    return [(i, copy) for i, copy in found if copy is not None]


def sizes(files: Sequence[str]) -> np.ndarray:
    """The size of each file in bytes, int64 [N]; `MISSING` where it cannot be read."""
    with progress('looking at the sizes of images', len(files)) as advance:
        return np.array([size for size, _ in _each(files, _state, advance)], np.int64)


def _grouped(files: Sequence[str], held_out: np.ndarray, *, both: bool) -> np.ndarray:
    """The group of each file; with `both`, only of those that may be on both sides."""
    states = np.array(list(_each(files, _state)), np.int64).reshape(-1, 2)
    key = hashlib.blake2b(digest_size=16)
    for file in files:
        key.update(os.fsencode(file) + b'\0')
    key.update(states.tobytes() + np.packbits(held_out).tobytes())

    def compute() -> np.ndarray:
        group = np.unique(states[:, 0], return_inverse=True)[1]
        for digest in (functools.partial(_digest, tail=True), _digest):
            rows = _shared(group, held_out, both=both)
            rows = rows[states[rows, 0] != MISSING]
            with progress('comparing images of equal size', len(rows)) as advance:
                digests = list(_each([files[row] for row in rows], digest, advance))
            ids: dict[tuple[int, bytes], int] = {}
            pairs = zip(group[rows].tolist(), digests, strict=True)
            group = len(files) + np.arange(len(files))  # what was not compared is like no other
            group[rows] = [ids.setdefault(pair, len(ids)) for pair in pairs]
        return group

    return remembered('copies', key.hexdigest(), compute)


def _shared(group: np.ndarray, held_out: np.ndarray, *, both: bool) -> np.ndarray:
    """The rows whose group has several members, or, with `both`, members on both sides."""
    if both:
        return np.flatnonzero(np.isin(group, np.intersect1d(group[held_out], group[~held_out])))
    values, counts = np.unique(group, return_counts=True)
    return np.flatnonzero(np.isin(group, values[counts > 1]))


def _state(file: str) -> tuple[int, int]:
    """The size and the time of the last change of a file."""
    try:
        status = os.stat(file)  # noqa: PTH116
    except OSError:
        return MISSING, 0
    return status.st_size, status.st_mtime_ns


def _digest(file: str, *, tail: bool = False) -> bytes:
    """A hash of the content, or of the end of it; of an unreadable file a hash like no other."""
    try:
        with open(file, 'rb') as opened:  # noqa: PTH123
            if tail:
                opened.seek(max(os.fstat(opened.fileno()).st_size - TAIL, 0))
            return hashlib.file_digest(opened, lambda: hashlib.blake2b(digest_size=16)).digest()
    except OSError:
        return os.fsencode(file)


def _each(
    files: Sequence[str],
    function: Callable[[str], Any],
    advance: Callable[[int], None] | None = None,
) -> Iterator[Any]:
    """The function's results for all files, in their order, from several threads."""

    def chunk(start: int) -> list[Any]:
        return [function(file) for file in files[start : start + CHUNK]]

    with ThreadPoolExecutor(THREADS) as pool:
        for results in pool.map(chunk, range(0, len(files), CHUNK)):
            if advance is not None:
                advance(len(results))
            yield from results

"""A set of examples at random access, whatever it is kept in: memory or files.

A `Source` knows its labels and class names at once and reads one example by its index in
TensorFlow. Nothing here depends on the batch, the epoch or the number of hosts.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from jcls.data.runtime import tensorflow


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A set of examples at random access.

    Attributes:
      labels: [N] int32, in 0..len(classes)-1.
      classes: their names.
      read: int64 index (a tf scalar) -> the encoded image (a tf string scalar) or its pixels
        (uint8 [H, W, C]).
      name: index -> what to call the example in a message, such as its path.
      channels: of a decoded image.
      extent: (height, width) if all images share it, else None.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    read: Callable[[Any], Any]
    name: Callable[[int], str]
    channels: int = 3
    extent: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.labels)


def from_memory(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], what: str
) -> Source:
    """A source of `images`, uint8 [N, H, W, C] or [N, H, W], named '<what> <index>'."""
    images = images[..., None] if images.ndim == 3 else images

    def read(index: Any) -> Any:
        tf = tensorflow()
        return tf.gather(pixels(), index % len(images))

    cache: list[Any] = []

    def pixels() -> Any:  # made outside the graph, once
        with tensorflow().init_scope():
            cache[:] = cache or [tensorflow().constant(images)]
        return cache[0]

    labels = labels.astype(np.int32)
    return Source(
        labels, classes, read, lambda i: f'{what} {i}', images.shape[-1], images.shape[1:3]
    )


def from_files(files: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Source:
    """A source of image files, read when they are asked for; `files` are paths as bytes, [N]."""
    paths: list[Any] = []

    def read(index: Any) -> Any:
        tf = tensorflow()
        with tf.init_scope():
            paths[:] = paths or [tf.constant(files)]
        return tf.io.read_file(tf.gather(paths[0], index))

    return Source(labels, classes, read, lambda i: os.fsdecode(files[i]))


def stratified_split(
    labels: np.ndarray, classes: tuple[str, ...], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a stratified split, both sorted."""
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise ValueError(f'config.data.val_fraction={fraction}: must lie between 0 and 1')
    counts = np.bincount(labels, minlength=len(classes))
    if (counts == 1).any():
        alone = classes[int((counts == 1).argmax())]
        raise ValueError(
            f'class {alone!r} has 1 image, too few to set one aside for evaluation; add some, or '
            'give the validation images yourself'
        )
    held_out = math.ceil(fraction * len(labels))
    present = np.count_nonzero(counts)
    if not present <= held_out <= len(labels) - present:
        raise ValueError(
            f'config.data.val_fraction={fraction} of {len(labels)} images sets {held_out} aside, '
            f'but both parts need at least one of each of the {present} classes'
        )
    rows = train_test_split(
        np.arange(len(labels)), test_size=held_out, random_state=seed, stratify=labels
    )
    for part, name in zip(rows, ('training', 'held-out'), strict=True):
        missing = np.setdiff1d(labels, labels[part])
        if len(missing):
            raise ValueError(
                f'config.data.val_fraction={fraction} leaves no {name} image of class '
                f'{classes[missing[0]]!r}, which has {counts[missing[0]]}; use another fraction, '
                'or give the validation images yourself'
            )
    return np.sort(rows[0]), np.sort(rows[1])

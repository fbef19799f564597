"""A set of examples at random access, in memory or in files.

A `Source` knows its number of examples and its classes at once, and reads an example by its index
in TensorFlow. Nothing here depends on the batch, the epoch or the number of hosts.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jcls.host.machine import cores
from jcls.host.tensorflow import tf

FEW_RECORDS = 10_000  # records that may be read just for their labels


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """A set of examples at random access.

    Attributes:
      read: function from an index (int64 tf scalar) to (image, label). The image is encoded (a tf
        string scalar) or pixels (uint8 [H, W, C]); the label is a tf int32 scalar in
        0..len(classes)-1.
      examples: number of examples.
      classes: names of the classes.
      find_labels: function that gives all labels, [N] integers, perhaps after a pass over the data.
        None if the source refuses to give them all at once; see `labels`.
      name: function from an index to the example's name in a message, such as its path.
      channels: number of channels of a decoded image.
      image_size: (height, width) if all images share it, else None.
      in_memory: whether the images are in memory already.
      names: names of the examples that stay the same wherever the images are, bytes [N]; None if
        there are none.
      left_out: what was found beside the images, {reason: {folder: number}}.
      in_records: whether a label is read together with its image.
      whole: the source that this one was selected from, if it was.
    """

    read: Callable[[Any], tuple[Any, Any]]
    examples: int
    classes: tuple[str, ...]
    find_labels: Callable[[], np.ndarray] | None
    name: Callable[[int], str]
    channels: int = 3
    image_size: tuple[int, int] | None = None
    in_memory: bool = False
    names: np.ndarray | None = None
    left_out: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    in_records: bool = False
    whole: Source | None = None

    def __len__(self) -> int:
        return self.examples

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """All labels, int32 [N]; a ValueError if the source refuses to give them all at once."""
        if self.find_labels is None:
            raise ValueError(
                f'the labels of {self.name(0)} and the others are inside TFRECORD files, which '
                'would have to be read whole for config.data.folds, subset or balanced; convert '
                'them to ARRAY_RECORD (`jcls prepare`), or prepare the dataset with '
                "file_format='array_record'"
            )
        return self.find_labels().astype(np.int32)

    def absent(self) -> list[str] | None:
        """The classes that no example has; None if that would take reading very many records."""
        if self.in_records and len(self) > FEW_RECORDS:
            return None
        if self.find_labels is not None:
            labels = self.labels
        else:
            rows = tf.data.Dataset.range(len(self)).map(lambda index: self.read(index)[1], cores())
            labels = np.fromiter(rows.ignore_errors().as_numpy_iterator(), np.int32)
        return [self.classes[label] for label in np.setdiff1d(range(len(self.classes)), labels)]

    def checksum(self, examples: int = 64) -> int:
        """The CRC-32 of this many examples, spread evenly: their images as stored, and labels.

        Raises ValueError if one of them cannot be read.
        """
        crc = 0
        for row in np.linspace(0, len(self) - 1, min(examples, len(self))).astype(np.int64):
            try:
                image, label = self.read(tf.constant(row))
            except tf.errors.OpError as error:
                raise ValueError(f'cannot read {self.name(int(row))}: {error.message}') from None
            stored = image.numpy()
            stored = stored if isinstance(stored, bytes) else stored.tobytes()
            crc = zlib.crc32(stored + b'%d' % int(label), crc)
        return crc

    def select(self, rows: np.ndarray) -> Source:
        """The source of these examples in this order; `rows` are int64 indices."""
        find, chosen = self.find_labels, constant(rows.astype(np.int64))
        return dataclasses.replace(
            self,
            read=lambda index: self.read(tf.gather(chosen(), index)),
            examples=len(rows),
            find_labels=None if find is None else lambda: self.labels[rows],
            name=lambda i: self.name(int(rows[i])),
            names=None if self.names is None else self.names[rows],
            whole=self.whole or self,
        )

    def relabelled(self, classes: tuple[str, ...], labels: Sequence[int]) -> Source:
        """The source with other `classes`, and the label in them of each class of before."""
        find, numbers = self.find_labels, np.array(labels, np.int32)
        table = constant(numbers)

        def read(index: Any) -> tuple[Any, Any]:
            image, label = self.read(index)
            return image, tf.gather(table(), label)

        return dataclasses.replace(
            self,
            read=read,
            classes=classes,
            find_labels=None if find is None else lambda: numbers[find()],
        )


def constant(values: np.ndarray) -> Callable[[], Any]:
    """A function that gives `values` as a tf constant, made once, at its first use, in no graph."""
    made: list[Any] = []

    def get() -> Any:
        with tf.init_scope():
            made[:] = made or [tf.constant(values)]
        return made[0]

    return get


def from_memory(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], what: str
) -> Source:
    """A source of `images`, uint8 [P, H, W, C] or [P, H, W], named '<what> <index>'.

    If there are fewer images than labels, the images take turns.
    """
    images = images[..., None] if images.ndim == 3 else images
    pixels, targets = constant(images), constant(labels.astype(np.int32))

    def read(index: Any) -> tuple[Any, Any]:
        return tf.gather(pixels(), index % len(images)), tf.gather(targets(), index)

    return Source(
        read,
        len(labels),
        classes,
        lambda: labels,
        lambda i: f'{what} {i}',
        channels=images.shape[-1],
        image_size=images.shape[1:3],
        in_memory=True,
    )


def from_files(
    files: np.ndarray,
    labels: np.ndarray,
    classes: tuple[str, ...],
    names: np.ndarray | None = None,
) -> Source:
    """A source of image files, read when needed; `files` are paths as bytes, [N]."""
    paths, targets = constant(files), constant(labels.astype(np.int32))

    def read(index: Any) -> tuple[Any, Any]:
        return tf.io.read_file(tf.gather(paths(), index)), tf.gather(targets(), index)

    return Source(
        read, len(files), classes, lambda: labels, lambda i: os.fsdecode(files[i]), names=names
    )

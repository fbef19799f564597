"""From a source to batches: order, shards of hosts, augmentation, padding and masks.

There is no iterator state. Which examples a step sees, and how each is augmented, are pure
functions of (seed, step): a pipeline starts anywhere at once, so a resumed run sees exactly what an
uninterrupted one would.

* An epoch is floor(N / B) steps over a fresh permutation of the N examples; the N mod B left over
  differ from epoch to epoch.
* Process p of P reads rows p*B/P to (p+1)*B/P of every global batch.
* A damaged image keeps its place in the batch as the mean colour with mask 0.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jcls.data import decode
from jcls.data.augment import Draw, Operation
from jcls.data.examples import Source
from jcls.data.runtime import tensorflow

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]  # image uint8 [b, H, W, C], label int32 [b], mask float32 [b]
Rows = Callable[[int], np.ndarray]  # step -> int64 [b, 2]: index (-1: padding), random word
OPERATIONS_APART = 64  # keys of neighbouring examples lie this far apart: one for each operation


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The permutation of 0..examples-1 of an epoch, int64: a stable argsort of Philox outputs."""
    raw = np.random.Philox(key=[seed, epoch]).random_raw(examples)
    return np.argsort(raw, kind='stable')


def epoch_word(seed: int, epoch: int) -> int:
    """The random word, a signed 64-bit integer, that keys the augmentation of an epoch."""
    word = np.random.SeedSequence((seed, epoch)).generate_state(1, np.uint64)
    return int(word.view(np.int64)[0])


class Share(NamedTuple):
    """This process's part of every global batch of `batch_size`."""

    batch_size: int
    process: int = 0
    processes: int = 1

    def rows(self) -> slice:
        """The rows of a global batch that this process reads."""
        if self.batch_size % self.processes:
            raise ValueError(
                f'config.batch_size={self.batch_size} does not divide over {self.processes} '
                'processes'
            )
        local = self.batch_size // self.processes
        return slice(self.process * local, (self.process + 1) * local)


def train_rows(examples: int, seed: int, share: Share) -> Rows:
    """Which examples a training step sees: see the module's docstring."""
    size, local = share.batch_size, share.rows()
    steps_per_epoch = examples // size

    @functools.lru_cache(maxsize=2)  # the epoch that is read and the one that is prefetched
    def epoch_of(epoch: int) -> tuple[np.ndarray, int]:
        return epoch_order(seed, epoch, examples), epoch_word(seed, epoch)

    def rows(step: int) -> np.ndarray:
        epoch, place = divmod(step, steps_per_epoch)
        order, word = epoch_of(epoch)
        index = order[place * size : (place + 1) * size][local]
        return np.stack([index, np.full_like(index, word)], axis=1)

    return rows


def eval_rows(order: np.ndarray, share: Share) -> tuple[Rows, int]:
    """Each example of `order` (int64 indices) exactly once, padded with -1; and how many steps."""
    steps = -(-len(order) // share.batch_size)
    padded = np.full(steps * share.batch_size, -1, np.int64)
    padded[: len(order)] = order

    def rows(step: int) -> np.ndarray:
        index = padded[step * share.batch_size : (step + 1) * share.batch_size][share.rows()]
        return np.stack([index, np.zeros_like(index)], axis=1)

    return rows, steps


class Damage:
    """The images that could not be read, by name, and how many of them are put up with."""

    def __init__(self, limit: int = 0) -> None:
        self.limit = limit
        self.reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Note one; a ValueError that names them all if they are too many."""
        self.reasons[name] = reason
        logger.warning('damaged image %d: %s (%s)', len(self.reasons), name, reason)
        if len(self.reasons) > self.limit:
            listed = '\n'.join(f'  {name}: {reason}' for name, reason in self.reasons.items())
            raise ValueError(
                f'{len(self.reasons)} damaged image(s), more than config.data.max_damaged='
                f'{self.limit}:\n{listed}\nRepair or remove them, or raise config.data.max_damaged '
                'to train with them masked out.'
            )


def batches(
    source: Source,
    operation: Operation,
    rows: Rows,
    start: int,
    stop: int,
    *,
    mean: tuple[float, ...],
    damage: Damage,
) -> Iterator[Batch]:
    """This process's batches of steps start..stop-1, as NumPy arrays.

    A batch that cannot be read is looked at image by image; the damaged ones are noted in `damage`
    and masked out, and reading goes on at the same step.
    """
    damaged: set[int] = set()
    step = start
    while step < stop:
        dataset = _dataset(source, operation, rows, step, stop, mean=mean, damaged=damaged)
        try:
            for batch in dataset.as_numpy_iterator():
                yield batch
                step += 1
        except tensorflow().errors.OpError as error:
            found = _examine(source, [i for i in rows(step)[:, 0].tolist() if i not in damaged])
            if not found:
                message = str(error.message).split('[[')[0].replace('{{', '').strip()
                raise ValueError(f'the pipeline failed at step {step}: {message}') from error
            for index, reason in found.items():
                damage.add(source.name(index), reason)
            damaged |= set(found)


def _dataset(
    source: Source,
    operation: Operation,
    rows: Rows,
    start: int,
    stop: int,
    *,
    mean: tuple[float, ...],
    damaged: set[int],
) -> Any:
    tf = tensorflow()
    shape = (*output_extent(source, operation), source.channels)
    blank = np.broadcast_to(np.round(255 * np.array(mean)).astype(np.uint8), shape)
    labels = tf.constant(source.labels)
    unreadable = tf.constant(sorted(damaged), tf.int64)
    local = len(rows(start))

    def example(row: Any) -> dict[str, Any]:
        index, word = row[0], row[1]
        real = (index >= 0) & ~tf.reduce_any(index == unreadable)
        key = tf.stack([word, index * OPERATIONS_APART])
        image = tf.cond(
            real,
            lambda: tf.ensure_shape(operation.apply(source.read(index), Draw(key)), shape),
            lambda: tf.constant(blank),
        )
        return {
            'image': image,
            'label': tf.gather(labels, tf.maximum(index, 0)),
            'mask': tf.cast(real, tf.float32),
        }

    dataset = tf.data.Dataset.from_generator(
        lambda: map(rows, range(start, stop)),
        output_signature=tf.TensorSpec((local, 2), tf.int64),
    )
    options = tf.data.Options()
    options.deterministic = True
    return (
        dataset.unbatch()
        .map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(local, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
        .with_options(options)
    )


def output_extent(source: Source, operation: Operation) -> tuple[int, int]:
    """(height, width) of what `operation` makes of `source`; a ValueError if images differ."""
    extent = operation.extent(source.extent)
    if extent is None:
        raise ValueError(
            'images of different sizes cannot form a batch: let config.augment and '
            'config.evaluate.preprocess contain random_resized_crop, center_crop or pad_and_crop'
        )
    return extent


def _examine(source: Source, indices: list[int]) -> dict[int, str]:
    """Read and decode the examples one by one: {index: reason} of those that fail."""
    found = {}
    for index in indices:
        if index < 0:
            continue
        try:
            decode.pixels(source.read(tensorflow().constant(index)))
        except tensorflow().errors.OpError as error:
            reason = str(error.message).split('[[')[0].split('[Op:')[0]
            found[index] = reason.partition('}}')[2].strip() or reason.strip()
    return found

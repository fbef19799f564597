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
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from jcls.data import decode
from jcls.data.examples import Source
from jcls.data.operation import MOST, Draw, Operation
from jcls.data.runtime import tensorflow

logger = logging.getLogger(__name__)

Batch = dict[str, np.ndarray]  # image uint8 [b, H, W, C], label int32 [b], mask float32 [b]
Rows = Callable[[int], np.ndarray]  # step -> int64 [b, 2]: index (-1: padding), random word


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
        self._suspects: dict[int, set[int]] = {}

    def suspects(self, source: Source) -> set[int]:
        """The indices of the images of `source` that are read under guard from now on."""
        return self._suspects.setdefault(id(source), set())

    def add(self, name: str, reason: str) -> None:
        """Note one; a ValueError that names them all if they are too many."""
        if name not in self.reasons:
            self.reasons[name] = reason
            logger.warning('damaged image %d: %s (%s)', len(self.reasons), name, reason)
        if len(self.reasons) > self.limit:
            listed = '\n'.join(f'  {name}: {reason}' for name, reason in self.reasons.items())
            raise ValueError(
                f'{len(self.reasons)} damaged image(s), more than config.data.max_damaged='
                f'{self.limit}:\n{listed}\nRaise config.data.max_damaged to train with them masked '
                'out. Or repair or remove them; without them it is another run, in another workdir.'
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

    TensorFlow ends a pipeline at the first image that it cannot read. The batch is then looked at
    image by image, the culprits are noted in `damage`, and reading goes on at the same step with
    these *suspects* read under guard from then on. Being a suspect changes no result: whether an
    image is masked depends on the image and its own crop alone, as it must for an exact resume.
    """
    extent = output_extent(source, operation)
    blank = np.broadcast_to(
        np.round(255 * np.array(mean)).astype(np.uint8), (*extent, source.channels)
    )
    suspects = damage.suspects(source)
    step = start
    while step < stop:
        dataset = _dataset(source, operation, rows, range(step, stop), blank, suspects)
        try:
            for batch in dataset.as_numpy_iterator():
                yield batch
                step += 1
        except tensorflow().errors.OpError as error:
            found = _failing(source, operation, rows(step), suspects, blank[0, 0])
            if not found:
                message = f'the pipeline failed at step {step}: {_reason(error)}'
                raise ValueError(message) from error
            for index, reason in found.items():
                damage.add(source.name(index), reason)
                suspects.add(index)


def _dataset(
    source: Source,
    operation: Operation,
    rows: Rows,
    steps: range,
    blank: np.ndarray,
    suspects: set[int],
) -> Any:
    """The tf.data pipeline of these steps; `blank` stands in for what is padding or damaged."""
    tf = tensorflow()
    guarded = tf.constant(sorted(suspects), tf.int64)
    local = len(rows(steps.start))

    def augmented(row: Any) -> Any:
        image, label = source.read(row[0])
        return (
            tf.ensure_shape(operation.apply(image, _draw(row, blank[0, 0])), blank.shape),
            label,
            True,
        )

    def padding() -> Any:
        return tf.constant(blank), 0, False

    def under_guard(row: Any) -> Any:
        def attempt(row: Any) -> Any:
            label: Any = 0
            try:
                image, label = source.read(row[0])
                return (
                    tf.ensure_shape(operation.apply(image, _draw(row, blank[0, 0])), blank.shape),
                    label,
                    True,
                )
            except tf.errors.OpError:
                return blank, label, False

        types = (tf.uint8, tf.int32, tf.bool)
        image, label, real = tf.py_function(attempt, [row], types)
        shaped = tf.ensure_shape(image, blank.shape)
        return shaped, tf.ensure_shape(label, []), tf.ensure_shape(real, [])

    def example(row: Any) -> dict[str, Any]:
        index = row[0]
        suspect = tf.reduce_any(index == guarded)
        image, label, real = tf.case(
            [(index < 0, padding), (suspect, lambda: under_guard(row))],
            default=lambda: augmented(row),
        )
        return {'image': image, 'label': label, 'mask': tf.cast(real, tf.float32)}

    dataset = tf.data.Dataset.from_generator(
        lambda: map(rows, steps), output_signature=tf.TensorSpec((local, 2), tf.int64)
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


def _draw(row: Any, mean: np.ndarray) -> Draw:
    """The random numbers of the example of a row [index, word]; `mean` is the mean colour."""
    return Draw(tensorflow().stack([row[1], row[0] * MOST]), mean)


def _failing(
    source: Source, operation: Operation, rows: np.ndarray, suspects: set[int], mean: np.ndarray
) -> dict[int, str]:
    """Read and augment the examples of a batch one by one: {index: reason} of the damaged ones.

    An operation that fails on an image that can be read is an error of the config, not damage.
    """
    found = {}
    for row in rows:
        index = int(row[0])
        if index >= 0 and index not in suspects:
            try:
                read = source.read(tensorflow().constant(index))
                operation.apply(read[0], _draw(tensorflow().constant(row), mean))
            except tensorflow().errors.OpError:
                try:
                    decode.pixels(source.read(tensorflow().constant(index))[0])
                except tensorflow().errors.OpError as error:
                    found[index] = _reason(error)
    return found


def _reason(error: Any) -> str:
    """TensorFlow's message without the names of its nodes."""
    message = re.sub(r'\{\{.*?\}\}|\[Op:.*?\]|\[\[.*', '', str(error.message), flags=re.DOTALL)
    return message.strip().split('\n')[0]


def output_extent(source: Source, operation: Operation) -> tuple[int, int]:
    """(height, width) of what `operation` makes of `source`; a ValueError if images differ."""
    extent = operation.extent(source.extent)
    if extent is None:
        raise ValueError(
            'images of different sizes cannot form a batch: let config.augment and '
            'config.evaluate.preprocess contain random_resized_crop, center_crop or pad_and_crop'
        )
    return extent

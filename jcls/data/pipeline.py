"""From a source to batches: reading, augmentation, mixing, padding and masks.

Which examples a step sees is `jcls.data.order`'s. There is no iterator state: a pipeline starts
anywhere at once, so a resumed run sees exactly what an uninterrupted one would. A damaged image
keeps its place in the batch as the mean colour with mask 0.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jcls.data import decode
from jcls.data.examples import Source
from jcls.data.mix import Mix
from jcls.data.operation import MOST, Draw, Operation
from jcls.data.order import Rows
from jcls.data.runtime import tensorflow

logger = logging.getLogger(__name__)

# image uint8 [b, H, W, C], label int32 [b], mask float32 [b]; mixed: label2 int32, lam float32 [b]
Batch = dict[str, np.ndarray]


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
    mix: Mix | None = None,
    groups: range = range(0),
) -> Iterator[Batch]:
    """This process's batches of steps start..stop-1, as NumPy arrays.

    With `mix`, `groups` are the numbers of the groups of its examples in a global batch.

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
    unreadable = tensorflow().errors.OpError
    group = len(rows(start)) if mix is None else mix.size
    step = start
    while step < stop:
        dataset = _dataset(source, operation, rows, range(step, stop), blank, suspects, group)
        if mix is not None:
            dataset = _mixed(dataset, mix, groups, range(step, stop))
        try:
            for batch in _elements(dataset.prefetch(tensorflow().data.AUTOTUNE), stop - step):
                yield batch
                step += 1
        except unreadable as error:
            found = _failing(source, operation, rows(step), suspects, blank[0, 0])
            if not found:
                message = f'the pipeline failed at step {step}: {_reason(error)}'
                raise ValueError(message) from error
            for index, reason in found.items():
                damage.add(source.name(index), reason)
                suspects.add(index)


def _elements(dataset: Any, count: int) -> Iterator[Batch]:
    """The first `count` elements of a dataset."""
    held = [dataset.as_numpy_iterator()]
    elements = (next(held[0]) for _ in range(count))
    # A dataset at work that is only destroyed when Python has ended waits for Python forever; this
    # destroys it before.
    weakref.finalize(elements, held.clear)
    return elements


def _dataset(
    source: Source,
    operation: Operation,
    rows: Rows,
    steps: range,
    blank: np.ndarray,
    suspects: set[int],
    group: int,
) -> Any:
    """The examples of these steps in groups; `blank` stands in for what is padding or damaged."""
    tf = tensorflow()
    guarded = tf.constant(sorted(suspects), tf.int64)
    local = len(rows(steps.start))

    def pixels(image: Any, row: Any) -> Any:
        return tf.ensure_shape(operation.apply(image, _draw(row, blank[0, 0])), blank.shape)

    def augmented(row: Any) -> Any:
        image, label = _read(source, row[0])
        return pixels(image, row), label, True

    def padding() -> Any:
        return tf.constant(blank), 0, False

    def under_guard(row: Any) -> Any:
        def attempt(row: Any) -> Any:
            label: Any = 0
            try:
                image, label = _read(source, row[0])
                return pixels(image, row), label, True
            except tf.errors.OpError:
                return blank, label, False

        types = (tf.uint8, tf.int32, tf.bool)
        image, label, real = tf.py_function(attempt, [row], types)
        shaped = tf.ensure_shape(image, blank.shape)
        return shaped, tf.ensure_shape(label, []), tf.ensure_shape(real, [])

    def example(drawn: dict[str, Any]) -> dict[str, Any]:
        row = drawn['row']
        index = row[0]
        suspect = tf.reduce_any(index == guarded)
        image, label, real = tf.case(
            [(index < 0, padding), (suspect, lambda: under_guard(row))],
            default=lambda: augmented(row),
        )
        return {'image': image, 'label': label, 'mask': tf.cast(real, tf.float32)}

    dataset = _each_step(
        steps, lambda step: {'row': rows(step)}, {'row': tf.TensorSpec((local, 2), tf.int64)}
    )
    options = tf.data.Options()
    options.deterministic = True
    return (
        dataset.map(example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(group, drop_remainder=True)
        .with_options(options)
    )


def _each_step(
    steps: range, compute: Callable[[int], dict[str, np.ndarray]], signature: dict[str, Any]
) -> Any:
    """A dataset of the elements of the arrays that `compute` returns for each step, in order.

    Not `Dataset.from_generator`: that sets malloc's thresholds back, see `jcls.data.runtime`.
    """
    tf = tensorflow()

    def arrays(step: Any) -> dict[str, Any]:
        types = [spec.dtype for spec in signature.values()]
        found = tf.numpy_function(lambda step: [*compute(int(step)).values()], [step], types)
        return {
            key: tf.ensure_shape(array, spec.shape)
            for array, (key, spec) in zip(found, signature.items(), strict=True)
        }

    return tf.data.Dataset.range(steps.start, steps.stop).map(arrays).unbatch()


def _mixed(dataset: Any, mix: Mix, groups: range, steps: range) -> Any:
    """Mix each group of a dataset of groups, and put them together to this process's batches."""
    tf = tensorflow()
    spec = dataset.element_spec
    height, width = spec['image'].shape[1:3]

    def draws(step: int) -> dict[str, np.ndarray]:
        drawn = [mix.draw(step, group, height, width) for group in groups]
        return {key: np.stack([d[key] for d in drawn]) for key in drawn[0]}

    signature = {
        'lam': tf.TensorSpec([len(groups), mix.size], tf.float32),
        'box': tf.TensorSpec([len(groups), mix.size, 4], tf.int32),
    }
    drawn = _each_step(steps, draws, signature)
    mixed = tf.data.Dataset.zip(dataset, drawn).map(
        mix.program, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True
    )
    if len(groups) == 1:
        return mixed
    return mixed.batch(len(groups), drop_remainder=True).map(
        lambda parts: {key: tf.reshape(v, [-1, *v.shape[2:]]) for key, v in parts.items()}
    )


def _read(source: Source, index: Any) -> tuple[Any, Any]:
    """An image of a source and its label; decoded where all have one size.

    That size is then known before the first operation, as it is where images are in memory.
    """
    image, label = source.read(index)
    if source.extent is not None and decode.is_encoded(image):
        image = tensorflow().ensure_shape(decode.pixels(image), [*source.extent, source.channels])
    return image, label


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
                image, _ = _read(source, tensorflow().constant(index))
                operation.apply(image, _draw(tensorflow().constant(row), mean))
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

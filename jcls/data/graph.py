"""The tf.data graph of a pipeline: reading and the head of a chain example by example, its tail on
chunks of them, mixing on groups. What it makes depends on its arguments alone; see
`jcls.data.pipeline`, which guards it against damaged images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from jcls.data import decode
from jcls.data.augment.chain import Chain
from jcls.data.augment.operation import MOST, Draw, Extent
from jcls.data.mix import Mix
from jcls.data.sampler import Rows
from jcls.data.sources.source import Source
from jcls.host.machine import cores
from jcls.host.tensorflow import tf

CHUNK = 32  # images that go through the tail of a chain together, more or less


def create(
    source: Source,
    chain: Chain,
    rows: Rows,
    steps: range,
    *,
    mean: np.ndarray,
    guarded: Iterable[int],
    mix: Mix | None,
    groups: range,
) -> Any:
    """The batches of these steps: image uint8 [b, H, W, C], label int32 [b], mask float32 [b].

    With `mix` also label2 int32 [b] and lam float32 [b].

    Args:
      source: of the examples.
      chain: of operations on each.
      rows: which examples a step sees, [index, word] int64 [b, 2]; an index below 0 is padding.
      steps: of the run.
      mean: uint8 [C], the colour of padding and of images that cannot be read.
      guarded: indices of images that may not be readable; one that is not gets mask 0.
      mix: how groups of examples are mixed, None: not at all.
      groups: the numbers of this process's groups in a global batch.
    """
    head, extent, tail = chain.split(source.extent)
    local = len(rows(steps.start))
    group = local if mix is None else mix.size
    shape = (*one_size(extent), source.channels)
    still = tf.autograph.experimental.do_not_convert  # it would wrap our messages in its own
    example = _reader(source, head, shape, mean, sorted(guarded))
    drawn = _each_step(
        steps, lambda step: {'row': rows(step)}, {'row': tf.TensorSpec((local, 2), tf.int64)}
    )
    options = tf.data.Options()
    options.deterministic = True
    # TensorFlow's own search for the number of parallel calls settles on too few: two cores were
    # 1.75 times as fast as one, and are 1.9 times so with these numbers.
    options.autotune.enabled = False
    dataset = drawn.map(still(example), num_parallel_calls=4 * cores()).with_options(options)
    if tail is None:
        dataset = dataset.map(_without_key).batch(group, drop_remainder=True)
    else:
        chunk = _chunk(group)

        def finish(batch: dict[str, Any]) -> dict[str, Any]:
            image, real = tail(batch['image'], batch['key'], mean), batch['mask'] > 0
            image = tf.cond(
                tf.reduce_all(real),
                lambda: image,
                lambda: tf.where(real[:, None, None, None], image, mean),
            )
            return _without_key({**batch, 'image': image})

        dataset = dataset.batch(chunk, drop_remainder=True)
        dataset = dataset.map(still(finish), num_parallel_calls=cores())
        dataset = _joined(dataset, group // chunk)
    if mix is not None:
        dataset = _joined(_mixed(dataset, mix, groups, steps), len(groups))
    return dataset.prefetch(2)


def one_size(extent: Extent) -> tuple[int, int]:
    """The (height, width) of all images; a ValueError if they differ."""
    if extent is None:
        raise ValueError(
            'images of different sizes cannot form a batch: let config.augment and '
            'config.evaluate.preprocess contain random_resized_crop, center_crop or pad_and_crop'
        )
    return extent


def _reader(
    source: Source, head: Any, shape: tuple[int, ...], mean: np.ndarray, guarded: list[int]
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """From a row [index, word] to an example whose image has gone through the head."""
    blank = np.broadcast_to(mean, shape)

    def read(row: Any) -> tuple[Any, Any, Any]:
        image, label = load(source, row[0])
        return tf.ensure_shape(head(image, draw(row, mean)), shape), label, True

    def padding() -> tuple[Any, Any, Any]:
        return tf.constant(blank), 0, False

    def under_guard(row: Any) -> tuple[Any, Any, Any]:
        def attempt(row: Any) -> Any:
            label: Any = 0
            try:
                image, label = load(source, row[0])
                return tf.ensure_shape(head(image, draw(row, mean)), shape), label, True
            except tf.errors.OpError:
                return blank, label, False

        image, label, real = tf.py_function(attempt, [row], (tf.uint8, tf.int32, tf.bool))
        shaped = tf.ensure_shape(image, shape)
        return shaped, tf.ensure_shape(label, []), tf.ensure_shape(real, [])

    def example(drawn: dict[str, Any]) -> dict[str, Any]:
        row = drawn['row']
        image, label, real = tf.case(
            [
                (row[0] < 0, padding),
                (tf.reduce_any(row[0] == tf.constant(guarded, tf.int64)), lambda: under_guard(row)),
            ],
            default=lambda: read(row),
        )
        mask = tf.cast(real, tf.float32)
        return {'image': image, 'label': label, 'mask': mask, 'key': draw(row, mean).key}

    return example


def load(source: Source, index: Any) -> tuple[Any, Any]:
    """An image of a source and its label; decoded where all have one size.

    That size is then known before the first operation, as it is where images are in memory.
    """
    image, label = source.read(index)
    if source.extent is not None:
        image = tf.ensure_shape(decode.pixels(image), [*source.extent, source.channels])
    return image, label


def draw(row: Any, mean: np.ndarray) -> Draw:
    """The random numbers of the example of a row [index, word]; `mean` is the mean colour."""
    return Draw(tf.stack([row[1], row[0] * MOST]), mean)


def _without_key(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in batch.items() if name != 'key'}


def _chunk(group: int) -> int:
    """The divisor of `group` that is nearest to `CHUNK`, as a ratio."""
    divisors = [n for n in range(1, group + 1) if group % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / CHUNK)))


def _joined(dataset: Any, count: int) -> Any:
    """Every `count` batches as one."""
    if count == 1:
        return dataset
    return dataset.batch(count, drop_remainder=True).map(
        lambda parts: {key: tf.reshape(v, [-1, *v.shape[2:]]) for key, v in parts.items()}
    )


def _mixed(dataset: Any, mix: Mix, groups: range, steps: range) -> Any:
    """Each group of a dataset of groups, mixed."""
    height, width = dataset.element_spec['image'].shape[1:3]

    def draws(step: int) -> dict[str, np.ndarray]:
        drawn = [mix.draw(step, group, height, width) for group in groups]
        return {key: np.stack([d[key] for d in drawn]) for key in drawn[0]}

    signature = {
        'lam': tf.TensorSpec([len(groups), mix.size], tf.float32),
        'box': tf.TensorSpec([len(groups), mix.size, 4], tf.int32),
    }
    drawn = _each_step(steps, draws, signature)
    return tf.data.Dataset.zip(dataset, drawn).map(
        mix.program, num_parallel_calls=cores(), deterministic=True
    )


def _each_step(
    steps: range, compute: Callable[[int], dict[str, np.ndarray]], signature: dict[str, Any]
) -> Any:
    """A dataset of the elements of the arrays that `compute` returns for each step, in order.

    Not `Dataset.from_generator`: that sets malloc's thresholds back, see `jcls.host.tensorflow`.
    """

    def arrays(step: Any) -> dict[str, Any]:
        types = [spec.dtype for spec in signature.values()]
        found = tf.numpy_function(lambda step: [*compute(int(step)).values()], [step], types)
        return {
            key: tf.ensure_shape(array, spec.shape)
            for array, (key, spec) in zip(found, signature.items(), strict=True)
        }

    return tf.data.Dataset.range(steps.start, steps.stop).map(arrays).unbatch()

"""The tf.data graph of a pipeline.

Each example is read and goes through the head of the chain; chunks of examples go through its tail;
groups of them are mixed. The batches depend on the arguments alone. `jcls.data.pipeline` guards the
graph against damaged images.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jcls.data import decode
from jcls.data.augment.chain import Chain
from jcls.data.augment.operation import MOST, Rng, Size
from jcls.data.mix import Mix
from jcls.data.sampler import Sampler
from jcls.data.sources.source import Source
from jcls.host.machine import cores
from jcls.host.tensorflow import tf

CHUNK = 32  # how many images go through the tail of a chain together, about


def create(
    source: Source,
    chain: Chain,
    sampler: Sampler,
    steps: range,
    *,
    mean: np.ndarray,
    tolerant: bool,
    mix: Mix | None,
    groups: range,
) -> Any:
    """The batches of these steps: image uint8 [b, H, W, C], label int32 [b], mask float32 [b].

    With `mix` also label2 int32 [b] and lam float32 [b].

    Args:
      source: where the examples are read from.
      chain: the operations on each example.
      sampler: which examples a step sees; an index below 0 is padding.
      steps: the steps to make batches for.
      mean: uint8 [C], the colour of padding and of examples that cannot be read.
      tolerant: whether an example that cannot be read gets mask 0; else it ends the dataset.
      mix: how groups of examples are mixed; None not to mix.
      groups: the numbers of this process's groups in a global batch.
    """
    head, size, tail = chain.split(source.image_size)
    local = len(sampler(steps.start).indices)
    group = local if mix is None else mix.size
    shape = (*one_size(size), source.channels)
    no_autograph = tf.autograph.experimental.do_not_convert  # it would wrap our messages in its own
    read = _reader(source, head, shape, mean)
    each = tf.TensorSpec((local,), tf.int64)
    examples = _each_step(
        steps,
        lambda step: dict(zip(('index', 'seed'), sampler(step), strict=True)),
        {'index': each, 'seed': each},
    )
    options = tf.data.Options()
    options.deterministic = True
    # TensorFlow's own search settles on too few parallel calls: with it, two cores were 1.75 times
    # as fast as one; with the numbers below they are 1.9 times as fast.
    options.autotune.enabled = False
    if tolerant:

        def numbered(place: Any, which: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return place, read(which)

        dataset = examples.enumerate().map(no_autograph(numbered), num_parallel_calls=4 * cores())
        dataset = _without_gaps(dataset.ignore_errors(), len(steps) * local, mean)
    else:
        dataset = examples.map(no_autograph(read), num_parallel_calls=4 * cores())
    dataset = dataset.with_options(options)
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
        dataset = dataset.map(no_autograph(finish), num_parallel_calls=cores())
        dataset = _joined(dataset, group // chunk)
    if mix is not None:
        dataset = _joined(_mixed(dataset, mix, groups, steps), len(groups))
    return dataset.prefetch(2)


def one_size(size: Size) -> tuple[int, int]:
    """The (height, width) of all images; a ValueError if they differ."""
    if size is None:
        raise ValueError(
            'images of different sizes cannot form a batch: let config.augment and '
            'config.evaluate.preprocess contain random_resized_crop, center_crop or pad_and_crop'
        )
    return size


def _reader(
    source: Source, head: Any, shape: tuple[int, ...], mean: np.ndarray
) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function from an index and a seed to an example, its image as the head left it."""
    blank = np.broadcast_to(mean, shape)

    def example(which: dict[str, Any]) -> dict[str, Any]:
        index, rng = which['index'], example_rng(which['index'], which['seed'], mean)

        def padding() -> tuple[Any, Any, Any]:
            return tf.constant(blank), 0, 0.0

        def read() -> tuple[Any, Any, Any]:
            image, label = load(source, index)
            return tf.ensure_shape(head(image, rng), shape), label, 1.0

        image, label, mask = tf.cond(index < 0, padding, read)
        return {'image': image, 'label': label, 'mask': mask, 'key': rng.key}

    return example


def _without_gaps(dataset: Any, count: int, mean: np.ndarray) -> Any:
    """Of (place, example), `count` examples: one of mask 0 at each place that lacks.

    TensorFlow has no other way to go on after an error without reading anything again.
    """
    spec = dataset.element_spec[1]
    blank = {name: tf.zeros(part.shape, part.dtype) for name, part in spec.items()}
    blank['image'] += mean
    end = tf.data.Dataset.from_tensors((tf.constant(count, tf.int64), blank))

    def fill(expected: Any, element: tuple[Any, dict[str, Any]]) -> tuple[Any, dict[str, Any]]:
        place, example = element
        lacking, here = place - expected, tf.cast(place < count, tf.int64)
        filled = {
            name: tf.concat([tf.repeat(blank[name][None], lacking, 0), part[None][:here]], 0)
            for name, part in example.items()
        }
        return place + 1, filled

    first = tf.constant(0, tf.int64)
    fill = tf.autograph.experimental.do_not_convert(fill)
    return dataset.concatenate(end).scan(first, fill).unbatch()


def load(source: Source, index: Any) -> tuple[Any, Any]:
    """An image of a source and its label.

    The image is decoded if all images of the source have one size: the first operation then knows
    it, as it does where images are in memory.
    """
    image, label = source.read(index)
    if source.image_size is not None:
        image = tf.ensure_shape(decode.pixels(image), [*source.image_size, source.channels])
    return image, label


def example_rng(index: Any, seed: Any, mean: np.ndarray) -> Rng:
    """The random numbers of an example by index and seed, int64 scalars; `mean` is uint8 [C]."""
    return Rng(tf.stack([seed, index * MOST]), mean)


def _without_key(batch: dict[str, Any]) -> dict[str, Any]:
    return {name: array for name, array in batch.items() if name != 'key'}


def _chunk(group: int) -> int:
    """The divisor of `group` whose ratio to `CHUNK` is nearest to 1."""
    divisors = [n for n in range(1, group + 1) if group % n == 0]
    return min(divisors, key=lambda n: abs(math.log(n / CHUNK)))


def _joined(dataset: Any, count: int) -> Any:
    """The dataset with every `count` batches joined to one."""
    if count == 1:
        return dataset
    return dataset.batch(count, drop_remainder=True).map(
        lambda parts: {key: tf.reshape(v, [-1, *v.shape[2:]]) for key, v in parts.items()}
    )


def _mixed(dataset: Any, mix: Mix, groups: range, steps: range) -> Any:
    """The dataset with each of its groups mixed."""
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

    `Dataset.from_generator` would do the same, but resets malloc's thresholds, which
    `jcls.host.tensorflow` has set.
    """

    def arrays(step: Any) -> dict[str, Any]:
        types = [spec.dtype for spec in signature.values()]
        computed = tf.numpy_function(lambda step: [*compute(int(step)).values()], [step], types)
        return {
            key: tf.ensure_shape(array, spec.shape)
            for array, (key, spec) in zip(computed, signature.items(), strict=True)
        }

    return tf.data.Dataset.range(steps.start, steps.stop).map(arrays).unbatch()

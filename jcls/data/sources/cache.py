"""Examples kept in memory: as they are stored, or decoded.

Each host keeps every example, because its part of a batch comes from the whole data set. `cached`
logs at once how much memory that takes, and refuses what is too much; the examples are read when
the first one is needed.

Decoded images need no decoder any more. But they were decoded whole, so damage that some crops of a
JPEG would not see masks the image in every epoch.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from jcls.config.parts import choose
from jcls.data import decode
from jcls.data.sampler import epoch_order
from jcls.data.sources.source import Source
from jcls.host.machine import available_memory, cores
from jcls.host.tensorflow import tf
from jcls.host.terminal import progress

logger = logging.getLogger(__name__)

SAMPLE = 1024  # number of images to estimate the memory from
SHARE = 0.8  # share of the available memory that examples may take
OVERHEAD = 256  # bytes of a tensor, besides its content
AT_ONCE = 4  # examples that are read at the same time, for each core
CHUNK = 1024  # tensors in a short list, of which many make the long one
KINDS = {'none': 'nothing', 'encoded': 'the files', 'decoded': 'the pixels'}


def cached(sources: tuple[Source, Source], kind: str) -> tuple[Source, Source]:
    """The sources with their examples in memory; a source that is in memory already stays as it is.

    Args:
      sources: the sources for training and for validation.
      kind: 'none', 'encoded' (the bytes as stored) or 'decoded' (uint8 pixels).

    Raises:
      ValueError: if they would take more than `SHARE` of the memory that is available.
    """
    choose(KINDS, kind, 'config.data.cache')
    todo = {id(source): source for source in sources if not source.in_memory}
    if kind == 'none' or not todo:
        return sources
    need, free = sum(needed(source, kind) for source in todo.values()), available_memory()
    logger.info(
        'config.data.cache=%r will take about %s of the %s of memory available',
        kind,
        _size(need),
        'unknown amount' if free is None else _size(free),
    )
    if free is not None and need > SHARE * free:
        smaller = sum(needed(source, 'encoded') for source in todo.values())
        raise ValueError(
            f'config.data.cache={kind!r} takes about {_size(need)}, more than {SHARE:.0%} of the '
            f'{_size(free)} of memory that is available; '
            + (
                f"'encoded' would fit: it takes about {_size(smaller)}"
                if smaller <= SHARE * free
                else "only 'none' fits"
            )
        )
    in_memory = {key: _kept(source, kind) for key, source in todo.items()}
    train, val = (in_memory.get(id(source), source) for source in sources)
    return train, val


def needed(source: Source, kind: str) -> float:
    """Bytes that a source's examples take, 'encoded' or 'decoded', estimated from a sample.

    Of a JPEG only the header is read, not the pixels. Images that cannot be read are left out.
    """

    def size(index: Any) -> Any:
        image, _ = source.read(index)
        if kind == 'encoded' and decode.is_encoded(image):
            return tf.strings.length(image)
        height, width = decode.size(image)
        return height * width * source.channels

    rows = epoch_order(0, 0, len(source))[:SAMPLE]
    dataset = tf.data.Dataset.from_tensor_slices(rows).map(
        size, num_parallel_calls=AT_ONCE * cores()
    )
    sizes = list(dataset.ignore_errors().as_numpy_iterator())
    return float(np.mean(sizes or [0]) + OVERHEAD) * len(source)


def _size(count: float) -> str:
    return f'{count / 1e9:,.1f} GB' if count >= 1e9 else f'{count / 1e6:,.1f} MB'


def _kept(source: Source, kind: str) -> Source:
    """The source with its examples read into memory when the first of them is needed."""
    lock = threading.Lock()

    def original(index: Any) -> tuple[Any, Any]:
        image, label = source.read(index)
        return (decode.pixels(image) if kind == 'decoded' else image), label

    @functools.cache
    def store() -> Store:
        with tf.init_scope():
            return _load(original, source)

    def read(index: Any) -> tuple[Any, Any]:
        index = tf.cast(index, tf.int64)
        with lock:
            examples = store()

        def from_memory() -> tuple[Any, Any]:
            image = tf.raw_ops.TensorListGetItem(
                input_handle=examples.images, index=tf.cast(index, tf.int32), **examples.element
            )
            return image, tf.gather(examples.labels, index)

        # An example that could not be read is not kept, so it fails again, as without the cache.
        return tf.cond(
            tf.reduce_any(index == examples.damaged), lambda: original(index), from_memory
        )

    return dataclasses.replace(source, read=read, in_memory=True)


class Store(NamedTuple):
    """Examples in memory, as TensorFlow's tensors."""

    images: Any  # a variant tensor: a list of tensors, which gives them without a copy
    element: dict[str, Any]  # type and shape of the list's tensors
    labels: Any  # int32 [N]
    damaged: Any  # int64 [n]: the examples that could not be read


def _load(read: Callable[[Any], tuple[Any, Any]], source: Source) -> Store:
    """Read all examples of a source."""
    at_once = AT_ONCE * cores()
    dataset = tf.data.Dataset.range(len(source)).map(read, num_parallel_calls=at_once)
    dtype = dataset.element_spec[0].dtype
    shape = [] if dtype == tf.string else [-1, -1, source.channels]
    element = {'element_dtype': dtype, 'element_shape': tf.constant(shape, tf.int32)}
    nothing = tf.zeros([max(side, 0) for side in shape], tf.uint8)
    nothing = tf.constant('') if dtype == tf.string else nothing
    images, damaged = tf.raw_ops.EmptyTensorList(max_num_elements=-1, **element), []
    labels = np.zeros(len(source), np.int32)
    iterator = iter(dataset.prefetch(at_once))
    with progress(f'caching {source.name(0)}, ...', len(source)) as advance:
        for start in range(0, len(source), CHUNK):
            part = tf.raw_ops.EmptyTensorList(max_num_elements=-1, **element)
            rows = range(start, min(start + CHUNK, len(source)))
            for row in rows:
                try:
                    image, label = next(iterator)
                    labels[row] = label
                except tf.errors.OpError:  # this example cannot be read; the iterator goes on
                    image = nothing
                    damaged.append(row)
                part = tf.raw_ops.TensorListPushBack(input_handle=part, tensor=image)
            images = tf.raw_ops.TensorListConcatLists(
                input_a=images, input_b=part, element_dtype=dtype
            )
            advance(len(rows))
    return Store(images, element, tf.constant(labels), tf.constant(damaged, tf.int64))

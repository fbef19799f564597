"""ARRAY_RECORD shards (https://github.com/google/array_record), which contain an index."""

from __future__ import annotations

import bisect
import itertools
import logging
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jcls.data.sources.source import Source
from jcls.data.sources.tf_example import Layout
from jcls.host.cache import fingerprint, remembered
from jcls.host.machine import cores
from jcls.host.tensorflow import tf
from jcls.host.terminal import progress

logger = logging.getLogger(__name__)

SPARE_FILES = 512  # files that a run may have open besides its shards


class Part(NamedTuple):
    """Consecutive records of a shard."""

    file: str
    first: int
    examples: int
    total: int  # number of records in the shard


def array_source(parts: Sequence[Part], layout: Layout, classes: tuple[str, ...]) -> Source:
    """A source of these parts of shards, in their order; the layout of the first record is checked.

    All labels at once cost one pass over the records; they are cached until the shards change.
    """
    try:
        from array_record.python import array_record_data_source as array_record
    except ImportError as error:
        raise ValueError(
            f'{parts[0].file} cannot be read: the package array_record is missing ({error}); '
            "`pip install array_record`, or prepare the data with file_format='tfrecord'"
        ) from None

    files = sorted({part.file for part in parts})
    marks = fingerprint(files)
    allow_open_files(len(files))
    # The reader takes 'file[first:end]' and keeps each shard open after its first use.
    records = array_record.ArrayRecordDataSource(
        [f'{part.file}[{part.first}:{part.first + part.examples}]' for part in parts]
    )
    firsts = list(itertools.accumulate((part.examples for part in parts), initial=0))

    def name(row: int) -> str:
        which = bisect.bisect_right(firsts, row) - 1
        return f'{parts[which].file}[{parts[which].first + row - firsts[which]}]'

    def fetch(row: Any) -> bytes:
        # Not an array of bytes: numpy_function never frees the elements of such an array.
        try:
            return records[int(row)]
        except (OSError, RuntimeError, ValueError, IndexError) as error:
            raise tf.errors.DataLossError(None, None, f'{name(int(row))}: {error}') from None

    def record(row: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(fetch, [row], tf.string, stateful=False), [])

    def labels() -> np.ndarray:
        return _labels(record, layout, firsts[-1], name)

    try:
        layout.check(records[0], name(0))
    except (OSError, RuntimeError) as error:
        raise ValueError(f'cannot read {name(0)}: {error}') from None
    return Source(
        lambda index: layout.parse(record(index), index, name),
        firsts[-1],
        classes,
        lambda: remembered('labels', [marks, parts, layout], labels),
        name,
        in_records=True,
    )


def _labels(
    record: Callable[[Any], Any], layout: Layout, examples: int, name: Callable[[int], str]
) -> np.ndarray:
    """All labels, int64 [N], by a pass over the records."""

    def label(index: Any) -> Any:
        feature = {layout.label: tf.io.FixedLenFeature([], tf.int64)}
        return tf.io.parse_single_example(record(index), feature)[layout.label] - layout.offset

    dataset = tf.data.Dataset.range(examples).map(label, num_parallel_calls=cores())
    batches: list[np.ndarray] = []
    with progress('reading all labels, once', examples) as advance:
        try:
            for batch in dataset.batch(64).prefetch(2).as_numpy_iterator():
                batches.append(batch)
                advance(len(batch))
        except tf.errors.OpError as error:
            raise ValueError(f'cannot read all labels: {error.message}') from None
    labels = np.concatenate(batches)
    for wrong in np.flatnonzero((labels < 0) | (labels >= layout.classes))[:1]:
        layout.check_label(labels[wrong], name(int(wrong)))
    return labels


def allow_open_files(count: int) -> None:
    """Let this process have `count` + `SPARE_FILES` files open, as far as the system allows.

    Raises:
      ValueError: if the system does not allow enough.
    """
    try:
        import resource
    except ImportError:  # Windows has no such module
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + SPARE_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ValueError(
            f'{count} shards are to be open at once, but the system allows {hard} open files; '
            f'`ulimit -Hn {needed}` as root raises that, or prepare the data in fewer shards'
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    logger.info('raised the limit of open files from %d to %d', soft, needed)

"""Writing the dataset, shard by shard, through TFDS's own writer and metadata."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import (
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    as_completed,
)
from pathlib import Path
from typing import Any

from jcls.host import tensorflow
from jcls.host.tensorflow import tf
from jcls.tools.prepare.divide import Inspected, Shard
from jcls.tools.prepare.encode import encode
from jcls.tools.prepare.find import read
from jcls.tools.prepare.inspect import digest
from jcls.tools.prepare.job import VERSION

WRITERS = 8  # shards written at a time, at most; each compresses on one core


def features(classes: Sequence[str]) -> Any:
    """The TFDS features of the dataset."""
    tensorflow.load()  # before TFDS imports it: silent, and off the accelerators
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {
            'image': tfds.features.Image(doc='The bytes of the file, in its own encoding.'),
            'label': tfds.features.ClassLabel(names=list(classes)),
            'file_name': tfds.features.Text(doc='<class>/<file> in the source.'),
        }
    )


def write_shards(
    paths: Mapping[Path, Shard],
    made_of: Any,
    content: Callable[[Inspected], bytes],
    *,
    pool: Executor,
    workers: int,
    advance: Callable[[int], None],
) -> None:
    """Write shards, several at a time; a shard that has its final name is complete.

    Args:
      paths: paths of the files.
      made_of: the features, from `features`.
      content: function that reads, and perhaps encodes, an image.
      pool: pool of threads that call `content`.
      workers: number of threads in the pool.
      advance: function that any thread calls with the number of images it has just written.
    """
    writers = min(workers, WRITERS, len(paths))
    ahead = max(2, 4 * workers // max(writers, 1))
    stop = threading.Event()

    def write(path: Path, shard: Shard) -> None:
        contents = in_order(pool, content, shard.images, ahead)
        _write_shard(path, shard, made_of, contents, advance, stop)

    with ThreadPoolExecutor(max(writers, 1)) as threads:
        running = [threads.submit(write, path, shard) for path, shard in paths.items()]
        try:
            for future in as_completed(running):
                future.result()
        finally:
            stop.set()  # after an error or an interruption the others need not go on
            threads.shutdown(cancel_futures=True)


def _write_shard(
    path: Path,
    shard: Shard,
    made_of: Any,
    contents: Iterable[bytes],
    advance: Callable[[int], None],
    stop: threading.Event,
) -> None:
    from tensorflow_datasets.core.file_adapters import FileFormat
    from tensorflow_datasets.core.writer import ExampleWriter

    def examples() -> Iterator[tuple[int, bytes]]:
        for key, (image, content) in enumerate(zip(shard.images, contents, strict=True)):
            if stop.is_set():
                raise CancelledError
            name = os.fsencode(image.file.name)
            example = {'image': content, 'label': image.file.label, 'file_name': name}
            # Without this, protobuf writes features in another order in each process.
            record = tf.train.Example.FromString(made_of.serialize_example(example))
            yield key, record.SerializeToString(deterministic=True)
            advance(1)

    unfinished = path.with_name(f'unfinished.{path.name}')
    try:
        ExampleWriter(FileFormat.ARRAY_RECORD).write(os.fspath(unfinished), examples())
    except RuntimeError as error:  # an error of the writer, such as a full disk
        raise OSError(f'{error}; the same command goes on from here') from None
    if count(unfinished) != len(shard.images):
        raise OSError(f'{unfinished} was not written whole: is the disk in order?')
    with unfinished.open('rb') as file:
        os.fsync(file.fileno())
    unfinished.rename(path)


def content_of(image: Inspected, *, max_side: int, quality: int) -> bytes:
    """The bytes to write for an image; a ValueError if it has changed since it was inspected."""
    file = image.file
    try:
        content = read(file)
    except OSError as error:
        raise ValueError(f'{file.path} cannot be read any more: {error}') from None
    if digest(content) != image.info.digest:
        raise ValueError(
            f'{file.path} changed since it was inspected; leave the source alone and start again'
        )
    try:
        return encode(content, image.info, max_side=max_side, quality=quality)
    except Exception as error:
        raise ValueError(f'{file.path} cannot be encoded anew: {error}') from error


def in_order(
    pool: Executor, content: Callable[[Inspected], bytes], images: Iterable[Inspected], ahead: int
) -> Iterator[bytes]:
    """The contents from a pool, in order, at most `ahead` of them early, to save memory."""
    waiting: deque[Future[bytes]] = deque()
    try:
        for image in images:
            waiting.append(pool.submit(content, image))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def count(path: Path) -> int:
    """The number of examples in a shard; 0 if it is missing or damaged."""
    from tensorflow_datasets.core.file_adapters import ArrayRecordFileAdapter

    try:
        return int(ArrayRecordFileAdapter.num_examples(path))
    except (ValueError, OSError, RuntimeError):
        return 0


def write_metadata(folder: Path, shards: Sequence[Shard], made_of: Any, description: str) -> None:
    """Write the metadata that TFDS needs to read the shards of a folder."""
    import tensorflow_datasets as tfds

    infos = []
    for split in dict.fromkeys(shard.split for shard in shards):
        mine = [shard for shard in shards if shard.split == split]
        sizes = [path.stat().st_size for path in folder.glob(f'*-{split}.array_record-*')]
        lengths = [len(shard.images) for shard in mine]
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=lengths, num_bytes=sum(sizes)))
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=made_of,
        split_infos=infos,
        version=VERSION,
        check_data=False,  # it would read TFRECORD
        description=description,
        supervised_keys=('image', 'label'),
    )

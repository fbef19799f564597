"""Datasets prepared by TensorFlow Datasets (https://www.tensorflow.org/datasets), images as stored.

The description and the files are TFDS's; jcls's own readers read the shards at random access,
ARRAY_RECORD (recommended) and TFRECORD alike. Nothing is downloaded or prepared here.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from jcls.config.parts import suggest
from jcls.data.sources import tfrecord
from jcls.data.sources.arrayrecord import Part, array_source
from jcls.data.sources.elsewhere import elsewhere
from jcls.data.sources.source import Source
from jcls.data.sources.tf_example import Layout
from jcls.host import tensorflow
from jcls.host.disk import local

logger = logging.getLogger(__name__)


def tfds(
    *,
    dataset: str,
    dir: str | None = None,
    split: str = 'train',
    val_split: str | None = None,
    image_key: str | None = None,
    label_key: str | None = None,
) -> tuple[Source, Source]:
    """A dataset that TensorFlow Datasets has prepared.

    Args:
      dataset: 'name', 'name/config', 'name:1.2.3', or the folder of a prepared dataset, which
        contains dataset_info.json.
      dir: folder of TFDS's datasets; None for TFDS's default, ~/tensorflow_datasets.
      split: training split, or a part ('train[:90%]') or a sum ('train+validation').
      val_split: validation split; None for 'validation' or, if there is none, 'test'.
      image_key: feature with the image; None for the one that the dataset declares.
      label_key: feature with the class; None for the one that the dataset declares.
    """
    tensorflow.load()  # before TFDS imports it: silent, and off the accelerators
    info = find_builder(dataset, dir).info
    if val_split is None:
        val_split = next((name for name in ('validation', 'test') if name in info.splits), None)
        if val_split is None:
            raise ValueError(
                f'config.data.val_split: {info.full_name} has neither validation nor test, only '
                f"{_sizes(info)}; name another, or set a part aside: split='train[:90%]', "
                "val_split='train[90%:]'"
            )
        logger.info('%s evaluates on its split %r', info.full_name, val_split)
    layout, classes, image_size = describe(info, image_key, label_key)
    parts = [_parts(info, split, 'split'), _parts(info, val_split, 'val_split')]
    if _overlap(*parts):
        logger.warning('%s and %s of %s share examples', split, val_split, info.full_name)
    kind = info.file_format.value
    makers = {'array_record': array_source, 'tfrecord': _shard_parts}
    if kind not in makers:
        raise ValueError(
            f'{info.data_dir} is in format {kind!r}, which has no random access; prepare it again '
            "with file_format='array_record'"
        )
    train, val = (
        dataclasses.replace(makers[kind](part, layout, classes), image_size=image_size)
        for part in parts
    )
    return train, val


def find_builder(dataset: str, dir: str | None) -> Any:
    """The builder of a prepared dataset, by name or folder.

    Raises:
      ValueError: if it is unknown or not prepared; the error says how to prepare it.
    """
    import tensorflow_datasets

    folder = local(dataset)
    is_path = folder.is_absolute() or dataset.startswith(('.', '~'))
    if is_path or (folder / 'dataset_info.json').is_file():
        return _from_folder(folder, dataset)
    root = None if dir is None else str(local(dir))
    try:
        builder = tensorflow_datasets.builder(dataset, data_dir=root)
    except tensorflow_datasets.core.DatasetNotFoundError:
        known = tensorflow_datasets.list_builders(with_community_datasets=False)
        other = elsewhere(Path(root)) if root else ''
        raise ValueError(
            f'config.data.dataset={dataset!r}: TensorFlow Datasets knows no such dataset'
            f'{suggest(dataset, known)} ({len(known)} are listed at '
            'https://www.tensorflow.org/datasets/catalog); one of your own is given by the folder '
            f'with its dataset_info.json{other and f"; {other}"}'
        ) from None
    except (ValueError, AssertionError, ImportError) as error:
        raise ValueError(f'config.data.dataset={dataset!r}: {error}') from None
    if not builder.is_prepared() or not builder.info.splits:
        raise ValueError(_how_to_prepare(builder, dataset, root))
    return builder


def _from_folder(folder: Path, dataset: str) -> Any:
    """The builder of a prepared folder."""
    import tensorflow_datasets

    if not (folder / 'dataset_info.json').is_file():
        other = elsewhere(folder)
        raise ValueError(
            f'config.data.dataset={dataset!r}: the folder of a prepared dataset has a '
            f'dataset_info.json in it; this one has none{other and f"; {other}"}'
        )
    try:
        for name in ('dataset_info.json', 'features.json'):
            json.loads((folder / name).read_text())
        return tensorflow_datasets.builder_from_directory(str(folder))
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ValueError(f'config.data.dataset={dataset!r} is not readable: {error}') from None


def _how_to_prepare(builder: Any, dataset: str, root: str | None) -> str:
    """The error for a dataset that is not prepared, with the command that prepares it."""
    where = '' if root is None else f', data_dir={root!r}'
    code = (
        f'import tensorflow_datasets as tfds; tfds.builder({dataset!r}{where}, '
        "file_format='array_record').download_and_prepare()"
    )
    home = Path(builder.data_dir)
    lines = [f'config.data.dataset={dataset!r} is not prepared: {home} does not exist.']
    instructions = (getattr(builder, 'MANUAL_DOWNLOAD_INSTRUCTIONS', None) or '').split()
    if instructions:
        manual = home.parents[builder.info.full_name.count('/')] / 'downloads' / 'manual'
        lines += [
            f'Its files cannot be downloaded by a program. Put them into {manual}:',
            f'  {" ".join(instructions)}',
            'Then prepare it, once:',
        ]
    else:
        lines += ['Download and prepare it, once:']
    return '\n'.join(
        [
            *lines,
            f'  python -c "{code}"',
            f'That writes {home}. ARRAY_RECORD is the recommended format: its labels can be known '
            'beforehand, as folds and subsets need.',
            *([other] if root and (other := elsewhere(Path(root))) else []),
        ]
    )


def describe(
    info: Any, image_key: str | None, label_key: str | None
) -> tuple[Layout, tuple[str, ...], tuple[int, int] | None]:
    """The layout of a dataset's records, the names of its classes, and the size of its images."""
    import tensorflow_datasets

    features = tensorflow_datasets.features
    keys = info.supervised_keys if isinstance(info.supervised_keys, tuple) else (None, None)
    flat = _flat(info.features)
    known = ', '.join(f'{key} ({type(value).__name__})' for key, value in flat.items())

    def find(field: str, given: str | None, declared: Any, kind: type) -> str:
        fitting = [key for key, value in flat.items() if isinstance(value, kind)]
        if given is None and declared in fitting:
            return declared
        if given is None and len(fitting) == 1:
            return fitting[0]
        if given in fitting:
            return str(given)
        which = '' if given is None else f'={given!r}'
        raise ValueError(
            f'config.data.{field}{which}: must name one {kind.__name__} of {info.full_name}, which '
            f'has {known}'
        )

    image = find('image_key', image_key, keys[0], features.Image)
    label = find('label_key', label_key, keys[1], features.ClassLabel)
    if flat[image].np_dtype != np.uint8:
        raise ValueError(
            f'the images of {info.full_name} are {flat[image].np_dtype}; they must be uint8'
        )
    height, width = flat[image].shape[:2]
    classes = tuple(flat[label].names)
    image_size = None if None in (height, width) else (height, width)
    return Layout(image, label, 0, len(classes)), classes, image_size


def _flat(features: Any) -> dict[str, Any]:
    """The features by their keys in a record, 'a/b' for those of a dict in a dict."""
    flat: dict[str, Any] = {}
    for key, value in features.items():
        if isinstance(value, type(features)):
            flat |= {f'{key}/{inner}': feature for inner, feature in _flat(value).items()}
        else:
            flat[key] = value
    return flat


def _sizes(info: Any) -> str:
    return ', '.join(f'{key} ({value.num_examples:,})' for key, value in info.splits.items())


def _parts(info: Any, split: str, field: str) -> list[Part]:
    """The parts of shards that make up a split."""
    try:
        instructions = info.splits[split].file_instructions
    except (ValueError, KeyError, AssertionError) as error:
        reason = str(error).split('\n')[0]
        raise ValueError(
            f'config.data.{field}={split!r}: {reason} {info.full_name} has {_sizes(info)}'
        ) from None
    parts = [
        Part(os.fspath(f.filename), f.skip, f.take, f.examples_in_shard)
        for f in instructions
        if f.take
    ]
    if not parts:
        raise ValueError(
            f'config.data.{field}={split!r} is empty; {info.full_name} has {_sizes(info)}'
        )
    missing = [part.file for part in parts if not Path(part.file).is_file()]
    if missing:
        raise ValueError(
            f'{len(missing)} of the {len(parts)} shards of {split!r} are missing, such as '
            f'{missing[0]}; only files of this machine, or mounted, can be read'
        )
    return parts


def _shard_parts(parts: list[Part], layout: Layout, classes: tuple[str, ...]) -> Source:
    """The source of these parts of TFRECORD shards."""
    shards = list(dict.fromkeys(part.file for part in parts))
    table = tfrecord.index(shards)
    counts = np.bincount(table[:, 0], minlength=len(shards))
    firsts = dict(zip(shards, np.cumsum(counts) - counts, strict=True))
    record_counts = dict(zip(shards, counts, strict=True))
    for part in parts:
        if record_counts[part.file] != part.total:
            raise ValueError(
                f'{part.file} has {record_counts[part.file]} records, but its dataset_info.json '
                f'says {part.total}; prepare the dataset again'
            )
    rows = [firsts[part.file] + np.arange(part.first, part.first + part.examples) for part in parts]
    return tfrecord.shard_source(shards, table, layout, classes).select(np.concatenate(rows))


def _overlap(first: list[Part], second: list[Part]) -> bool:
    """Whether two splits have a record in common."""
    return any(
        a.file == b.file and a.first < b.first + b.examples and b.first < a.first + a.examples
        for a in first
        for b in second
    )

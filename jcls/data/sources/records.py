"""Sharded TFRECORDs in the layout that most ImageNet scripts write."""

from __future__ import annotations

import os
import re
from pathlib import Path

from jcls.data.sources import tfrecord
from jcls.data.sources.classes import class_names
from jcls.data.sources.elsewhere import elsewhere
from jcls.data.sources.source import Source
from jcls.data.sources.tf_example import Layout
from jcls.host.disk import local


def records(
    *,
    dir: str,
    train: str = 'train-*-of-*',
    val: str = 'validation-*-of-*',
    image_key: str = 'image/encoded',
    label_key: str = 'image/class/label',
    label_offset: int = 1,
    num_classes: int = 1000,
    classes: str | None = None,
) -> tuple[Source, Source]:
    """TFRECORD shards like train-00000-of-01024, read at random access through an index.

    The defaults are those of ImageNet as TensorFlow's and Google's scripts have written it since
    2016: labels 1..1000 in the order of the sorted WordNet ids. The first use reads the header of
    every record; the index is cached until the shards change.

    Args:
      dir: folder of the shards.
      train: pattern of the training shards, relative to `dir`.
      val: pattern of the validation shards, relative to `dir`.
      image_key: feature with the encoded image.
      label_key: feature with the class.
      label_offset: label of the first class, 0 or 1.
      num_classes: number of classes.
      classes: text file with a class name on each line, in the order of the labels. Without it the
        names are the numbers 0, 1, ...
    """
    root = local(dir)
    if not root.is_dir():
        raise ValueError(f'config.data.dir={dir!r}: {elsewhere(root) or "no such folder"}')
    if num_classes < 2:
        raise ValueError(f'config.data.num_classes={num_classes}: at least 2')
    names = class_names(classes) if classes else tuple(map(str, range(num_classes)))
    if len(names) != num_classes:
        raise ValueError(
            f'config.data.classes={classes!r} names {len(names)} classes, but config.data.'
            f'num_classes={num_classes}; make them agree'
        )
    layout = Layout(image_key, label_key, label_offset, num_classes)
    sets = [find_shards(root, train, 'train'), find_shards(root, val, 'val')]
    train_source, val_source = (
        tfrecord.shard_source(shards, tfrecord.index(shards), layout, names) for shards in sets
    )
    return train_source, val_source


def find_shards(root: Path, pattern: str, field: str) -> list[str]:
    """The files that match, sorted; a ValueError if names like x-00000-of-00004 are incomplete."""
    shards = sorted(str(path) for path in root.glob(pattern) if path.is_file())
    if not shards:
        beside = ', '.join(sorted(entry.name for entry in os.scandir(root))[:4]) or 'nothing'
        other = elsewhere(root)
        raise ValueError(
            f'config.data.{field}={pattern!r}: no such file in {root}, which has {beside}, ...'
            f'{other and f"; {other}"}'
        )
    counts: dict[str, list[str]] = {}
    for shard in shards:
        numbered = re.search(r'-of-(\d+)', Path(shard).name)
        counts.setdefault(numbered[1] if numbered else '', []).append(shard)
    if len(counts) > 1:
        examples = ' and '.join(Path(matching[0]).name for matching in counts.values())
        raise ValueError(
            f'config.data.{field}={pattern!r} matches different sets of shards: {examples}'
        )
    count = next(iter(counts))
    if count:
        numbers = {int(n[1]) for s in shards if (n := re.search(r'-(\d+)-of-', Path(s).name))}
        missing = sorted(set(range(int(count))) - numbers)
        if missing:
            listed = ', '.join(
                re.sub(r'-\d+-of-', f'-{number:05d}-of-', Path(shards[0]).name)
                for number in missing[:4]
            )
            more = ', ...' if missing[4:] else ''
            raise ValueError(
                f'{len(missing)} of {int(count)} shards are missing in {Path(shards[0]).parent}: '
                f'{listed}{more}'
            )
        if len(shards) > int(count):
            raise ValueError(
                f'config.data.{field}={pattern!r} matches {len(shards)} files, but they are named '
                f'as {int(count)} shards: different sets; use a narrower pattern'
            )
    return shards

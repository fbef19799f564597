"""Dividing images into splits and shards, in an order that only their names and content decide."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jcls.data.sources.hold_out import deal
from jcls.data.sources.layout import TRAIN, VALIDATION, File
from jcls.tools.prepare.encode import estimate
from jcls.tools.prepare.inspect import ImageInfo

SEED = 0


class Inspected(NamedTuple):
    """A file and the properties of its image."""

    file: File
    info: ImageInfo


class Shard(NamedTuple):
    """The images of one file of the dataset, in their order."""

    split: str
    number: int
    of: int
    images: Sequence[Inspected]
    estimate: int  # approximate bytes

    def file_name(self, dataset: str) -> str:
        """The file's name by TFDS's pattern."""
        return f'{dataset}-{self.split}.array_record-{self.number:05d}-of-{self.of:05d}'


def split_rows(
    files: Sequence[File],
    classes: tuple[str, ...],
    fraction: float,
    groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of training and validation, sorted; a ValueError if a class is too small."""
    labels = np.array([file.label for file in files], np.int32)
    names = np.array([os.fsencode(file.name) for file in files])
    try:
        return deal(names, labels, classes, fraction, SEED, groups=groups)
    except ValueError as error:  # its message names a field of the config
        raise ValueError(str(error).replace('config.data.', '--')) from None


def set_aside(
    images: Sequence[Inspected], classes: tuple[str, ...], fraction: float
) -> dict[str, list[Inspected]]:
    """Set a stratified fraction aside, as ``data.name='folder'`` with ``copies='together'`` does.

    So no image is in both parts.
    """
    digests = np.array([image.info.digest for image in images])
    groups = np.unique(digests, return_inverse=True)[1]
    rows = split_rows([image.file for image in images], classes, fraction, groups)
    parts = zip((TRAIN, VALIDATION), rows, strict=True)
    return {split: [images[row] for row in part] for split, part in parts}


def shards(
    splits: Mapping[str, Sequence[Inspected]], shard_bytes: int, max_side: int
) -> list[Shard]:
    """Shuffle each split and cut it into parts of about `shard_bytes`."""
    parts = []
    for which, (split, images) in enumerate(splits.items()):
        raw = np.random.Philox(key=[SEED, which]).random_raw(len(images))
        order = np.argsort(raw, kind='stable')
        sizes = [estimate(images[row].info, images[row].file.size, max_side) + 200 for row in order]
        of = min(max(1, math.ceil(sum(sizes) / shard_bytes)), len(images))
        bounds = [round(len(images) * i / of) for i in range(of + 1)]
        for number, (start, end) in enumerate(itertools.pairwise(bounds)):
            chosen = [images[row] for row in order[start:end]]
            parts.append(Shard(split, number, of, chosen, sum(sizes[start:end])))
    return parts


def fingerprint(parts: Sequence[Shard]) -> str:
    """A hash of the division of images into shards."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for image in part.images:
            line = f'{part.split} {part.number} {image.file.name} {image.info.digest}\n'
            digest.update(os.fsencode(line))
    return digest.hexdigest()


def copies(splits: Mapping[str, Sequence[Inspected]]) -> dict[str, list[list[Inspected]]]:
    """Groups of images with the same content, by kind.

    Returns:
      'leaks' (in training and validation), 'conflicts' (in several classes, and no leak) and
      'repeats' (in one class of one split), each a list of groups.
    """
    groups: dict[str, list[tuple[str, Inspected]]] = defaultdict(list)
    for split, images in splits.items():
        for image in images:
            groups[image.info.digest].append((split, image))
    by_kind: dict[str, list[list[Inspected]]] = {'leaks': [], 'conflicts': [], 'repeats': []}
    for group in groups.values():
        if len(group) < 2:
            continue
        images = [image for _, image in group]
        leak = len({split for split, _ in group}) > 1
        conflict = len({image.file.label for image in images}) > 1
        for kind, applies in (
            ('leaks', leak),
            ('conflicts', conflict),
            ('repeats', not leak and not conflict),
        ):
            if applies:
                by_kind[kind].append(images)
    return by_kind

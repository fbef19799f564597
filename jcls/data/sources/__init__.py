"""The ``data`` section: a training and a validation source, chosen from a table.

Images of any source can be turned upright and kept in memory, and its examples divided into folds
or reduced to a subset. `jcls.data.sources.source` says what a `Source` is; `jcls.data.pipeline`
makes batches of its examples.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable
from typing import Any, NamedTuple

from jcls.config.parts import part
from jcls.data.sources import splits
from jcls.data.sources.cache import cached
from jcls.data.sources.exif import upright
from jcls.data.sources.file_list import listing
from jcls.data.sources.folder import folder
from jcls.data.sources.from_python import from_python
from jcls.data.sources.in_memory import arrays, digits, synthetic
from jcls.data.sources.known import Known, in_order_of
from jcls.data.sources.records import records
from jcls.data.sources.source import Source
from jcls.data.sources.tfds import tfds


class Data(NamedTuple):
    """The result of the ``data`` section: two sources and how to use them; see `create`."""

    train: Source
    val: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_damaged: int
    balanced: bool = False
    repeats: int = 1

    @property
    def channels(self) -> int:
        """The number of channels of an image."""
        return self.train.channels

    def checksums(self) -> dict[str, Any]:
        """Facts that all hosts must agree on: numbers of examples, checksums of some of them."""
        train, val = self.train, self.val
        return {
            'training images': len(train),
            'held-out images': len(val),
            'classes': len(train.classes),
            'checksum of class names': zlib.crc32(os.fsencode('\n'.join(train.classes))),
            'checksum of training images and labels': train.checksum(),
            'checksum of held-out images and labels': val.checksum(),
        }


def create(
    given: Any = None,
    known: Known | None = None,
    *,
    name: str = 'folder',
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
    max_damaged: int = 0,
    exif: bool = False,
    folds: int = 0,
    fold: int = 0,
    subset: float = 1.0,
    subset_seed: int = 0,
    balanced: bool = False,
    repeats: int = 1,
    cache: str = 'none',
    **fields: Any,
) -> Data:
    """The ``data`` section.

    Args:
      given: images from Python, for 'from_python'.
      known: what a run that goes on knows of its data.
      name: one of `SOURCES`.
      mean: mean of each channel, as a fraction of 255; the device subtracts it.
      std: standard deviation of each channel, as a fraction of 255; the device divides by it.
      max_damaged: number of unreadable images to tolerate; each is named, counted and masked out.
        One more is an error.
      exif: turn images upright as their EXIF orientation says, as Pillow does. Published recipes do
        not.
      folds: number of folds of a stratified K-fold of the training set, or 0. With folds, one of
        them evaluates, and the validation set of the source is not used.
      fold: the fold that evaluates, 0..folds-1; the others train.
      subset: fraction of each class to train on.
      subset_seed: seed that decides the folds and the subset.
      balanced: draw every class equally often, whatever its size; an epoch is still N draws.
      repeats: number of copies of each image in a batch, augmented differently.
      cache: keep the examples of both sets in memory, on every host: 'encoded', the files as they
        are stored; 'decoded', their pixels; 'none'.
      **fields: the fields of the chosen source.
    """
    source = part(SOURCES, name, 'data source')
    by_row = known is not None and known.by_row
    pinned = known if by_row or not folds else None  # folds are made of all training images anew
    context = {from_python: (given,), folder: (pinned,), listing: (pinned,)}
    train, val = source(*context.get(source, ()), **fields)
    if known is not None:
        train, val = (in_order_of(part, known.classes) for part in (train, val))
    for where, values in (('mean', mean), ('std', std)):
        if len(values) != train.channels:
            raise ValueError(
                f'config.data.{where} has {len(values)} values, but the images of {name!r} have '
                f'{train.channels} channels'
            )
    if not all(0 < value <= 1 for value in std):
        raise ValueError(
            f'config.data.std={std}: every value must be positive and at most 1: a fraction of 255'
        )
    if not all(0 <= value <= 1 for value in mean):
        raise ValueError(f'config.data.mean={mean}: every value must be in 0..1: a fraction of 255')
    if max_damaged < 0:
        raise ValueError(f'config.data.max_damaged={max_damaged}: must not be negative')
    if repeats < 1:
        raise ValueError(f'config.data.repeats={repeats}: at least 1')
    if exif:
        train, val = upright(train), upright(val)
    together = fields.get('copies') == 'together'
    if together and not folds and (train.whole is None or train.whole is not val.whole):
        raise ValueError(
            "config.data.copies='together' is for sets that jcls divides; here both are given: "
            'keep each copy in one of them'
        )
    train, val = splits.apply(
        train,
        val,
        folds=folds,
        fold=fold,
        subset=subset,
        seed=subset_seed,
        by_row=by_row,
        together=together,
    )
    if balanced:
        splits.labels_for(train, 'balanced')
    train, val = cached((train, val), cache)
    return Data(train, val, mean, std, max_damaged, balanced, repeats)


SOURCES: dict[str, Callable[..., tuple[Source, Source]]] = {
    'digits': digits,
    'arrays': arrays,
    'synthetic': synthetic,
    'folder': folder,
    'list': listing,
    'records': records,
    'tfds': tfds,
    'from_python': from_python,
}

# Fields that may differ between hosts: where the data are, and what stays in memory.
HOST_SPECIFIC = ('dir', 'file', 'train_list', 'val_list', 'classes', 'dataset', 'cache')

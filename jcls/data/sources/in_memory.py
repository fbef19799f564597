"""Sources in memory: scikit-learn's digits, arrays from a file, and synthetic images."""

from __future__ import annotations

import zipfile
import zlib

import numpy as np

from jcls.data.sources.hold_out import stratified_split
from jcls.data.sources.source import Source, from_memory
from jcls.host.disk import local

# np.load raises these for a file that is no .npz or is damaged.
UNREADABLE = (ValueError, OSError, EOFError, AttributeError, RuntimeError, NotImplementedError,
              zipfile.BadZipFile, zlib.error)  # fmt: skip


def digits(*, val_fraction: float = 0.2, split_seed: int = 0) -> tuple[Source, Source]:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, as uint8 [8, 8, 3].

    Args:
      val_fraction: fraction of each class to set aside for evaluation.
      split_seed: seed that decides which examples are set aside.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    images = np.repeat(grey[..., None], 3, axis=-1)
    classes = tuple(map(str, bunch.target_names))
    first, second = stratified_split(bunch.target, classes, val_fraction, split_seed)
    train, val = (
        from_memory(images[rows], bunch.target[rows], classes, 'digit') for rows in (first, second)
    )
    return train, val


def arrays(*, file: str, val_fraction: float = 0.1, split_seed: int = 0) -> tuple[Source, Source]:
    """A NumPy .npz file of images in memory.

    It holds ``train_images`` uint8 [N, H, W, C] or [N, H, W], ``train_labels`` integer [N], and
    optionally ``val_images`` and ``val_labels`` (else a stratified `val_fraction` of the training
    examples is set aside) and ``classes`` (names; else the numbers 0..max label).

    Args:
      file: path of the file.
      val_fraction: fraction of each class to set aside for evaluation if there are no val_images.
      split_seed: seed that decides which examples are set aside.
    """
    path = local(file)
    if not path.is_file():
        raise ValueError(f'config.data.file={file!r}: no such file; np.savez(...) makes one')
    try:
        stored = dict(np.load(path, allow_pickle=False).items())
    except UNREADABLE as error:
        raise ValueError(
            f'config.data.file={file!r} is not a readable .npz file: {error}'
        ) from None
    for key in ('train_images', 'train_labels'):
        if key not in stored:
            raise ValueError(f'{path} lacks {key!r}; it has {", ".join(stored) or "nothing"}')
    if ('val_images' in stored) != ('val_labels' in stored):
        raise ValueError(f'{path} has one of val_images and val_labels; give both or neither')
    sets = {
        part: (stored[f'{part}_images'], stored[f'{part}_labels'])
        for part in ('train', 'val')
        if f'{part}_images' in stored
    }
    for part, (images, labels) in sets.items():
        if images.dtype != np.uint8 or images.ndim not in (3, 4) or not len(images):
            raise ValueError(
                f'{path}: {part}_images must be uint8 [N, H, W, C] or [N, H, W], N > 0; it is '
                f'{images.dtype} {list(images.shape)}'
            )
        if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(
                f'{path}: {part}_labels must be integers [{len(images)}]; it is {labels.dtype} '
                f'{list(labels.shape)}'
            )
    channels = {part: (*images.shape, 1)[3] for part, (images, _) in sets.items()}
    if len(set(channels.values())) > 1:
        raise ValueError(
            f'{path}: train_images have {channels["train"]} channels, val_images {channels["val"]}'
        )
    highest = max(int(labels.max()) for _, labels in sets.values())
    classes = tuple(map(str, stored.get('classes', range(highest + 1))))
    for part, (_, labels) in sets.items():
        wrong = np.flatnonzero((labels < 0) | (labels >= len(classes)))
        if len(wrong):
            raise ValueError(
                f'{path}: {part}_labels[{wrong[0]}] is {labels[wrong[0]]}, but labels must be in '
                f'0..{len(classes) - 1} ({len(classes)} classes)'
            )
    if 'val' not in sets:
        images, labels = sets['train']
        rows = stratified_split(labels, classes, val_fraction, split_seed)
        sets = {
            part: (images[r], labels[r]) for part, r in zip(('train', 'val'), rows, strict=True)
        }
    train, val = (
        from_memory(*sets[part], classes, f'{path.name} {part}') for part in ('train', 'val')
    )
    return train, val


def synthetic(
    *,
    examples: int = 1024,
    size: int = 224,
    channels: int = 3,
    num_classes: int = 1000,
    pool: int = 256,
) -> tuple[Source, Source]:
    """Random images [size, size, channels], labels 0, 1, 2, ... in turn, for timing and dry runs.

    Args:
      examples: number of examples in each of the two sets.
      size: height and width of an image.
      channels: number of channels of an image.
      num_classes: number of classes.
      pool: number of different images, which take turns.
    """
    for field, value in (
        ('examples', examples),
        ('size', size),
        ('channels', channels),
        ('pool', pool),
    ):
        if value < 1:
            raise ValueError(f'config.data.{field}={value}: at least 1')
    if num_classes < 2:
        raise ValueError(f'config.data.num_classes={num_classes}: at least 2')
    count = min(pool, examples)
    images = np.random.default_rng(0).integers(0, 256, (count, size, size, channels), np.uint8)
    labels = np.arange(examples) % num_classes
    source = from_memory(images, labels, tuple(map(str, range(num_classes))), 'synthetic')
    return source, source

"""Where examples come from: a table of sources, each giving a training and a validation set.

A `Source` knows its labels and class names at once and reads one example by its index in
TensorFlow; what happens to the example afterwards is the pipeline's. Nothing here depends on the
batch, the epoch or the number of hosts.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jcls.data.runtime import tensorflow
from jcls.schema import choose

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.gif')


class Source(NamedTuple):
    """A set of examples at random access.

    Attributes:
      labels: [N] int32, in 0..len(classes)-1.
      classes: their names.
      read: int64 index (a tf scalar) -> the encoded image (a tf string scalar) or its pixels
        (uint8 [H, W, C]).
      name: index -> what to call the example in a message, such as its path.
      channels: of a decoded image.
      extent: (height, width) if all images share it, else None.
    """

    labels: np.ndarray
    classes: tuple[str, ...]
    read: Callable[[Any], Any]
    name: Callable[[int], str]
    channels: int = 3
    extent: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.labels)


class Data(NamedTuple):
    """What the ``data`` section makes: two sources and how their pixels are normalised."""

    train: Source
    val: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_damaged: int

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.channels


def create(
    *,
    name: str = 'folder',
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
    max_damaged: int = 0,
    **fields: Any,
) -> Data:
    """The ``data`` section.

    Args:
      name: one of `SOURCES`.
      mean: of each channel, as a fraction of 255, subtracted on the device.
      std: of each channel, as a fraction of 255, divided by on the device.
      max_damaged: unreadable images to put up with; each is named, counted and masked out. One more
        is an error.
      **fields: the fields of the chosen source.
    """
    train, val = choose(SOURCES, name, 'data source')(**fields)
    for where, values in (('mean', mean), ('std', std)):
        if len(values) != train.channels:
            raise ValueError(
                f'config.data.{where} has {len(values)} values, but the images of {name!r} have '
                f'{train.channels} channels'
            )
    if min(std) <= 0:
        raise ValueError(f'config.data.std={std}: every value must be positive')
    if max_damaged < 0:
        raise ValueError(f'config.data.max_damaged={max_damaged}: must not be negative')
    return Data(train, val, mean, std, max_damaged)


def digits(*, val_fraction: float = 0.2, split_seed: int = 0) -> tuple[Source, Source]:
    """scikit-learn's 1,797 handwritten digits, 8 x 8, as uint8 [8, 8, 3]; split by class."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.round(bunch.images * (255 / 16)).astype(np.uint8)  # 0..16 -> 0..255
    images = np.repeat(grey[..., None], 3, axis=-1)
    classes = tuple(map(str, bunch.target_names))
    first, second = _split(bunch.target, classes, val_fraction, split_seed)
    train, val = (
        _from_memory(images[rows], bunch.target[rows], classes, 'digit') for rows in (first, second)
    )
    return train, val


def arrays(*, file: str, val_fraction: float = 0.1, split_seed: int = 0) -> tuple[Source, Source]:
    """A NumPy .npz file of images in memory.

    It holds ``train_images`` uint8 [N, H, W, C] or [N, H, W], ``train_labels`` integer [N], and
    optionally ``val_images`` and ``val_labels`` (else a stratified `val_fraction` of the training
    examples is set aside) and ``classes`` (names; else the numbers 0..max label).
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise ValueError(f'config.data.file={file!r}: no such file; np.savez(...) makes one')
    try:
        stored = dict(np.load(path, allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
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
        sets = {
            part: (images[rows], labels[rows])
            for part, rows in zip(
                ('train', 'val'), _split(labels, classes, val_fraction, split_seed), strict=True
            )
        }
    train, val = (
        _from_memory(*sets[part], classes, f'{path.name} {part}') for part in ('train', 'val')
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
    """Random pixels [size, size, channels], labels 0, 1, 2, ... in turn: for timing and dry runs.

    Only `pool` different images are kept in memory and take turns.
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
    source = _from_memory(images, labels, tuple(map(str, range(num_classes))), 'synthetic')
    return source, source


def folder(*, dir: str, val_fraction: float = 0.1, split_seed: int = 0) -> tuple[Source, Source]:
    """A folder with a sub-folder of images for each class.

    With ``train/`` and ``val/`` inside, those are the two sets; otherwise a stratified
    `val_fraction` of each class is set aside, the same files for the same `split_seed`. The names
    of the sub-folders, sorted, are the classes. JPEG, PNG, BMP and GIF (first frame) files count;
    hidden files do not.
    """
    root = Path(dir).expanduser()
    if not root.is_dir():
        raise ValueError(f'config.data.dir={dir!r}: no such folder')
    parts = [name for name in ('train', 'val') if (root / name).is_dir()]
    if parts == ['val']:
        raise ValueError(f'{root} has val/ but no train/; give both, or class folders only')
    if not parts or parts == ['train']:
        base = root / 'train' if parts else root
        files, labels, classes = _scan(base)
        rows = _split(labels, classes, val_fraction, split_seed)
        sets = [(files[part], labels[part]) for part in rows]
    else:
        train_files, train_labels, classes = _scan(root / 'train')
        val_files, val_labels, val_classes = _scan(root / 'val')
        if classes != val_classes:
            raise ValueError(
                f'{root}: train/ and val/ have different classes: only in train/: '
                f'{sorted(set(classes) - set(val_classes))[:5]}, only in val/: '
                f'{sorted(set(val_classes) - set(classes))[:5]}'
            )
        sets = [(train_files, train_labels), (val_files, val_labels)]
    train_source, val_source = (_from_files(files, labels, classes) for files, labels in sets)
    return train_source, val_source


def _scan(base: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """All image files below `base`, sorted by class and path, with labels and class names."""
    classes = sorted(e.name for e in os.scandir(base) if e.is_dir() and e.name[0] != '.')
    if not classes:
        raise ValueError(f'{base} has no class folders; expected {base}/<class>/<image>.jpg')
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = sorted(
            str(Path(where) / file)
            for where, _, names in os.walk(base / name, followlinks=True)
            for file in names
            if file.lower().endswith(EXTENSIONS) and file[0] != '.'
        )
        if not found:
            raise ValueError(
                f'{base / name} has no images ({", ".join(EXTENSIONS)}); add some or remove the '
                'folder: every class needs one'
            )
        files += found
        labels += [label] * len(found)
    return np.array(files), np.array(labels, np.int32), tuple(classes)


def _split(
    labels: np.ndarray, classes: tuple[str, ...], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Rows of a stratified split, both sorted."""
    from sklearn.model_selection import train_test_split

    if not 0 < fraction < 1:
        raise ValueError(f'config.data.val_fraction={fraction}: must lie between 0 and 1')
    counts = np.bincount(labels, minlength=len(classes))
    if counts.min() < 2:
        few = classes[int(counts.argmin())]
        raise ValueError(
            f'class {few!r} has {counts.min()} image(s), too few to set one aside for evaluation; '
            'add some, or give the validation images yourself'
        )
    held_out = math.ceil(fraction * len(labels))
    if not len(classes) <= held_out <= len(labels) - len(classes):
        raise ValueError(
            f'config.data.val_fraction={fraction} of {len(labels)} images sets {held_out} aside, '
            f'but both parts need at least one of each of the {len(classes)} classes'
        )
    rows = train_test_split(
        np.arange(len(labels)), test_size=held_out, random_state=seed, stratify=labels
    )
    return np.sort(rows[0]), np.sort(rows[1])


def _from_memory(
    images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], what: str
) -> Source:
    images = images[..., None] if images.ndim == 3 else images

    def read(index: Any) -> Any:
        tf = tensorflow()
        return tf.gather(pixels(), index % len(images))

    cache: list[Any] = []

    def pixels() -> Any:  # made outside the graph, once
        with tensorflow().init_scope():
            cache[:] = cache or [tensorflow().constant(images)]
        return cache[0]

    labels = labels.astype(np.int32)
    return Source(
        labels, classes, read, lambda i: f'{what} {i}', images.shape[-1], images.shape[1:3]
    )


def _from_files(files: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Source:
    paths: list[Any] = []

    def read(index: Any) -> Any:
        tf = tensorflow()
        with tf.init_scope():
            paths[:] = paths or [tf.constant(files)]
        return tf.io.read_file(tf.gather(paths[0], index))

    return Source(labels, classes, read, lambda i: str(files[i]))


SOURCES: dict[str, Callable[..., tuple[Source, Source]]] = {
    'digits': digits,
    'arrays': arrays,
    'synthetic': synthetic,
    'folder': folder,
}

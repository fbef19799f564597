"""Images that a Python program has in memory: ``jcls.train(config, workdir, data=...)``."""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jcls.data.formats import flat
from jcls.data.sources.classes import composed, ordered, warn_of_alike
from jcls.data.sources.hold_out import stratified_split
from jcls.data.sources.source import Source, constant, from_files, from_memory
from jcls.host.tensorflow import tf

MOST = 1 << 16  # examples in a batch


def from_python(
    data: Any = None, *, checksum: int | None = None, val_fraction: float = 0.1, split_seed: int = 0
) -> tuple[Source, Source]:
    """The sources of images given from Python.

    A set of examples is a mapping ``{'image': images, 'label': labels}`` of two sequences of equal
    length, or a sequence of mappings ``{'image': image, 'label': label}``. An image is a path, the
    bytes of an image file, a Pillow image, or an array uint8 [H, W, C] or [H, W]; a label is a
    name, or a number from 0 on.

    Args:
      data: set for training, of which a part is held out, or ``{'train': set, 'val': set}``.
      checksum: the `checksum_of` the data, which `jcls.build` fills in, so that a workdir refuses
        other images.
      val_fraction: fraction of each class to set aside if no 'val' is given.
      split_seed: seed that decides which examples are set aside.

    Raises:
      ValueError: for data in none of these forms.
    """
    if data is None:
        raise ValueError(
            "config.data.name='from_python': the images of this run were given from Python; give "
            'them again: jcls.train(config, workdir, data=...)'
        )
    if isinstance(data, Source):  # to evaluate on; nobody trains, so any batch must fit
        return data.select(np.arange(max(len(data), MOST)) % len(data)), data
    del checksum  # it is in the config, so that other images make another config
    if isinstance(data, Mapping) and 'train' in data:
        unknown = [key for key in data if key not in ('train', 'val')]
        if unknown or 'val' not in data:
            raise ValueError(f"data: {{'train': set, 'val': set}}; got {', '.join(data)}")
        sets = [_columns(data[part], f'data[{part!r}]') for part in ('train', 'val')]
        if len({labels.dtype.kind == 'U' for _, labels in sets}) > 1:
            raise ValueError("data: labels are names in one of 'train' and 'val', and not in both")
        classes = _classes(np.concatenate([labels for _, labels in sets]))
        train, val = (
            _source(images, _numbers(labels, classes), classes, part)
            for (images, labels), part in zip(sets, ('training', 'held-out'), strict=True)
        )
        return train, val
    images, labels = _columns(data, 'data')
    classes = _classes(labels)
    whole = _source(images, _numbers(labels, classes), classes, 'given')
    rows = stratified_split(whole.labels, classes, val_fraction, split_seed)
    return whole.select(rows[0]), whole.select(rows[1])


def checksum_of(data: Any) -> int:
    """The CRC-32 of all labels and images; of an image given as a path, of the path alone."""
    if isinstance(data, Source):
        return zlib.crc32(data.labels.tobytes())
    parts = data if isinstance(data, Mapping) and 'train' in data else {'': data}
    crc = 0
    for name, part in parts.items():
        images, labels = _columns(part, f'data[{name!r}]' if name else 'data')
        crc = zlib.crc32(os.fsencode('\n'.join([name, *map(str, labels)])), crc)
        for image in images:
            crc = zlib.crc32(_bytes(image), crc)
    return crc


def _columns(data: Any, where: str) -> tuple[Sequence[Any], np.ndarray]:
    """The images and the labels of a set."""
    expected = f"{where}: {{'image': [...], 'label': [...]}}, or a list of {{'image', 'label'}}"
    if isinstance(data, Mapping):
        if set(data) != {'image', 'label'}:
            raise ValueError(f'{expected}; got the keys {", ".join(map(str, data))}')
        images, labels = data['image'], data['label']
    else:
        try:
            images = [example['image'] for example in data]
            labels = [example['label'] for example in data]
        except (TypeError, KeyError, IndexError) as error:
            raise ValueError(f'{expected}; {type(error).__name__}: {error}') from None
    if len(images) != len(labels):
        raise ValueError(f'{where}: {len(images)} images, but {len(labels)} labels')
    if not len(images):
        raise ValueError(f'{where} is empty')
    labels = np.asarray(labels)
    if labels.dtype.kind == 'U':
        labels = np.array([composed(name) for name in labels.tolist()])
    if labels.ndim != 1 or labels.dtype.kind not in 'iuU':
        raise ValueError(f'{where}: labels must be all names or all whole numbers, one an image')
    if labels.dtype.kind in 'iu' and labels.min() < 0:
        raise ValueError(f'{where}: label {labels.min()}; numbers count from 0')
    return images, labels


def _classes(labels: np.ndarray) -> tuple[str, ...]:
    """The class names: the labels' names, ordered, or the numbers from 0 to the highest label."""
    if labels.dtype.kind == 'U':
        names = ordered(labels.tolist())
        warn_of_alike(names)
        return names
    return tuple(map(str, range(int(labels.max()) + 1)))


def _numbers(labels: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    if labels.dtype.kind != 'U':
        return labels.astype(np.int32)
    numbers = {name: label for label, name in enumerate(classes)}
    return np.array([numbers[name] for name in labels.tolist()], np.int32)


def _source(
    images: Sequence[Any], labels: np.ndarray, classes: tuple[str, ...], what: str
) -> Source:
    if all(isinstance(image, str | Path) for image in images):
        files = np.array([os.fsencode(image) for image in images])
        return from_files(files, labels, classes, files)
    pixels = [_pixels(image, f'{what} image {i}') for i, image in enumerate(images)]
    shapes = {array.shape for array in pixels if isinstance(array, np.ndarray)}
    if len(shapes) == 1 and all(isinstance(array, np.ndarray) for array in pixels):
        return from_memory(np.stack(pixels), labels, classes, f'{what} image')
    # Sizes differ, or some images are files: make the arrays files, too, as PNG, which keeps their
    # pixels.
    encoded = [_png(item) if isinstance(item, np.ndarray) else item for item in pixels]
    contents, targets = constant(np.array(encoded, object)), constant(labels)

    def read(index: Any) -> tuple[Any, Any]:
        return tf.gather(contents(), index), tf.gather(targets(), index)

    return Source(read, len(labels), classes, lambda: labels, lambda i: f'{what} image {i}')


def _pixels(image: Any, name: str) -> np.ndarray | bytes:
    """An image as an array uint8 [H, W, C], or as the bytes of a file."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | Path):
        return Path(image).read_bytes()
    if hasattr(image, 'convert'):  # an image of Pillow's
        try:
            image = np.asarray(flat(image))
        except ValueError as error:
            raise ValueError(f'{name}: {error}') from None
    if not isinstance(image, np.ndarray) or image.ndim not in (2, 3) or image.dtype != np.uint8:
        kind = getattr(image, 'dtype', type(image).__name__), getattr(image, 'shape', '')
        raise ValueError(
            f'{name}: a path, the bytes of a file, a Pillow image, or an array uint8 [H, W, C]; '
            f'got {kind[0]} {kind[1]}'
        )
    return image[..., None] if image.ndim == 2 else image


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    three = np.repeat(pixels, 3, axis=-1) if pixels.shape[-1] == 1 else pixels
    Image.fromarray(three).save(file, 'PNG', compress_level=1)
    return file.getvalue()


def _bytes(image: Any) -> bytes:
    if isinstance(image, str | Path):
        return os.fsencode(image)
    if isinstance(image, bytes):
        return image
    array = np.ascontiguousarray(image)
    return repr((array.shape, str(array.dtype))).encode() + array.tobytes()

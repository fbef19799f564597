"""A folder with a sub-folder of images for each class: the source for your own images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from jcls.data.sources.source import Source, from_files, stratified_split

EXTENSIONS = ('.jpg', '.jpeg', '.png', '.bmp', '.gif')


def folder(*, dir: str, val_fraction: float = 0.1, split_seed: int = 0) -> tuple[Source, Source]:
    """A folder with a sub-folder of images for each class.

    If it contains ``train/`` and ``val/``, these are the two sets. Otherwise a stratified
    `val_fraction` of each class is set aside, the same files for the same `split_seed`. The names
    of the sub-folders, sorted, are the classes. JPEG, PNG, BMP and GIF (first frame) files count;
    hidden files do not.

    Args:
      dir: the folder.
      val_fraction: fraction of each class to set aside if there is no val/.
      split_seed: seed that decides which examples are set aside.
    """
    root = Path(dir).expanduser()
    if not root.is_dir():
        raise ValueError(f'config.data.dir={dir!r}: no such folder')
    parts = [name for name in ('train', 'val') if (root / name).is_dir()]
    if parts == ['val']:
        raise ValueError(f'{root} has val/ but no train/; give both, or class folders only')
    beside = sorted(e.name for e in os.scandir(root) if e.is_dir() and e.name[0] != '.')
    if parts == ['train'] and beside != ['train']:
        raise ValueError(
            f'{root} has train/ beside {", ".join(beside[:4])}: is it a class or the training set? '
            'Put the classes into train/ and val/, or give the class another name'
        )
    if not parts or parts == ['train']:
        base = root / 'train' if parts else root
        files, labels, classes = _scan(base)
        rows = stratified_split(labels, classes, val_fraction, split_seed)
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
    train_source, val_source = (from_files(files, labels, classes) for files, labels in sets)
    return train_source, val_source


def _scan(base: Path) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """All image files below `base`, sorted by class and path, with labels and class names."""
    classes = sorted(e.name for e in os.scandir(base) if e.is_dir() and e.name[0] != '.')
    if not classes:
        raise ValueError(f'{base} has no class folders; expected {base}/<class>/<image>.jpg')
    files: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        images = sorted(
            str(Path(where) / file)
            for where, _, names in os.walk(base / name, followlinks=True)
            for file in names
            if file.lower().endswith(EXTENSIONS)
            and not any(part[0] == '.' for part in (Path(where) / file).relative_to(base).parts)
        )
        if not images:
            raise ValueError(
                f'{base / name} has no images ({", ".join(EXTENSIONS)}); add some or remove the '
                'folder: every class needs one'
            )
        files += images
        labels += [label] * len(images)
    return np.array(list(map(os.fsencode, files))), np.array(labels, np.int32), tuple(classes)

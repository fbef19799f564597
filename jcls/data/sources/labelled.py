"""All images of a labelled folder or list as one set, with the labels of given classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from jcls.data.formats import recogniser
from jcls.data.sources.classes import composed, listed
from jcls.data.sources.file_list import listing
from jcls.data.sources.folder import one_set
from jcls.data.sources.source import Source
from jcls.host.disk import local


def labelled(
    place: str | Path, known: Sequence[str], *, dir: str = '', classes: str | None = None
) -> Source:
    """The source of a folder of class folders, or of a list of paths and labels.

    Args:
      place: a folder, or a text file as for ``data.name='list'``.
      known: names of the classes that the labels count in. `place` may lack some of them.
      dir: folder that the paths of a list are relative to; '' is the current one.
      classes: text file with the names of the classes that a list's numbers mean.

    Raises:
      ValueError: if there is no such folder or list, or it has other classes.
    """
    path = local(place)
    hint = ''
    if path.is_dir():
        found = one_set(path)
    elif path.is_file():
        if recogniser()(path.name, lambda: path.open('rb')):
            raise ValueError(f'{path} is an image, neither a folder nor a list: jcls predict')
        found, _ = listing(train_list=str(path), val_list=str(path), dir=dir, classes=classes)
        if classes is None and all(name.isdigit() for name in found.classes):
            hint = '. Give --config.data.classes=FILE, with a name on each line, for its numbers'
    else:
        raise ValueError(f'{path}: no such folder or list')
    labels = {composed(name): label for label, name in enumerate(known)}
    present = [found.classes[label] for label in np.unique(found.labels)]
    unknown = [name for name in present if composed(name) not in labels]
    if unknown:
        raise ValueError(
            f'{path} has {len(unknown)} class(es) that the weights do not know: {listed(unknown)}; '
            f'they know {listed([*known])}{hint}'
        )
    counts = Counter(map(composed, known))
    if twice := [name for name in present if counts[composed(name)] > 1]:
        raise ValueError(
            f'{path}: {listed(twice)}: the weights have several classes of this name, so that the '
            'images may be of any of them (jcls import --classes gives imported weights others)'
        )
    numbers = [labels.get(composed(name), -1) for name in found.classes]
    return found.relabelled(tuple(known), numbers)

"""Whether a run's images are those that it began with, and whether any image is on both sides."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jcls.data.sources import Data, copies
from jcls.data.sources.known import Known, differences
from jcls.data.sources.source import Source
from jcls.host.disk import local
from jcls.weights.load import is_run, place
from jcls.workdir import checkpoint, files, images


def known_data(workdir: str | Path) -> Known | None:
    """What the run in a workdir knows of its data; None if it has not saved anything yet.

    Raises:
      ValueError: if a file of the workdir is damaged.
    """
    path = local(workdir)
    if not checkpoint.has_checkpoint(path):
        return None
    classes, names = files.read_metadata(path).get('classes', ()), images.read_names(path)
    if names is None:
        return Known(tuple(classes), by_row=True)
    return Known(tuple(classes), names.get('train'), names.get('val'))


def check(workdir: Path, known: Known | None, metadata: Mapping[str, Any], data: Data) -> list[str]:
    """Refuse to go on with other training images; return a warning about other held-out ones."""
    if known is None:
        return []
    cure = (
        'Bring the images back; or begin another run from these weights: another --workdir, and '
        f'--config.init.source={workdir}'
    )
    old, new = files.read_metadata(workdir), json.loads(json.dumps(metadata))
    train, val = differences(known, data.train, data.val)
    if train:
        raise ValueError(
            f'{workdir} was trained on other images than there are now: {"; ".join(train)}. {cure}'
        )
    for key, what in (('classes', 'classes'), ('train_examples', 'number of training images')):
        if key in old and old[key] != new[key]:
            raise ValueError(
                f'{workdir} was trained on other data: its {what}: {_short(old[key])}; now: '
                f'{_short(new[key])}. {cure}'
            )
    if val:
        return [f'the held-out images are not those of before: {"; ".join(val)}']
    return []


def _short(value: Any) -> str:
    text = ', '.join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) < 200 else f'{text[:200]}, ...'


def note(workdir: Path, data: Data) -> None:
    """Note the names of the run's images in its workdir, if they have names."""
    if data.train.names is not None and data.val.names is not None:
        images.write_names(workdir, {'train': data.train.names, 'val': data.val.names})


def copied(data: Data, copies_are: str) -> list[str]:
    """A warning if held-out images are exact copies of images that train.

    `copies_are` is ``config.data.copies``; without files to compare there is none.
    """
    if copies_are == 'ignore' or data.train.names is None or data.val.names is None:
        return []
    pairs = copies.across(data.train, data.val)
    if not pairs:
        return []
    image, copy = pairs[0]
    return [
        f'{len(pairs):,} of the {len(data.val):,} held-out images are exact copies of images that '
        f'train ({data.val.name(image)} is {data.train.name(copy)}), so evaluations are too good. '
        'A new run with --config.data.copies=together keeps copies on one side'
    ]


def trained_on(weights: str | Path, held_out: Source) -> list[str]:
    """A warning about images to evaluate on that `weights` trained on, by their names or places.

    There is none for `weights` that are not a run, or without names to compare.
    """
    if not is_run(weights):
        return []
    workdir = place(weights)[0]
    known = known_data(workdir)
    if known is None or known.train is None or held_out.names is None:
        return []
    root = os.fsencode(local(files.read_config(workdir)['data'].get('dir') or '.'))
    theirs = _places(os.path.join(root, name) for name in known.train.tolist())  # noqa: PTH118
    ours = _places(os.fsencode(held_out.name(i)) for i in range(len(held_out)))
    count = np.count_nonzero(np.isin(held_out.names, known.train) | np.isin(ours, theirs))
    if not count:
        return []
    return [
        f'{count:,} of the {len(held_out):,} images to evaluate on have the names of images that '
        f'{weights} trained on'
    ]


def _places(paths: Iterable[bytes]) -> np.ndarray:
    """The files' whole paths, bytes [N], with no links in the names of their folders."""
    real = functools.cache(os.path.realpath)
    split = map(os.path.split, paths)
    return np.array([os.path.join(real(folder), name) for folder, name in split])  # noqa: PTH118

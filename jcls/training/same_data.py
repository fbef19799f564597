"""Whether a run's images are those that it began with, and whether any image is on both sides."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jcls.data.sources import Data, copies
from jcls.data.sources.known import Known, differences
from jcls.data.sources.source import Source
from jcls.host.disk import local
from jcls.weights.load import is_run, place
from jcls.workdir import checkpoint, files, images

NOTED = 'images'  # key of model.json that names the file of the noted images


def known_data(workdir: str | Path) -> Known | None:
    """What the run in a workdir knows of its data; None if it has not saved anything yet.

    Raises:
      ValueError: if a file of the workdir is damaged or lost.
    """
    path = local(workdir)
    if not checkpoint.has_checkpoint(path):
        return None
    metadata, names = files.read_metadata(path), images.read_names(path)
    classes = metadata.get('classes', ())
    if names is None:
        if NOTED in metadata:
            raise ValueError(
                f'{path / images.IMAGES} is gone, which says which images trained: bring it back '
                f'from a copy. (jcls evaluate {path} IMAGES needs none, but cannot tell which of '
                'the images trained.)'
            )
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
    """Note the files of the run's images in its workdir, and that they are noted, if it has any."""
    sets = {}
    for part, source in (('train', data.train), ('val', data.val)):
        if source.names is None:
            return
        places = [os.path.abspath(source.name(i)) for i in range(len(source))]  # noqa: PTH100
        sets[part] = images.Files(source.names, copies.sizes(places), places)
    images.write(workdir, sets)
    files.update_metadata(workdir, {NOTED: images.IMAGES})


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
    if data.train.whole is not None and data.train.whole is data.val.whole:
        cure = 'A new run with --config.data.copies=together keeps copies on one side'
    else:
        cure = 'Keep each in one of the two sets'
    return [
        f'{len(pairs):,} of the {len(data.val):,} held-out images are exact copies of images that '
        f'train ({data.val.name(image)} is {data.train.name(copy)}), so evaluations are too good. '
        f'{cure}'
    ]


def trained_on(weights: str | Path, held_out: Source) -> list[str]:
    """Warnings about images to evaluate on that `weights` trained on.

    Whole files are compared, so that their names and folders do not matter. Where a training image
    is no longer where it was, its name and size are; of older runs, the name within the data set.
    There is no warning for `weights` that are not a run, or without files.
    """
    if not is_run(weights) or held_out.names is None:
        return []
    workdir = place(weights)[0]
    theirs = images.read(workdir, 'train')
    if theirs is None:
        if NOTED in files.read_metadata(workdir):
            return [f'{workdir / images.IMAGES} is gone: nothing tells which images trained']
        return []
    ours = [held_out.name(i) for i in range(len(held_out))]
    noted = theirs.sizes != copies.MISSING
    there = noted & (copies.sizes(theirs.places) == theirs.sizes)
    same = copies.pairs([theirs.places[row] for row in np.flatnonzero(there)], ours)
    gone = {
        (Path(theirs.places[row]).name, theirs.sizes[row]) for row in np.flatnonzero(noted & ~there)
    }
    named = np.isin(held_out.names, theirs.names[~noted])
    for i, size in enumerate(copies.sizes(ours) if gone else ()):
        named[i] |= (Path(ours[i]).name, size) in gone
    named[[image for image, _ in same]] = False
    alike = 'have the names and sizes of' if gone else 'have the names of'
    return [
        f'{count:,} of the {len(ours):,} images to evaluate on {are} images that {weights} '
        'trained on'
        for count, are in ((len(same), 'are'), (np.count_nonzero(named), alike))
        if count
    ]

"""Finding the files of a source (a folder or a tar) and of a separate validation source."""

from __future__ import annotations

import re
from pathlib import Path

from jcls.tools.prepare import archive, listing
from jcls.tools.prepare.listing import TRAIN, VALIDATION, Listing


def find_files(source: Path, validation: Path | None, work: Path) -> Listing:
    """List `source` and `validation`, which must have the same classes; `work` is for copies."""
    own = _list(source, work)
    if validation is None:
        return own
    if VALIDATION in own.files:
        raise ValueError(f'--val={validation}, but {source} has val/ already: which one is it?')
    other = _list(validation, work)
    if VALIDATION in other.files:
        raise ValueError(f'--val={validation} has train/ and val/: give one of them')
    classes = listing.same_classes((str(source), own.classes), (str(validation), other.classes))
    prefix = f'{validation.resolve().name}:'
    files = [file._replace(shown=prefix + file.shown) for file in other.files[TRAIN]]
    ignored = [(prefix + path, reason) for path, reason in other.ignored]
    both = {TRAIN: own.files[TRAIN], VALIDATION: files}
    return Listing(classes, both, own.ignored + ignored)


def name_dataset(source: Path, name: str | None) -> str:
    """The name of the dataset, as given or made from the source's name."""
    if name is None:
        stem = re.sub(r'\.(tar(\.\w+)?|t\w*z\w*)$', '', source.resolve().name)
        derived = re.sub(r'\W+', '_', stem.lower(), flags=re.ASCII).strip('_')
        if not re.fullmatch('[a-z][a-z0-9_]*', derived):
            raise ValueError(f'no name for a dataset can be made from {source}: give one as --name')
        return derived
    if not re.fullmatch('[a-zA-Z][a-zA-Z0-9_]*', name):
        raise ValueError(
            f'--name={name!r}: a TFDS name begins with a letter and has letters, digits and '
            'underscores only'
        )
    return name


def _list(source: Path, work: Path) -> Listing:
    if source.is_dir():
        return listing.arrange(listing.walk(source), str(source), packed=False)
    if not source.is_file():
        raise ValueError(f'{source}: no such folder or tar')
    entries = archive.entries(archive.plain(source, work), str(source))
    return listing.arrange(entries, str(source), packed=True)

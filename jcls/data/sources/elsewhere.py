"""What a folder or file is that the chosen data source cannot read, and the options that read it.

It is looked at only for the message of an error.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path

from jcls.data.sources.classes import listed
from jcls.data.sources.tree import images, walk

INFO = 'dataset_info.json'  # of a dataset of TFDS
ARCHIVE = r'.*\.(zip|rar|7z|tar|tgz|tbz2?|txz|tzst|gz|bz2|xz|zst)'
TAR = r'.*\.(tar(\.(gz|bz2|xz))?|tgz|tbz2|txz)'  # what `jcls prepare` reads
TABLE = r'.*\.(txt|csv|tsv|json|jsonl|lst|xlsx?|parquet)'
SHARD = r'.*tfrecords?.*|.*array_?record.*|.*-\d{5}-of-\d{5}.*'
LEVELS = 3  # of folders around a dataset of TFDS: NAME/CONFIG/VERSION
LIST = (
    'a list of them (a text file with a path, a tab and a class on each line) is evaluated on by '
    '`jcls evaluate RUN FILE`, and otherwise read with '
    '--config.data.name=list --config.data.train_list=FILE --config.data.dir='
)


def elsewhere(path: Path) -> str:
    """What `path` is and the options that read it, as a sentence; '' if that is not known."""
    name = path.name.lower()
    if path.is_dir():
        return records(path) or _class_folders(path)
    if not path.is_file():
        return ''
    if re.fullmatch(ARCHIVE, name):
        prepare = f', or make a dataset of it: jcls prepare {path} OUT'
        return f'{path} is an archive: unpack it{prepare if re.fullmatch(TAR, name) else ""}'
    if re.fullmatch(SHARD, name):
        return records(path.parent)
    if re.fullmatch(TABLE, name):
        where = shlex.quote(str(path.parent))
        return f'{path} is a file, not a folder; if it names images, {LIST}{where}'
    return ''


def records(path: Path) -> str:
    """The same for a folder of records, with TFDS's description or without it."""
    found = sorted(_described(path, LEVELS))
    if found:
        names = dict.fromkeys(filter(None, (_name(place, path) for place in found)))
        given = next(iter(names)) if names else str(found[-1])
        return (
            f'{path} was written by TFDS{f" ({listed(names)})" if len(names) > 1 else ""}; give '
            f'--config.data.name=tfds --config.data.dataset={shlex.quote(given)}'
            + (f' --config.data.dir={shlex.quote(str(path))}' if names else '')
        )
    try:
        files = sorted(os.listdir(path))  # noqa: PTH208
    except OSError:  # it may not be read
        return ''
    shards = [name for name in files if re.fullmatch(SHARD, name.lower())]
    if not shards:
        return ''
    if any('array' in name.lower() for name in shards):
        return (
            f'{path} has records ({shards[0]}, ...) but not the {INFO} that TFDS writes beside '
            'them; with it, --config.data.name=tfds reads them'
        )
    patterns = [*dict.fromkeys(re.sub(r'\d+-of-\d+', '*-of-*', name) for name in shards)]
    train = next((p for p in patterns if 'train' in p.lower()), patterns[0])
    val = next((p for p in patterns if re.search('val|test', p.lower())), 'PATTERN')
    return (
        f'{path} has records; give --config.data.name=records --config.data.dir='
        f'{shlex.quote(str(path))} --config.data.train={shlex.quote(train)} '
        f'--config.data.val={shlex.quote(val)} --config.data.num_classes=N'
    )


def unsorted(where: str, images: int, others: Collection[str]) -> str:
    """What to do about images that lie in no class folders, beside files of `others`' names."""
    archives = [name for name in others if re.fullmatch(ARCHIVE, name.lower())]
    tables = [name for name in others if re.fullmatch(TABLE, name.lower())]
    if archives:
        return f'; {listed(archives)} in it: unpack, or make a dataset with jcls prepare'
    if not images:
        return ''
    beside = f' ({listed(tables)} beside them: is it one?)' if tables else ''
    return (
        f'. It has {images:,} images right inside: give each class a folder; or {LIST}'
        f'{shlex.quote(where)}{beside}'
    )


def _described(path: Path, levels: int) -> Iterator[Path]:
    """The folders of TFDS's datasets at or below `path`."""
    if os.path.isfile(path / INFO):  # noqa: PTH113  (False, too, where nobody may look)
        yield path
    elif levels:
        try:
            with os.scandir(path) as entries:
                inside = [Path(e.path) for e in entries if e.is_dir() and e.name != 'downloads']
        except OSError:  # it may not be read
            return
        for folder in inside:
            yield from _described(folder, levels - 1)


def _name(place: Path, path: Path) -> str:
    """'NAME' or 'NAME/CONFIG' of a dataset, if TFDS would look for that in `path`; else ''."""
    if re.search(r'[*?[]', str(path)):  # it would take the path for a pattern
        return ''
    try:
        name = json.loads((place / INFO).read_text('utf-8'))['name']
    except (OSError, ValueError, KeyError, TypeError):
        return ''
    inside = place.relative_to(path).parts[:-1]
    return '/'.join(inside) if inside[:1] == (name,) else ''


def _class_folders(path: Path) -> str:
    """The same for a folder with images in the folders of it."""
    try:
        if not any('/' in entry.path for entry in images(walk(path), [])):
            return ''
    except ValueError:  # some folders cannot be read
        return ''
    where = shlex.quote(str(path))
    return f'{path} has folders of images; give --config.data.name=folder --config.data.dir={where}'

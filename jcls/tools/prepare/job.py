"""The folder of an unfinished dataset, from which a killed preparation goes on.

OUT/NAME/incomplete.1.0.0/   (no version to TFDS)
    lock.json                names the running process
    inspected.jsonl          properties of every file looked at so far
    job.json                 arguments and source, once writing has begun
    dataset/                 finished shards; in the end renamed to ...
OUT/NAME/1.0.0/              ... this, so what is here is complete
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from jcls.data.sources.layout import File, Layout
from jcls.tools.prepare.inspect import ImageInfo
from jcls.workdir.lock import Lock

VERSION = '1.0.0'
REPORT = 'report.json'


class Job:
    """The preparation of one dataset, finished or not."""

    def __init__(self, out: Path, name: str) -> None:
        self.name = name
        self.final = out / name / VERSION
        self.work = out / name / f'incomplete.{VERSION}'
        self.dataset = self.work / 'dataset'
        self._journal: TextIO | None = None
        self._infos: dict[tuple[str, int, int], ImageInfo] = {}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder for this process alone; it is removed if it stays empty."""
        new_folders = [path for path in (self.work, *self.work.parents) if not path.exists()]
        lock = Lock(self.work, 'choose another --name or output folder')
        try:
            yield
        finally:
            if self._journal is not None:
                self._journal.close()
            lock.close()
            for path in dict.fromkeys((self.work, *new_folders)):
                with suppress(OSError):  # it is not empty, so it stays
                    path.rmdir()

    def finished(self, identity: Mapping[str, Any]) -> dict[str, Any] | None:
        """The report of the finished dataset, if there is one from the same job.

        Raises:
          ValueError: if another job has made it; the message says what differs.
        """
        if not self.final.exists():
            return None
        try:
            report: dict[str, Any] = json.loads((self.final / REPORT).read_text())
            before = report['identity']
        except (OSError, ValueError, KeyError):
            raise ValueError(
                f'{self.final} exists and was not made by `jcls prepare`; choose another --name or '
                'output folder'
            ) from None
        anew = 'choose another --name or output folder'
        _compare(before, identity, f'{self.final} was made', anew)
        if report['written_bytes'] != self.size(self.final):
            raise ValueError(f'{self.final} was complete, but its shards are not now: {anew}')
        return report

    @staticmethod
    def size(folder: Path) -> int:
        """The bytes of all shards in a folder."""
        return sum(path.stat().st_size for path in folder.glob('*.array_record-*'))

    def begin_writing(self, identity: Mapping[str, Any]) -> None:
        """Record arguments and source; a ValueError if writing began with others."""
        path = self.work / 'job.json'
        if path.exists():
            cure = 'finish it with the same ones, or choose another output folder'
            _compare(json.loads(path.read_text()), identity, f'{self.work} was begun', cure)
        else:
            dump(path, identity)
        self.dataset.mkdir(exist_ok=True)

    def known(self, file: File) -> ImageInfo | None:
        """The properties of this file from an earlier run that was killed, or None."""
        if self._journal is None:
            self._open_journal()
        return self._infos.get((file.path, file.size, file.stamp))

    def info(self, file: File) -> ImageInfo:
        """The properties of a file that is recorded or known."""
        return self._infos[file.path, file.size, file.stamp]

    def record(self, infos: Sequence[tuple[File, ImageInfo]]) -> None:
        """Record the properties of some files, on disk at once."""
        journal = self._journal or self._open_journal()
        for file, info in infos:
            self._infos[file.path, file.size, file.stamp] = info
            if info.digest:  # a file without a digest may be readable the next time
                journal.write(json.dumps([file.path, file.size, file.stamp, *info]) + '\n')
        journal.flush()

    def finish(self) -> None:
        """Make the dataset appear at once, and remove what only a resumed run needs."""
        self.final.parent.mkdir(parents=True, exist_ok=True)
        self.dataset.rename(self.final)
        self.clean()

    def clean(self) -> None:
        """Remove what a run left behind that was killed after the end."""
        shutil.rmtree(self.work, ignore_errors=True)

    def _open_journal(self) -> TextIO:
        path = self.work / 'inspected.jsonl'
        whole = 0
        if path.exists():
            with path.open('rb') as lines:
                for line in lines:
                    if not line.endswith(b'\n'):
                        break  # a kill has cut it off
                    shown, size, stamp, *info = json.loads(line)
                    self._infos[shown, size, stamp] = ImageInfo(*info)
                    whole += len(line)
            os.truncate(path, whole)
        self._journal = path.open('a')
        return self._journal


def identify(layout: Layout, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The identity of a job: its arguments and the names, sizes and times of its files."""
    names = hashlib.blake2b(digest_size=16)
    files = [(split, file) for split, part in layout.files.items() for file in part]
    for split, file in files:
        names.update(os.fsencode(f'{split} {file.path} {file.size} {file.stamp}\n'))
    return {
        **arguments,
        'source.files': len(files),
        'source.bytes': sum(file.size for _, file in files),
        'source.digest': names.hexdigest(),
    }


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], what: str, cure: str) -> None:
    differs = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if not differs:
        return
    lines = [f'  - {key} = {before.get(key)!r}\n  + {key} = {now.get(key)!r}' for key in differs]
    note = ''
    if differs == ['source.digest']:
        note = '\n(a name, a size or a time of modification changed in the source)'
    raise ValueError(
        f'{what} with other arguments or another source:\n'
        + '\n'.join(lines)
        + note
        + f'\n{cure}, '
        'or choose another --name or output folder'
    )


def dump(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file atomically: a kill leaves the old one or the new one."""
    unfinished = path.with_name(f'unfinished.{path.name}')
    with unfinished.open('w') as file:
        json.dump(value, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    unfinished.rename(path)

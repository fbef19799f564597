"""The lock of a folder: one run at a time trains in a workdir.

The file ``lock.json`` names its owner: host, process, since when. A process of this machine is gone
when the system no longer has it. One of another machine is gone when its lock no longer beats: the
owner writes it anew every few seconds. Neither needs what a shared file system may lack or only
pretend to have, such as file locks, or clocks that agree.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path

from jcls.host.terminal import status

logger = logging.getLogger(__name__)

FILE = 'lock.json'
BEAT = 10.0  # seconds after which the owner writes its lock again
PATIENCE = 90.0  # seconds without a beat after which an owner is gone; file systems cache for 60
SETTLE = 1.0  # seconds in which two processes that take over the same lock see each other


@dataclasses.dataclass(frozen=True, kw_only=True)
class Owner:
    """The process that holds a lock.

    Attributes:
      token: what no other owner has.
      host: name of its machine.
      machine: the boot and the process namespace in which `pid` and `started` mean something.
      pid: number of the process.
      started: when the process started, as the system counts; '' where that is not known.
      since: local time at which it took the lock.
      folder: whole path of the folder; a copy of a folder has a copy of its lock.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: str
    since: str
    folder: str

    def __str__(self) -> str:
        return f'process {self.pid} on {self.host}, since {self.since}'

    def runs(self) -> bool:
        """Whether this machine, which must be the owner's, still has the process."""
        if self.started:
            return _started(self.pid) == self.started
        try:
            os.kill(self.pid, 0)
        except OSError as error:
            return isinstance(error, PermissionError)
        return True


class Lock:
    """The lock of a folder, held from the constructor to `close`."""

    def __init__(self, folder: Path, otherwise: str = 'use another --workdir') -> None:
        """Take the lock, also that of an owner who is gone; the folder is made.

        Args:
          folder: the folder to hold.
          otherwise: what to do, but for waiting, if it is in use.

        Raises:
          ValueError: if it is in use.
          OSError: if it cannot be written.
        """
        self._folder, self._path, self._otherwise = folder, folder / FILE, otherwise
        self._owner = Owner(
            token=uuid.uuid4().hex,
            host=socket.gethostname(),
            machine=_machine(),
            pid=os.getpid(),
            started=_started(os.getpid()),
            since=time.strftime('%Y-%m-%d %H:%M:%S'),
            folder=str(folder.resolve()),
        )
        self._count, self._successor = 0, ''
        self._made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        while not self._create():
            self._take_over()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise ValueError if another process has taken the folder over."""
        if self._successor:
            raise ValueError(
                f'{self._folder} was taken over by {self._successor}, which saw no sign of life '
                f'of this process for {PATIENCE:g} s; this one ends without saving'
            )

    def close(self) -> None:
        """Give the lock back."""
        self._ended.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            if self._is_ours():
                self._path.unlink()
            if self._made:
                self._folder.rmdir()  # fails if anything was saved

    def _create(self) -> bool:
        """Make the file; whether the lock is ours, which it is not if there was a file."""
        try:
            with self._path.open('x') as file:
                file.write(self._text())
        except FileExistsError:
            return self._is_ours()
        return True

    def _take_over(self) -> None:
        """Replace the file of an owner who is gone.

        Of several processes that do so at once, the last one's file remains, and all see it.
        """
        content = _read(self._path)
        if content is None:  # it was given back just now
            if self._path.is_symlink():
                raise ValueError(f'{self._path} is a link that leads nowhere')
            return
        owner, ours = _parsed(content), self._owner
        name = str(owner or 'another process')
        here = owner and (owner.machine, owner.folder) == (ours.machine, ours.folder)
        if owner.runs() if owner and here else self._beats(content, name):
            raise ValueError(
                f'{self._folder} is in use by {name}. Wait for its end, or {self._otherwise}'
            )
        if _read(self._path) == content:
            logger.info('%s was in use by %s, which is gone', self._folder, name)
            self._write()
            time.sleep(SETTLE)

    def _beats(self, content: bytes, name: str) -> bool:
        """Whether the file, now `content`, is written again while we watch it."""
        logger.info(
            '%s is in use by %s: watching for up to %g s whether that one still runs',
            self._folder,
            name,
            PATIENCE,
        )
        with status(f'watching {self._path}'):
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                now = _read(self._path)
                if now != content:
                    return now is not None
                time.sleep(min(1.0, PATIENCE / 4))
        return False

    def _keep_beating(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # a full disk, a network that is away
                content = _read(self._path)
                owner = _parsed(content)
                if owner is not None and owner.token != self._owner.token:
                    self._successor = str(owner)
                    return
                self._write()

    def _write(self) -> None:
        temporary = self._path.with_name(f'{FILE}.{self._owner.token}')
        temporary.write_text(self._text())
        temporary.replace(self._path)

    def _text(self) -> str:
        self._count += 1
        return json.dumps({**dataclasses.asdict(self._owner), 'beat': self._count}) + '\n'

    def _is_ours(self) -> bool:
        owner = _parsed(_read(self._path))
        return owner is not None and owner.token == self._owner.token


def _read(path: Path) -> bytes | None:
    """The content of a file; None if there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _parsed(content: bytes | None) -> Owner | None:
    """The owner that a lock names; None if it is damaged, as on a disk that was full."""
    try:
        fields = json.loads(content or b'')
        owner = Owner(**{field.name: fields[field.name] for field in dataclasses.fields(Owner)})
        texts = [value for name, value in dataclasses.asdict(owner).items() if name != 'pid']
        valid = type(owner.pid) is int and 0 < owner.pid < 2**31
        return owner if valid and all(type(text) is str for text in texts) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _machine() -> str:
    """What tells machines apart on which process numbers mean different processes."""
    with contextlib.suppress(OSError):  # not on Linux
        boot = Path('/proc/sys/kernel/random/boot_id').read_text().strip()
        return f'{socket.gethostname()} {boot} {Path("/proc/self/ns/pid").readlink()}'
    return socket.gethostname()


def _started(pid: int) -> str:
    """When a process started, in ticks since the boot; '' if there is none, or it has ended."""
    try:
        state, *fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    except OSError:
        return ''
    return '' if state in 'ZX' else fields[18]

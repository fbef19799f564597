"""Standard output and standard error that end no process, and print any text.

Their reader may go away (``| head``, a `tee` that dies, a terminal that closes), and a disk may be
full. What is said then is lost, and the process goes on. What an encoding cannot express, such as
a file name that is not UTF-8, is printed escaped.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import select
import stat
import sys
from collections.abc import Iterator
from typing import Any

# Errors by which nobody reads any more, of pipes and of terminals.
GONE, HUNG_UP = (errno.EPIPE, errno.ECONNRESET), (errno.EIO, errno.ENXIO)


class _Lasting(io.FileIO):
    """The file of a standard stream; it takes what it cannot write."""

    def __init__(self, number: int) -> None:
        super().__init__(number, 'w', closefd=False)
        self.failure: OSError | None = None  # an error by which a reader misses something

    def write(self, data: Any) -> int:
        view, done = memoryview(data), 0
        try:
            while done < len(view):
                count = super().write(view[done:])
                if count is None:  # whoever shares this file has made it non-blocking
                    select.select([], [self], [])
                done += count or 0
        except OSError as error:
            is_device = stat.S_ISCHR(os.fstat(self.fileno()).st_mode)
            if error.errno in GONE or (error.errno in HUNG_UP and is_device):
                self._close()
            else:
                self.failure = error
        return len(view)

    def _close(self) -> None:
        """Let this file's number mean the void, for the libraries that write to it, too."""
        void = os.open(os.devnull, os.O_WRONLY)
        os.dup2(void, self.fileno())
        os.close(void)


@contextlib.contextmanager
def lasting() -> Iterator[None]:
    """Make ``sys.stdout`` and ``sys.stderr`` such streams, unless they are a notebook's or so."""
    before = sys.stdout, sys.stderr
    with contextlib.suppress(OSError):  # what was said before is nothing of ours
        for stream in filter(None, before):
            stream.flush()
    sys.stdout = _replaced(sys.stdout, sys.__stdout__)
    sys.stderr = _replaced(sys.stderr, sys.__stderr__)
    try:
        yield
    finally:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        sys.stdout, sys.stderr = before


def lost() -> str:
    """Why standard output lacks something that was printed; empty if it lacks nothing."""
    if sys.stdout is None:
        return ''
    sys.stdout.flush()
    buffer = getattr(sys.stdout, 'buffer', None)
    failure = getattr(getattr(buffer, 'raw', buffer), 'failure', None)
    return str(failure.strerror) if failure else ''


def _replaced(stream: Any, original: Any) -> Any:
    if stream is None or stream is not original:
        return stream
    file: Any = _Lasting(stream.fileno())
    unbuffered = stream.write_through  # as with PYTHONUNBUFFERED
    return io.TextIOWrapper(
        file if unbuffered else io.BufferedWriter(file),
        encoding=stream.encoding,
        errors='backslashreplace',
        line_buffering=stream.line_buffering,
        write_through=unbuffered,
    )

"""The machine: its cores, its processor, its memory."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import zlib
from pathlib import Path


def cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):  # not on macOS or Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def processor() -> str:
    """A name for this kind of CPU, since several kinds of machines may share a home folder."""
    described, facts = platform.processor(), Path('/proc/cpuinfo')
    if facts.exists():
        lines = facts.read_text().split('\n')
        described = next((line for line in lines if line.startswith(('flags', 'Features'))), '')
    return f'{platform.machine()}-{zlib.crc32(described.encode()):08x}'


def available_memory(root: str = '/') -> float | None:
    """Bytes of memory that are free without swapping, as the system under `root` says, or None.

    In a container it is at most what the container's limit leaves.
    """
    base, limits = Path(root), []
    try:
        facts = dict(line.split(':') for line in (base / 'proc/meminfo').read_text().splitlines())
        limits.append(float(facts['MemAvailable'].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not on every system
            limits.append(float(os.sysconf('SC_AVPHYS_PAGES')) * os.sysconf('SC_PAGE_SIZE'))
    with contextlib.suppress(OSError, KeyError, ValueError):  # no container, or no limit
        group = base / 'sys/fs/cgroup'
        used = dict(line.split() for line in (group / 'memory.stat').read_text().splitlines())
        limits.append(float((group / 'memory.max').read_text()) - float(used['anon']))
    return min(limits, default=None)


def peak_memory() -> int:
    """The highest resident memory of this process so far, in bytes; 0 where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak

"""The machine: its cores, its processor, its memory."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

GOOGLE = '0x1ae0'  # vendor of PCI devices
DISKS_AND_NETWORKS = ('0x01', '0x02')  # the beginnings of their classes


def cores(root: str = '/') -> int:
    """The number of cores that this process may use, at least 1.

    The process may be bound to some of the machine's (or told so by PYTHON_CPU_COUNT, from Python
    3.13 on), and its control groups may grant it a part of their time, which is rounded up: a
    container with half a core has 1.
    """
    if hasattr(os, 'process_cpu_count'):  # from Python 3.13 on
        count = os.process_cpu_count()
    elif hasattr(os, 'sched_getaffinity'):  # not on macOS or Windows
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count()
    quotas = list(_quotas(Path(root)))
    return max(1, min([count or 1, *map(math.ceil, quotas)]))


def _quotas(base: Path) -> Iterator[float]:
    """The numbers of cores whose time the control groups of this process grant it."""
    for group in _control_groups(base, 'cpu'):
        with contextlib.suppress(OSError, ValueError):  # version 2; 'max' is no limit
            quota, period = (group / 'cpu.max').read_text().split()
            yield int(quota) / int(period)
        with contextlib.suppress(OSError, ValueError):  # version 1; -1 is no limit
            quota, period = (
                (group / f'cpu.cfs_{what}_us').read_text() for what in ('quota', 'period')
            )
            if int(quota) > 0:
                yield int(quota) / int(period)


def _control_groups(base: Path, controller: str) -> Iterator[Path]:
    """The folders of this process's control group and of those around it, which limit it, too.

    A line of /proc/self/cgroup is '0::/group' (version 2) or '4:cpu,cpuacct:/group' (version 1). A
    container sees its own group as the outermost one, whatever the line says.
    """
    try:
        lines = (base / 'proc/self/cgroup').read_text().splitlines()
    except OSError:
        lines = ['0::/']
    for line in lines:
        _, controllers, path = line.split(':', 2)
        if controllers and controller not in controllers.split(','):
            continue
        mount = base / 'sys/fs/cgroup' / (controller if controllers else '')
        inside = [part for part in path.split('/') if part not in ('', '..')]
        for depth in range(len(inside), -1, -1):
            yield mount.joinpath(*inside[:depth])


def processor() -> str:
    """A name for this kind of CPU, since several kinds of machines may share a home folder."""
    described, facts = platform.processor(), Path('/proc/cpuinfo')
    if facts.exists():
        lines = facts.read_text().split('\n')
        described = next((line for line in lines if line.startswith(('flags', 'Features'))), '')
    return f'{platform.machine()}-{zlib.crc32(described.encode()):08x}'


def may_have_tpu(root: str = '/') -> bool:
    """Whether this machine may have a TPU: False only where its list of PCI devices shows none.

    A TPU is a device of Google's, and neither a disk nor a network card, which Google makes, too.
    """
    devices = Path(root) / 'sys/bus/pci/devices'
    if not devices.is_dir():
        return True
    for device in devices.iterdir():
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ('vendor', 'class'))
        except OSError:
            return True
        if vendor == GOOGLE and not kind.startswith(DISKS_AND_NETWORKS):
            return True
    return False


def available_memory(root: str = '/') -> float | None:
    """Bytes of memory that are free without swapping, as the system under `root` says, or None.

    In a container, or in a job of a scheduler, it is at most what the limit leaves.
    """
    base, limits = Path(root), []
    try:
        facts = dict(line.split(':') for line in (base / 'proc/meminfo').read_text().splitlines())
        limits.append(float(facts['MemAvailable'].split()[0]) * 1024)
    except (OSError, KeyError, ValueError):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # not on every system
            limits.append(float(os.sysconf('SC_AVPHYS_PAGES')) * os.sysconf('SC_PAGE_SIZE'))
    for group in _control_groups(base, 'memory'):
        # A limit and what is used of it, in version 2 and in version 1. A group without a limit has
        # no number there. The kernel's copies of files count as free.
        for limit, anonymous in (
            ('memory.max', 'anon'),
            ('memory.high', 'anon'),
            ('memory.limit_in_bytes', 'total_rss'),
        ):
            with contextlib.suppress(OSError, KeyError, ValueError):
                lines = (group / 'memory.stat').read_text().splitlines()
                used = float(dict(line.split() for line in lines)[anonymous])
                limits.append(max(float((group / limit).read_text()) - used, 0.0))
    return min(limits, default=None)


def peak_memory() -> int:
    """The highest resident memory of this process so far, in bytes; 0 where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == 'darwin' else 1024 * peak

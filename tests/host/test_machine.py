"""Cores, memory and TPUs, by what the kernel says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jcls.host.machine import available_memory, cores, may_have_tpu


def write(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return str(root)


def test_the_memory_that_is_available(tmp_path: Path) -> None:
    """It is what the kernel says can be had, or what a container's limit leaves."""
    assert available_memory() > 1e6
    root = write(tmp_path, {'proc/meminfo': 'MemTotal: 9 kB\nMemAvailable:  5000 kB\n'})
    assert available_memory(root) == 5000 * 1024
    group = 'sys/fs/cgroup/'
    write(tmp_path, {f'{group}memory.stat': 'anon 1000\nfile 9000\n'})
    write(tmp_path, {f'{group}memory.max': 'max\n'})
    assert available_memory(root) == 5000 * 1024
    write(tmp_path, {f'{group}memory.max': '21000\n'})
    assert available_memory(root) == 20000
    write(tmp_path, {'proc/self/cgroup': '0::/job/step\n'})
    write(tmp_path, {f'{group}job/memory.stat': 'anon 500\n', f'{group}job/memory.high': '8500\n'})
    assert available_memory(root) == 8000  # the group around the process's own


def test_the_memory_of_an_older_kernel(tmp_path: Path) -> None:
    """Version 1 of control groups has other files; no limit there is a huge number."""
    root = write(
        tmp_path,
        {
            'proc/meminfo': 'MemAvailable: 5000 kB\n',
            'proc/self/cgroup': '9:memory:/docker/ab\n1:cpu,cpuacct:/docker/ab\n',
            'sys/fs/cgroup/memory/memory.stat': 'rss 1\ntotal_rss 4000\n',
            'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712\n',
        },
    )
    assert available_memory(root) == 5000 * 1024
    write(tmp_path, {'sys/fs/cgroup/memory/memory.limit_in_bytes': '10000\n'})
    assert available_memory(root) == 6000


@pytest.mark.parametrize(
    ('groups', 'files', 'wanted'),
    [
        ('0::/\n', {'cpu.max': 'max 100000'}, 8),
        ('0::/\n', {'cpu.max': '50000 100000'}, 1),  # half a core
        ('0::/\n', {'cpu.max': '250000 100000'}, 3),  # as much as two and a half
        ('0::/\n', {'cpu.max': '9900000 100000'}, 8),
        ('0::/pod/box\n', {'pod/box/cpu.max': 'max 100000', 'pod/cpu.max': '200000 100000'}, 2),
        ('0::/../other\n', {'cpu.max': '200000 100000'}, 2),  # the parent of a namespace's root
        ('2:cpu,cpuacct:/docker/ab\n', {'cpu/cpu.cfs_quota_us': '-1'}, 8),
        (
            '2:cpu,cpuacct:/docker/ab\n1:cpuset:/\n',
            {'cpu/cpu.cfs_quota_us': '50000', 'cpu/cpu.cfs_period_us': '100000'},
            1,
        ),
        (
            '2:cpu:/job\n0::/\n',
            {'cpu/job/cpu.cfs_quota_us': '300000', 'cpu/job/cpu.cfs_period_us': '100000'},
            3,
        ),
    ],
)
def test_the_cores_follow_the_quota(
    groups: str,
    files: dict[str, str],
    wanted: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The time that a control group grants, of either version, rounded up to whole cores."""
    monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(os, 'process_cpu_count', lambda: 8, raising=False)
    write(tmp_path, {'proc/self/cgroup': groups})
    root = write(tmp_path, {f'sys/fs/cgroup/{name}': text for name, text in files.items()})
    assert cores(root) == wanted


def test_the_cores_without_any_word_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No control groups and an unknown number of cores: 1."""
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    monkeypatch.delattr(os, 'process_cpu_count', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: None)
    assert cores(str(tmp_path)) == 1


@pytest.mark.parametrize(
    ('devices', 'wanted'),
    [
        ([], False),
        ([('0x10de', '0x030200')], False),  # a GPU
        ([('0x1ae0', '0x020000'), ('0x1ae0', '0x010802')], False),  # Google's network and disk
        ([('0x1ae0', '0x020000'), ('0x1ae0', '0xff0000')], True),
        ([('0x1ae0', '0x120000')], True),
    ],
)
def test_a_tpu_is_a_device_of_google(
    devices: list[tuple[str, str]], wanted: bool, tmp_path: Path
) -> None:
    """A machine that does not list its devices may have one, too."""
    assert may_have_tpu(str(tmp_path))
    (tmp_path / 'sys/bus/pci/devices').mkdir(parents=True)
    for i, (vendor, kind) in enumerate(devices):
        place = f'sys/bus/pci/devices/{i}'
        write(tmp_path, {f'{place}/vendor': f'{vendor}\n', f'{place}/class': f'{kind}\n'})
    assert may_have_tpu(str(tmp_path)) == wanted

"""The memory that is free is what the kernel and a container's limit leave."""

from __future__ import annotations

from pathlib import Path

from jcls.host.machine import available_memory


def test_the_memory_that_is_available(tmp_path: Path) -> None:
    """It is what the kernel says can be had, or what a container's limit leaves."""
    assert available_memory() > 1e6
    (tmp_path / 'proc').mkdir()
    (tmp_path / 'proc' / 'meminfo').write_text('MemTotal: 9 kB\nMemAvailable:  5000 kB\n')
    assert available_memory(str(tmp_path)) == 5000 * 1024
    group = tmp_path / 'sys' / 'fs' / 'cgroup'
    group.mkdir(parents=True)
    (group / 'memory.stat').write_text('anon 1000\nfile 9000\n')
    (group / 'memory.max').write_text('max\n')
    assert available_memory(str(tmp_path)) == 5000 * 1024
    (group / 'memory.max').write_text('21000\n')
    assert available_memory(str(tmp_path)) == 20000

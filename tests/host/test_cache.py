"""The cache is one folder, and one that is damaged or cannot be written costs only time."""

from __future__ import annotations

import errno
import os
import pwd
import re
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import jax
import numpy as np
import pytest

from jcls.data.sources import tfrecord
from jcls.distributed import compiler
from jcls.distributed.mesh import create_mesh
from jcls.host import cache
from jcls.host.cache import cache_folder
from jcls.host.tensorflow import tf


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is remembered of files goes to the test's own folder."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    return tmp_path / 'cache' / 'jcls'


def test_where_the_cache_is(monkeypatch, tmp_path):
    """$JCLS_CACHE, else $XDG_CACHE_HOME/jcls, else ~/.cache/jcls; ~ is the home."""
    monkeypatch.setenv('HOME', str(tmp_path))
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'xdg'))
    monkeypatch.setenv('JCLS_CACHE', '~/mine')
    assert cache_folder() == tmp_path / 'mine'
    monkeypatch.setenv('JCLS_CACHE', '')
    assert cache_folder() == tmp_path / 'xdg' / 'jcls'
    monkeypatch.delenv('XDG_CACHE_HOME')
    assert cache_folder() == tmp_path / '.cache' / 'jcls'


def test_a_memory_of_no_use_is_a_warning(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """One that is damaged is made anew; one that cannot be written costs only the time."""
    shards = [str(tmp_path / name) for name in 'ab']
    for shard in shards:
        with tf.io.TFRecordWriter(shard) as writer:
            writer.write(shard.encode())
    first = tfrecord.index(shards)
    (stored,) = own_cache.iterdir()
    for content in (b'', stored.read_bytes()[:100], b'nonsense'):
        stored.write_bytes(content)
        caplog.clear()
        np.testing.assert_array_equal(tfrecord.index(shards), first)
        assert 'cannot read the cached index' in caplog.text
    assert list(own_cache.iterdir()) == [stored]
    caplog.clear()
    stored.unlink()
    full = OSError(errno.ENOSPC, 'No space left on device')
    monkeypatch.setattr(np, 'save', Mock(side_effect=full))
    np.testing.assert_array_equal(tfrecord.index(shards), first)
    assert 'cannot cache the index' in caplog.text
    assert list(own_cache.iterdir()) == []


def test_without_a_home_the_cache_is_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """A folder that is the user's alone, which is said once; never one of somebody else."""
    for name in ('HOME', 'XDG_CACHE_HOME', 'JCLS_CACHE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    monkeypatch.setattr(pwd, 'getpwuid', Mock(side_effect=KeyError))
    known = tmp_path / f'jcls-{os.getuid()}'
    assert [cache_folder(), cache_folder()] == [known, known]
    assert known.stat().st_mode & 0o777 == 0o700
    before = jax.config.jax_compilation_cache_dir
    try:
        jax.config.update('jax_compilation_cache_dir', None)
        for _ in range(2):
            compiler.create(create_mesh('any', 8))
        assert jax.config.jax_compilation_cache_dir.startswith(f'{known}/xla/')
        assert len(caplog.messages) == 1
        assert 'since there is no home folder' in caplog.text
        jax.config.update('jax_compilation_cache_dir', None)
        known.chmod(0o777)
        with pytest.raises(PermissionError, match="is not this user's alone; JCLS_CACHE names"):
            cache_folder()
        compiler.create(create_mesh('any', 8))
        assert jax.config.jax_compilation_cache_dir is None
        assert 'compiled programs are not kept: ' in caplog.text
    finally:
        jax.config.update('jax_compilation_cache_dir', before)


@pytest.mark.parametrize('variable', ['JCLS_CACHE', 'XDG_CACHE_HOME'])
def test_a_cache_that_cannot_be_written_is_temporary(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Below a file, or where the user may not write."""
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    monkeypatch.delenv('JCLS_CACHE', raising=False)
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv(variable, str(tmp_path / 'file' / 'cache'))
    assert cache_folder() == tmp_path / f'jcls-{os.getuid()}'
    assert re.fullmatch('.*file/cache.* cannot be written', cache.unusable())
    # A home that is another's: below it nothing can be seen.
    stat = os.stat

    def guarded(path: Any, **options: Any) -> os.stat_result:
        if 'closed/' in str(path):
            raise PermissionError(errno.EACCES, 'Permission denied', path)
        return stat(path, **options)

    (tmp_path / 'closed').mkdir()
    monkeypatch.setattr(os, 'stat', guarded)
    monkeypatch.setattr(os, 'access', lambda path, _: not str(path).endswith('closed'))
    monkeypatch.setenv(variable, str(tmp_path / 'closed' / 'cache'))
    assert cache_folder() == tmp_path / f'jcls-{os.getuid()}'

"""The cache is one folder, and one that is damaged or cannot be written costs only time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jcls.data.sources import tfrecord
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
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    monkeypatch.setenv('JCLS_CACHE', '~/mine')
    assert cache_folder() == tmp_path / 'mine'
    monkeypatch.setenv('JCLS_CACHE', '')
    assert cache_folder() == Path('/xdg/jcls')
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
    (tmp_path / 'file').write_text('')
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
    np.testing.assert_array_equal(tfrecord.index(shards), first)
    assert 'cannot cache the index' in caplog.text
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', str(tmp_path))
    assert cache.cache_folder() == tmp_path / '.cache' / 'jcls'

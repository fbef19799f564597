"""Paths with ~, and what a disk has left."""

from __future__ import annotations

import errno
import pwd
import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from jcls.host.disk import free_space, local


def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user whom the system does not know, without HOME."""
    monkeypatch.delenv('HOME', raising=False)
    monkeypatch.setattr(pwd, 'getpwuid', Mock(side_effect=KeyError))


def test_the_home_is_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """~ is the home; a name that begins with ~ is a name; ~ without a home is said."""
    monkeypatch.setenv('HOME', str(tmp_path))
    assert local('~/a') == tmp_path / 'a'
    assert local('~nobody-of-this-name/a') == Path('~nobody-of-this-name/a')
    assert local('a~/~') == Path('a~/~')
    homeless(monkeypatch)
    assert local('/a') == Path('/a')
    with pytest.raises(ValueError, match='~/a: there is no home folder; write the whole path'):
        local('~/a')


def test_a_disk_that_does_not_tell_is_not_full(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """0 bytes free, or no answer, is unknown."""
    assert free_space(tmp_path) > 0
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(total=0, free=0))
    assert free_space(tmp_path) is None
    refused = OSError(errno.ENOSYS, 'Function not implemented')
    monkeypatch.setattr(shutil, 'disk_usage', Mock(side_effect=refused))
    assert free_space(tmp_path) is None

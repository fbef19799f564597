"""One run at a time trains in a workdir, and whoever is gone holds nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from helpers.runs import TINY, environment
from jcls import train
from jcls.workdir import lock
from jcls.workdir.lock import FILE, Lock

HOLD = 'import sys, time; from pathlib import Path; from jcls.workdir.lock import Lock\n'
HOLD += 'Lock(Path(sys.argv[1])); print("held", flush=True); time.sleep(60)'


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lock, 'PATIENCE', 0.6)
    monkeypatch.setattr(lock, 'BEAT', 0.05)
    monkeypatch.setattr(lock, 'SETTLE', 0.3)


def owner(**changes):
    """The content of a lock of another machine."""
    fields = {'token': 'theirs', 'host': 'elsewhere', 'machine': 'other', 'pid': 7}
    fields |= {'started': '1', 'since': '2026-01-02 03:04:05', 'folder': '/runs/a', 'beat': 1}
    return fields | changes


def test_a_held_workdir_is_refused_with_the_owners_name(tmp_path):
    message = f'in use by process {os.getpid()} on {os.uname().nodename}, since 20'
    with closing(Lock(tmp_path)), pytest.raises(ValueError, match=message):
        Lock(tmp_path)
    assert not list(tmp_path.iterdir())  # given back, and the second left nothing
    Lock(tmp_path).close()


def test_training_is_refused_in_a_held_workdir_and_goes_on_afterwards(tmp_path):
    with closing(Lock(tmp_path)), pytest.raises(ValueError, match='in use by process'):
        train(TINY, tmp_path)
    assert not list(tmp_path.iterdir())
    assert train(TINY, tmp_path, summary=False).step
    assert not (tmp_path / FILE).exists()


def test_a_killed_owner_of_this_machine_is_taken_over_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, 'PATIENCE', 1e9)
    command = [sys.executable, '-c', HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b'held\n'
        with pytest.raises(ValueError, match=f'process {holder.pid} on '):
            Lock(tmp_path)
        holder.kill()
    Lock(tmp_path).close()
    assert not list(tmp_path.iterdir())


def test_a_number_that_another_process_has_got_since_is_not_the_owner(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, 'PATIENCE', 1e9)
    here = {'machine': lock._machine(), 'folder': str(tmp_path.resolve())}
    content = owner(**here, pid=os.getpid(), started='12')
    (tmp_path / FILE).write_text(json.dumps(content))
    with closing(Lock(tmp_path)) as ours:
        assert json.loads((tmp_path / FILE).read_text())['token'] != 'theirs'
        ours.check()


def test_a_copy_of_a_workdir_in_use_is_free(tmp_path):
    """Its lock names another folder, and does not beat here."""
    with closing(Lock(tmp_path / 'live')) as live:
        shutil.copytree(tmp_path / 'live', tmp_path / 'copy')
        Lock(tmp_path / 'copy').close()
        live.check()


def test_a_link_that_leads_nowhere_is_no_lock(tmp_path):
    (tmp_path / FILE).symlink_to('nowhere')
    with pytest.raises(ValueError, match='a link that leads nowhere'):
        Lock(tmp_path)


MACHINE = {'machine': lock._machine(), 'started': ''}


@pytest.mark.parametrize(
    'content',
    [
        json.dumps(owner()),
        '',
        '{"host": "x',
        '[]',
        '[' * 100_000,
        *(json.dumps(owner(**MACHINE, pid=pid)) for pid in ('abc', 10**30, 0, -1, None)),
    ],
)
def test_an_owner_elsewhere_who_no_longer_beats_is_taken_over(tmp_path, content):
    (tmp_path / FILE).write_text(content)
    began = time.monotonic()
    with closing(Lock(tmp_path)) as ours:
        assert time.monotonic() - began > lock.PATIENCE
        assert json.loads((tmp_path / FILE).read_text())['pid'] == os.getpid()
        ours.check()


def test_an_owner_elsewhere_who_beats_is_respected(tmp_path):
    ended = threading.Event()

    def beat():
        for count in range(1000):
            (tmp_path / 'new').write_text(json.dumps(owner(beat=count)))
            (tmp_path / 'new').replace(tmp_path / FILE)
            if ended.wait(0.05):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        time.sleep(0.1)
        with pytest.raises(ValueError, match=r'process 7 on elsewhere, since 2026-01-02 03:04:05'):
            Lock(tmp_path)
    finally:
        ended.set()
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == [FILE]


def test_an_owner_elsewhere_who_ends_meanwhile_leaves_it_to_us(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(owner()))
    threading.Timer(0.2, (tmp_path / FILE).unlink).start()
    with closing(Lock(tmp_path)):
        assert json.loads((tmp_path / FILE).read_text())['token'] != 'theirs'


def test_of_many_that_come_at_once_one_gets_it(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(owner()))

    def take(_):
        try:
            return Lock(tmp_path)
        except ValueError:
            return None

    with ThreadPoolExecutor(8) as pool:
        held = [taken for taken in pool.map(take, range(8)) if taken]
    assert len(held) == 1
    held[0].check()
    held[0].close()


def test_who_was_taken_over_notices_and_leaves_the_lock_alone(tmp_path):
    ours = Lock(tmp_path)
    (tmp_path / FILE).write_text(json.dumps(owner()))
    for _ in range(100):
        time.sleep(0.05)
        if ours._successor:
            break
    with pytest.raises(ValueError, match='taken over by process 7 on elsewhere'):
        ours.check()
    ours.close()
    assert json.loads((tmp_path / FILE).read_text())['token'] == 'theirs'


def test_a_lock_that_somebody_removed_comes_back(tmp_path):
    with closing(Lock(tmp_path)) as ours:
        (tmp_path / FILE).unlink()
        time.sleep(0.5)
        assert (tmp_path / FILE).exists()
        ours.check()


def test_a_folder_made_for_nothing_goes_again(tmp_path):
    Lock(tmp_path / 'new').close()
    assert not list(tmp_path.iterdir())


def test_a_workdir_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / 'file').write_text('')
    for path in (tmp_path / 'file', tmp_path / 'file' / 'below', Path('/proc/jcls')):
        with pytest.raises(OSError, match='cannot write to the workdir'):
            train(TINY, path)

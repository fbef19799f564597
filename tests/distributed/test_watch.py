"""Processes watch each other: who died is told to all; strangers and broken networks are not it."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.runs import environment, free_port

# Each of the processes does what it is told.
PROGRAM = """
import os, sys, time
from jcls.distributed import launch, watch
launch.initialize()
{before}
deed = sys.argv[2:][int(os.environ['JAX_PROCESS_ID'])]

def act():
    open(sys.argv[1] + os.environ['JAX_PROCESS_ID'], 'w').close()
    if deed == 'wait':
        time.sleep(100)
    if deed == 'busy':  # with Python's lock held for half a second at a time
        for _ in range(300):
            sum(range(10_000_000))
    while len(os.listdir(sys.argv[1])) < len(sys.argv[2:]):
        time.sleep(0.1)
    if deed == 'linger':
        time.sleep(3)
    if deed == 'die':
        os.kill(os.getpid(), 9)
    if deed == 'fail':
        raise ValueError('mine')

try:
    with watch.watching():
        act()
except ValueError:
    launch.leave(1)
print('done', flush=True)
"""
# Before the others come strangers to the door.
STRANGERS = """
import socket
told = watch.gather
def gather(letter):
    other = not letter
    letters = told(letter)
    if other:
        for text in (b'', b'GET / HTTP/1.1', b'{}\\n', b'{"token": "x"}\\n', b'[]\\n'):
            with socket.create_connection(('localhost', letters[0]['port'])) as stranger:
                stranger.sendall(text)
    return letters
watch.gather = gather
"""
# Who answers hangs up at once, like a proxy with nobody behind it.
PROXY = """
import socket, threading
server = socket.create_server(('localhost', 0))
def hang_up():
    while True:
        server.accept()[0].close()
threading.Thread(target=hang_up, daemon=True).start()
connect = socket.create_connection
socket.create_connection = lambda _, **more: connect(server.getsockname(), **more)
"""
# Nobody can connect.
WALL = """
import socket
def refuse(*_, **__):
    raise OSError('no route to host')
socket.create_connection = refuse
"""


def run(
    folder: Path, deeds: tuple[str, ...], before: str = ''
) -> list[tuple[int, str, str, float]]:
    """Exit code, output, errors and seconds of each."""
    address = f'localhost:{free_port()}'
    (folder / 'ready').mkdir()
    began = time.monotonic()
    processes = [
        subprocess.Popen(
            [sys.executable, '-c', PROGRAM.replace('{before}', before), f'{folder}/ready/', *deeds],
            env=environment(
                1,
                JAX_COORDINATOR_ADDRESS=address,
                JAX_NUM_PROCESSES=str(len(deeds)),
                JAX_PROCESS_ID=str(i),
            ),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(len(deeds))
    ]
    ended = []
    for process in processes:
        output, errors = process.communicate(timeout=100)
        ended.append((process.returncode, output, errors, time.monotonic() - began))
    return ended


@pytest.mark.parametrize(
    ('deeds', 'end'),
    [
        (('die', 'wait', 'wait'), 'has died: killed'),
        (('busy', 'die', 'busy'), 'has died: killed'),
        (('wait', 'wait', 'fail'), 'has failed, and says why'),
    ],
)
def test_all_are_told_who_it_was(deeds: tuple[str, ...], end: str, tmp_path: Path) -> None:
    """Also those that have no connection to it; and they end at once, though they are busy."""
    ended = run(tmp_path, deeds)
    (culprit,) = (i for i, deed in enumerate(deeds) if deed in ('die', 'fail'))
    for i, (code, output, errors, seconds) in enumerate(ended):
        assert seconds < 60, errors
        assert 'done' not in output
        if i != culprit:
            assert code == 1, errors
            assert f'error: process {culprit} of 3, on {socket.gethostname()}, {end}' in errors


def test_an_end_in_peace(tmp_path: Path) -> None:
    """Nobody dies where all end one after the other; strangers at the door change nothing."""
    for code, output, errors, _ in run(tmp_path, ('linger', '', ''), before=STRANGERS):
        assert (code, output.split('\n')[-2]) == (0, 'done'), errors
        assert 'error' not in errors


@pytest.mark.parametrize('before', [WALL, PROXY])
def test_without_connections(before: str, tmp_path: Path) -> None:
    """The run goes on, and says when a death would be noticed."""
    first, *others = run(tmp_path, ('', ''), before=before)
    assert first[0] == 0
    for code, output, errors, _ in others:
        assert code == 0, errors
        assert 'a process that dies is noticed after 100 seconds' in output

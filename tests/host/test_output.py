"""Standard output that cannot be written, or not in its encoding, ends nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PRINTS = """
import logging, sys
from rich.console import Console
from jcls.host import output

sys.stdin.readline()
with output.lasting():
    logging.basicConfig()
    console = Console()
    for _ in range(3):
        print('a line', flush=True)
        console.print('another')
        logging.warning('a third')
    lost = output.lost()
sys.exit(len(lost))
"""


def script(text: str, **more: str) -> subprocess.Popen[bytes]:
    """A Python process that begins when it reads a line."""
    return subprocess.Popen(
        [sys.executable, '-c', text], env={**os.environ, **more},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.parametrize('unbuffered', ['', '1'])
def test_a_reader_that_is_gone_is_not_missed(unbuffered: str) -> None:
    """Neither print nor rich nor logging raises; nothing is said about it, not even at the end."""
    process = script(PRINTS, PYTHONUNBUFFERED=unbuffered)
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(b'\n')
    assert process.returncode == 0
    assert errors.split(b'\n')[:-1] == [b'WARNING:root:a third'] * 3


def test_a_terminal_that_is_gone_is_not_missed() -> None:
    """Writing to one that was closed is an input/output error."""
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, '-c', PRINTS],
        stdin=subprocess.PIPE, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    os.close(ours)
    process.communicate(b'\n')
    assert process.returncode == 0


def test_a_full_disk_is_told() -> None:
    """Of a result that somebody waits for: what is lost, and why."""
    with Path('/dev/full').open('w') as full:
        done = subprocess.run(
            [sys.executable, '-m', 'jcls.main', 'config', 'show', 'configs/quickstart.py'],
            stdout=full, stderr=subprocess.PIPE, check=False, text=True,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == 'error: cannot write to standard output: No space left on device\n'


@pytest.mark.parametrize(
    'locale', [{'PYTHONIOENCODING': 'utf-8:strict'}, {'PYTHONIOENCODING': 'ascii'}]
)
def test_what_cannot_be_encoded_is_escaped(locale: dict[str, str]) -> None:
    """A file name that is not UTF-8, and a name that is not ASCII; nothing else is changed."""
    text = """
import sys
from pathlib import Path
from rich.console import Console
from jcls.host import output
with output.lasting():
    print('a \\udcff b')
    Console(soft_wrap=True).print('c \\udcfe d')
    print('Katze \\u732b')
"""
    process = script(text, **locale)
    out, errors = process.communicate()
    assert process.returncode == 0, errors
    cat = '猫'.encode() if 'utf-8' in locale['PYTHONIOENCODING'] else rb'\u732b'
    assert out == b'a \\udcff b\nc \\udcfe d\nKatze ' + cat + b'\n'


def test_a_stream_of_another_kind_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """A notebook and a test have their own."""
    from jcls.host import output

    before = sys.stdout
    with output.lasting():
        assert sys.stdout is before
        print('x')
    assert capsys.readouterr().out == 'x\n'

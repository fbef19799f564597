"""Processes that do not run the same code, config and data in one workdir refuse to begin."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from helpers.runs import start
from jcls.distributed import agree


def test_a_host_with_another_config_is_named(tmp_path: Path) -> None:
    """One process with another rate: both refuse, and say who has what; nothing is written."""
    processes = start(tmp_path / 'run', 2, each=[(), ('--config.optimizer.lr=0.07',)])
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 1, errors
        assert 'do not run the same' in errors
        assert 'process 1 on ' in errors
        assert 'optimizer.lr = 0.07; process 0 on ' in errors
        assert errors.count(' = ') == 1
    assert not (tmp_path / 'run').exists()


AGREE = """
import json, sys
from pathlib import Path
import jax
import numpy as np
from jcls.assembly import SECTIONS
from jcls.config import common_fields
from jcls.distributed import agree, launch
launch.initialize()
index, code = jax.process_index(), agree._code
config = common_fields({'seed': 0, 'data': {'dir': f'/host{index}'}}, SECTIONS)
messages = {}
for what in ('nothing', 'code', 'data', 'workdir'):
    other = what if index == 1 else ''
    agree._code = (lambda: 'another') if other == 'code' else code
    workdir = Path(sys.argv[1]) / what / ('other' if other == 'workdir' else 'run')
    try:
        agree.agree(config, lambda: {'training images': 10 + (other == 'data')}, workdir)
    except ValueError as error:
        messages[what] = str(error)
for weights in (7, index):
    try:
        agree.require_same('config.init.source', {'params': np.full(3, weights)})
    except ValueError as error:
        messages['weights'] = str(error)
print(json.dumps(messages))
"""


def test_code_and_data_are_compared_and_folders_are_not(run_python: Any, tmp_path: Path) -> None:
    """A host may have its data elsewhere, but the same, and the same code and workdir."""
    for output in run_python(AGREE, str(tmp_path), processes=2):
        messages = json.loads(output.strip().split('\n')[-1])
        assert messages.keys() == {'code', 'data', 'workdir', 'weights'}
        assert 'config.init.source: the processes of this run read diff' in messages['weights']
        assert "code: jcls = 'another'; process 0 on" in messages['code']
        assert 'data: training images = 11; process 0 on' in messages['data']
        assert '/other) does not see what process 0 on' in messages['workdir']
    made = [path.relative_to(tmp_path).as_posix() for path in tmp_path.glob('*/*')]
    assert made == ['nothing/run']
    assert not list(tmp_path.glob('*/run/.*'))


def test_the_hash_of_the_code_changes_with_it(tmp_path: Path, monkeypatch) -> None:
    """With one byte of one source file."""
    folder = tmp_path / 'jcls' / 'training'
    folder.mkdir(parents=True)
    (folder / 'launch.py').write_text('a = 1')
    monkeypatch.setattr(agree, '__file__', os.fspath(folder / 'agree.py'))
    before = agree._code()
    assert before == agree._code()
    (folder / 'launch.py').write_text('a = 2')
    assert agree._code() != before

"""Runs and weights of earlier versions of jcls go on.

golden/run_c260cd8.tar.gz holds two runs of `TINY` with ema={'name': 'timm', 'decay': 0.9} and
init={'freeze': 0} that commit c260cd8 made: one stopped by SIGTERM at step 8, and the log of one
that nothing stopped.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import jcls
from helpers import golden_path
from helpers.runs import TINY, lines
from jcls.weights.load import read


def test_a_workdir_of_an_earlier_version_goes_on(tmp_path: Path) -> None:
    """With the same losses, rates and evaluations as the run that was never stopped."""
    with tarfile.open(golden_path('run_c260cd8.tar.gz')) as archive:
        archive.extractall(tmp_path, filter='data')
    config = {**TINY, 'ema': {'name': 'timm', 'decay': 0.9}, 'init': {'freeze': 0}}
    metadata, _ = read(tmp_path / 'stopped')
    assert metadata['step'] == 8
    assert read(tmp_path / 'stopped', 'best')[0]['step'] == 5
    result = jcls.train(config, tmp_path / 'stopped', summary=False)
    assert (result.step, result.interrupted) == (12, None)
    resumed, whole = lines(tmp_path / 'stopped'), lines(tmp_path / 'whole')
    assert len(resumed) == len(whole)
    for mine, theirs in zip(resumed, whole, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)  # another CPU rounds otherwise
    assert jcls.evaluate(tmp_path / 'stopped', 'best')['examples'] == 360


def test_a_list_that_has_moved_still_resumes(tmp_path: Path) -> None:
    """Where the data lie is no part of the mathematics; how often an image is drawn is."""
    for name in 'ab':
        (tmp_path / name).mkdir()
        for i in range(12):
            pixels = np.full((8, 8, 3), 20 * i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f'{i}.png')
    rows = [f'{name}/{i}.png {name}' for name in 'ab' for i in range(12)]
    for place in ('one.txt', 'two.txt'):
        (tmp_path / place).write_text('\n'.join(rows))
    data = {'name': 'list', 'train_list': str(tmp_path / 'one.txt'), 'dir': str(tmp_path)}
    crop = {'preprocess': ({'name': 'center_crop', 'size': 8},), 'batch_size': 8}
    tiny = {**TINY, 'evaluate': crop}
    jcls.train({**tiny, 'duration': '2 steps', 'data': data}, tmp_path / 'run', summary=False)
    moved = {**data, 'train_list': str(tmp_path / 'two.txt')}
    config = {**tiny, 'duration': '4 steps', 'data': moved}
    assert jcls.train(config, tmp_path / 'run', summary=False).step == 4
    with pytest.raises(ValueError, match=r'data\.repeats'):
        jcls.train({**config, 'data': {**moved, 'repeats': 2}}, tmp_path / 'run', summary=False)

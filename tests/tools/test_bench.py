"""The figures of the benchmark hold together; how large they are is the machine's business."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jcls
from jcls.main import main
from jcls.tools.bench import peers
from jcls.tools.bench.input import bench_input


def test_input(tiny: dict[str, Any]) -> None:
    """Every stage is there, in its order, and the rest follows from the speed of the whole."""
    augment = (*tiny['augment'], {'name': 'flip'})
    experiment = jcls.build({**tiny, 'augment': augment, 'mix': {'mixup': 0.2}})
    found = bench_input(experiment, seconds=0.2, rounds=1, step_seconds=1e-6)
    assert list(found['stages']) == ['read', '1. pad_and_crop', '2. flip', 'mix']
    assert sum(found['stages'].values()) == pytest.approx(found['cpu_ms_per_image'])
    rate, cores = found['images_per_second'], found['cores']
    assert rate > 0
    assert cores == len(os.sched_getaffinity(0))
    assert found['images_per_second_per_core'] == pytest.approx(rate / cores)
    assert found['images_per_second_needed'] == pytest.approx(8e6)
    assert found['input_bound']
    assert found['cores_needed'] == pytest.approx(8e6 / (rate / cores))
    assert found['memory_bytes'] > 50e6
    idle = bench_input(experiment, seconds=0.1, rounds=1, step_seconds=1e6)
    assert not idle['input_bound']


def test_a_crop_and_what_precedes_it_are_one_stage(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Images of different sizes make no batch: their operations are measured with the crop."""
    for name in ('a', 'b'):
        (tmp_path / name).mkdir()
        for i in range(6):
            pixels = np.full((20 + i, 30, 3), 20 * i, np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f'{i}.jpg')
    chain = ({'name': 'resize', 'size': 10}, {'name': 'center_crop', 'size': 8}, {'name': 'flip'})
    data = {'name': 'folder', 'dir': str(tmp_path), 'val_fraction': 0.3}
    config = {**tiny, 'data': data, 'augment': chain, 'evaluate': {'preprocess': chain[:2]}}
    experiment = jcls.build(config)
    stages = bench_input(experiment, seconds=0.1, rounds=1)['stages']
    assert list(stages) == ['read', '2. resize + center_crop', '3. flip']
    with pytest.raises(ValueError, match=r'--compare can measure.*config\.augment has resize'):
        peers.measure(experiment, sys.executable, 0.1)
    crop = ({'name': 'random_resized_crop', 'size': 8},)
    experiment = jcls.build({**config, 'augment': crop})
    empty = tmp_path / 'empty.py'  # a Python that has neither of them
    empty.write_text('#!/bin/sh\necho ModuleNotFoundError >&2; exit 1\n')
    empty.chmod(0o755)
    with pytest.raises(ValueError, match=r'neither torchvision nor DALI.*--peer_python'):
        peers.measure(experiment, str(empty), 0.1)


def test_cores(capsys: pytest.CaptureFixture[str]) -> None:
    """More cores than there are cannot be used."""
    words = ['bench', 'input', '--config', 'configs/quickstart.py', '--cores', '4096']
    assert main(words) == 1
    assert '--cores=4096: this process may use 1 to' in capsys.readouterr().err


@pytest.mark.parametrize('field', ['seconds', 'rounds', 'step_seconds'])
def test_nothing_is_measured_in_no_time(tiny: dict[str, Any], field: str) -> None:
    """A length, a count or a step of nothing is refused by its name."""
    with pytest.raises(ValueError, match=f'--{field}=0: must be positive'):
        bench_input(jcls.build(tiny), **{field: 0})


def test_peers_need_files(tiny: dict[str, Any]) -> None:
    """The peers read files; images in memory are refused."""
    with pytest.raises(ValueError, match='--compare needs image files'):
        peers.measure(jcls.build({**tiny, 'augment': ()}), sys.executable, 0.1)

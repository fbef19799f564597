"""Damaged headers of every format: read or refused by name, never a crash, a hang or a flood."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from helpers import mutated
from helpers.runs import environment
from jcls.data import augment, pipeline, sampler
from jcls.data.sources.source import from_files

EACH = 10  # damaged files of each kind
SECONDS = 5
MEGABYTES = 1100  # of one image of `formats.MOST_PIXELS` pixels that is resized
BATCH = 16


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('mutated')
    assert mutated.write(folder, EACH) >= 20 * EACH
    return folder


def test_damaged_headers(folder: Path) -> None:
    """Each alone ends in time and within the limit of memory; together, the same ones are read.

    In batches, each image that cannot be read is named with a reason, and the others are whole.
    """
    done = subprocess.run(
        [sys.executable, mutated.__file__, str(folder)],
        env=environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line['name'] for line in found] == sorted(path.name for path in folder.iterdir())
    assert max(line['seconds'] for line in found) < SECONDS
    assert max(line['megabytes'] for line in found) < MEGABYTES
    refused = {str(folder / line['name']) for line in found if line['reason']}
    assert len(found) / 4 < len(refused) < len(found) * 3 / 4

    files = np.array([str(folder / line['name']).encode() for line in found])
    source = from_files(files, np.zeros(len(files), np.int32), ('a',))
    sample, steps = sampler.eval_sampler(np.arange(len(files)), sampler.ProcessShard(BATCH, 0, 1))
    chain = augment.compose(
        ({'name': 'resize', 'size': 8}, {'name': 'center_crop', 'size': 8}), 'preprocess'
    )
    damage = pipeline.Damage(len(files), log=False)
    batches = pipeline.batches(source, chain, sample, 0, steps, mean=(0.5,) * 3, damage=damage)
    masks = np.concatenate([batch['mask'] for batch in batches])
    assert damage.reasons.keys() == refused
    assert all(reason and reason.isprintable() for reason in damage.reasons.values())
    read = [str(folder / line['name']) not in refused for line in found]
    np.testing.assert_array_equal(masks[: len(files)], read)

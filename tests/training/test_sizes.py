"""Images change their size at the steps that the config names, in a resumed run too."""

from __future__ import annotations

import numpy as np
import pytest

import jcls
from helpers.runs import assert_same_run, batch_of, crashing
from jcls.training import loop

CROP = {'name': 'random_resized_crop', 'size': 8}


def test_sizes_change_when_they_are_told_to(tiny, tmp_path):
    """8 px, from step 4 on 12, from step 8 on 16; killed and resumed across them is the same."""
    sizes = (('4 steps', 12), ('8 steps', 16))
    experiment = jcls.build({**tiny, 'augment': (CROP,), 'sizes': sizes})
    seen = [batch['image'].shape[1] for batch in experiment.train_batches()]
    assert seen == [8] * 4 + [12] * 4 + [16] * 4
    assert [b['image'].shape[1] for b in experiment.train_batches(6, 9)] == [12, 12, 16]
    assert [experiment.augmentation(i).output_size(None)[0] for i in (0, 3, 4, 11)] == [
        8,
        8,
        12,
        16,
    ]
    plain = jcls.build({**tiny, 'augment': ({**CROP, 'size': 12},)})
    np.testing.assert_array_equal(batch_of(experiment, 5)['image'], batch_of(plain, 5)['image'])
    loop.train(experiment, tmp_path / 'whole')
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(experiment, 8), tmp_path / 'killed')
    loop.train(experiment, tmp_path / 'killed')
    assert_same_run(tmp_path / 'killed', tmp_path / 'whole', experiment)


@pytest.mark.parametrize(
    ('augment', 'sizes', 'message'),
    [
        ((CROP,), (('8 steps', 12), ('4 steps', 16)), r'config.sizes\[1\]: .*must increase'),
        ((CROP,), (('12 steps', 12),), r'before the end of the run, step 12'),
        ((CROP,), (('4 steps', 0),), r'config.sizes\[0\]: 0 pixels'),
        ((), (('4 steps', 12),), r'one random_resized_crop of config.augment, but there are 0'),
        ((CROP,), (('4 stops', 12),), r'config.sizes\[0\]: .*not a length of time'),
    ],
)
def test_sizes_that_cannot_be_are_refused(augment, sizes, message, tiny):
    """Times that do not increase or lie beyond the run, and nothing whose size could change."""
    with pytest.raises(ValueError, match=message):
        jcls.build({**tiny, 'augment': augment, 'sizes': sizes})

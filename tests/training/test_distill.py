"""Distillation gives the losses and gradients that timm's gives."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

from helpers import Golden
from helpers.logits import COUNTS, SMOOTH, assert_loss_is_peer_s
from jcls.training import distill, losses

DISTILLATIONS: dict[str, dict[str, Any]] = {
    'soft': {'name': 'soft'},
    'soft_cool': {'name': 'soft', 'temperature': 0.5},
    'soft_warm': {'name': 'soft', 'temperature': 4.0},
    'hard': {'name': 'hard'},
}


@pytest.fixture(scope='module')
def data(golden: Golden) -> dict[str, np.ndarray]:
    """What the peers computed."""
    return dict(golden('recipes.npz'))


@pytest.mark.parametrize('case', DISTILLATIONS)
def test_distillation_is_timm_s(case: str, data: dict[str, np.ndarray]) -> None:
    """0.7 of the smoothed cross-entropy and 0.3 of the teacher's part, soft at three temperatures
    and hard, are what timm's task gives."""
    loss = losses.create(lambda: COUNTS, **SMOOTH)
    made = distill.create(teacher='somewhere', weight=0.3, **DISTILLATIONS[case])
    assert made is not None

    def combined(logits: jax.Array, targets: jax.Array, teacher: jax.Array) -> jax.Array:
        return made.combine(loss(logits, targets), logits, teacher)

    assert_loss_is_peer_s(combined, ('targets_soft', 'teacher'), f'distill_{case}', data)


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'name': 'soft', 'temperature': 0.0}, r'config.distill.temperature=0.0: must be positive'),
        ({'name': 'hard', 'weight': 1.5}, r'config.distill.weight=1.5: must be in \[0, 1\]'),
        ({'name': 'sof'}, r"unknown distill 'sof'; did you mean 'soft'\?"),
    ],
)
def test_a_distillation_that_cannot_be_is_an_error(section: dict[str, Any], message: str) -> None:
    """Weights and temperatures out of range are refused."""
    with pytest.raises(ValueError, match=message):
        distill.create(teacher='somewhere', **section)

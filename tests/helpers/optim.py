"""Parameters to optimize and lengths of time."""

from __future__ import annotations

from typing import Any

import numpy as np


def to_steps(length: str) -> int:
    """'7 steps' -> 7."""
    return int(length.split()[0])


def parameters() -> dict[str, Any]:
    """Paths as a model has them, with random values (float64)."""
    draw = np.random.default_rng(0).normal
    norm = {'scale': draw(size=3), 'bias': draw(size=3)}
    return {
        'stem': {'conv1': {'kernel': draw(size=(2, 3))}, 'norm1': norm},
        'stage1_block1': {'shortcut_norm': {k: draw(size=3) for k in norm}},
        'head': {'kernel': draw(size=(3, 2)), 'bias': draw(size=2)},
    }

"""What several test files share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

TESTS = Path(__file__).parents[1]
Golden = Callable[[str], Any]  # the fixture `golden`: a file of tests/golden by its name


def golden_path(name: str) -> Path:
    """A file or folder of tests/golden: numbers of the peers."""
    return TESTS / 'golden' / name


def assert_within(found: Any, expected: np.ndarray, tolerance: float, what: object) -> None:
    """The largest difference is at most `tolerance` of the largest expected number."""
    error = np.abs(np.asarray(found, np.float64) - expected).max() / np.abs(expected).max()
    assert error <= tolerance, f'{what}: {error:.2e}'

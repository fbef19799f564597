"""What several test files share."""

from pathlib import Path

TESTS = Path(__file__).parents[1]


def golden_path(name: str) -> Path:
    """A file or folder of tests/golden: numbers of the peers."""
    return TESTS / 'golden' / name

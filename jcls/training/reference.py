"""What was published for a recipe: the ``reference`` section. It changes nothing of a run."""

from __future__ import annotations

from typing import NamedTuple


class Reference(NamedTuple):
    """The ``reference`` section, see `create`."""

    top1: float | None
    source: str
    examples: int | None
    classes: int | None

    def __str__(self) -> str:
        """In words; empty if nothing was published."""
        if self.top1 is None:
            return ''
        on = f' on {self.examples:,} images' if self.examples else ''
        return f'top-1 {self.top1:g} ({self.source or "the recipe"}{on})'


def create(
    *,
    top1: float | None = None,
    source: str = '',
    examples: int | None = None,
    classes: int | None = None,
) -> Reference:
    """The ``reference`` section.

    Args:
      top1: published accuracy, a fraction.
      source: where.
      examples: training images that it was reached with.
      classes: of those.
    """
    if top1 is not None and not 0 <= top1 <= 1:
        raise ValueError(f'config.reference.top1={top1}: a fraction in [0, 1]')
    return Reference(top1, source, examples, classes)

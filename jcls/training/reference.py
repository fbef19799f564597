"""What was published for a recipe: the ``reference`` section. It changes nothing of a run."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """The ``reference`` section.

    Attributes:
      top1: published accuracy, a fraction.
      source: where it was published.
      examples: number of training images that it was reached with.
      classes: number of classes of those.
    """

    top1: float | None = None
    source: str = ''
    examples: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        if self.top1 is not None and not 0 <= self.top1 <= 1:
            raise ValueError(f'config.reference.top1={self.top1}: a fraction in [0, 1]')

    def __str__(self) -> str:
        """In words; empty if nothing was published."""
        if self.top1 is None:
            return ''
        on = f' on {self.examples:,} images' if self.examples else ''
        return f'top-1 {self.top1:g} ({self.source or "the recipe"}{on})'

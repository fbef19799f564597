"""The ``reference`` section: the published result of a recipe, which changes nothing in a run."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reference:
    """The ``reference`` section.

    Attributes:
      top1: published top-1 accuracy, as a fraction.
      source: publication.
      examples: number of training images in the publication.
      classes: number of classes in the publication.
    """

    top1: float | None = None
    source: str = ''
    examples: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        if self.top1 is not None and not 0 <= self.top1 <= 1:
            raise ValueError(f'config.reference.top1={self.top1}: a fraction in [0, 1]')

    def __str__(self) -> str:
        """The result in words; empty if there is none."""
        if self.top1 is None:
            return ''
        on = f' on {self.examples:,} images' if self.examples else ''
        return f'top-1 {self.top1:g} ({self.source or "the recipe"}{on})'

"""The ``data`` section: a training and a validation source, chosen from a table.

What a `Source` is stands in `jcls.data.examples`; what happens to its examples is the pipeline's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from jcls.data.examples import Source
from jcls.data.folder import folder
from jcls.data.memory import arrays, digits, synthetic
from jcls.schema import choose


class Data(NamedTuple):
    """What the ``data`` section makes: two sources and how their pixels are normalised."""

    train: Source
    val: Source
    mean: tuple[float, ...]
    std: tuple[float, ...]
    max_damaged: int

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self.train.channels


def create(
    *,
    name: str = 'folder',
    mean: tuple[float, ...] = (0.485, 0.456, 0.406),
    std: tuple[float, ...] = (0.229, 0.224, 0.225),
    max_damaged: int = 0,
    **fields: Any,
) -> Data:
    """The ``data`` section.

    Args:
      name: one of `SOURCES`.
      mean: of each channel, as a fraction of 255, subtracted on the device.
      std: of each channel, as a fraction of 255, divided by on the device.
      max_damaged: unreadable images to put up with; each is named, counted and masked out. One more
        is an error.
      **fields: the fields of the chosen source.
    """
    train, val = choose(SOURCES, name, 'data source')(**fields)
    for where, values in (('mean', mean), ('std', std)):
        if len(values) != train.channels:
            raise ValueError(
                f'config.data.{where} has {len(values)} values, but the images of {name!r} have '
                f'{train.channels} channels'
            )
    if not all(0 < value <= 1 for value in std):
        raise ValueError(
            f'config.data.std={std}: every value must be positive and at most 1: a fraction of 255'
        )
    if not all(0 <= value <= 1 for value in mean):
        raise ValueError(f'config.data.mean={mean}: every value must be in 0..1: a fraction of 255')
    if max_damaged < 0:
        raise ValueError(f'config.data.max_damaged={max_damaged}: must not be negative')
    return Data(train, val, mean, std, max_damaged)


SOURCES: dict[str, Callable[..., tuple[Source, Source]]] = {
    'digits': digits,
    'arrays': arrays,
    'synthetic': synthetic,
    'folder': folder,
}

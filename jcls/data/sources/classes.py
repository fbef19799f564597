"""Names of classes: their spelling, their order, and whether two sets of them are the same."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Collection, Iterable
from pathlib import Path

from jcls.host.disk import local

logger = logging.getLogger(__name__)

SHOWN = 5  # names in a message


def composed(name: str) -> str:
    """A name with its accents composed (Unicode's NFC), since macOS takes them apart in files."""
    return name if name.isascii() else unicodedata.normalize('NFC', name)


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """Different names in the order of the labels: sorted, as numbers if all of them are numbers."""
    unique = sorted(set(names))
    if all(name.isascii() and name.isdigit() for name in unique):
        unique.sort(key=int)
    return tuple(unique)


def warn_of_alike(names: Iterable[str]) -> None:
    """Warn of names that are one name but for capital letters and white space."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(' '.join(name.casefold().split()), []).append(name)
    for same in (some for some in alike.values() if len(some) > 1):
        logger.warning('warning: %s are %d classes', ' and '.join(map(repr, same)), len(same))


def listed(names: Collection[str]) -> str:
    """The first names of a message, and how many more there are."""
    first = ', '.join([*names][:SHOWN])
    return first + (f' and {len(names) - SHOWN:,} more' if len(names) > SHOWN else '')


def text_of(file: str | Path) -> str:
    """The text of a file in UTF-8, or in UTF-16 if it begins with that encoding's mark.

    Bytes that are not UTF-8 become the surrogates that `os.fsencode` turns back into them.

    Raises:
      OSError: if it cannot be read.
    """
    content = local(file).read_bytes()
    if content.startswith((b'\xff\xfe', b'\xfe\xff')):
        return content.decode('utf-16', errors='replace')
    return content.removeprefix(b'\xef\xbb\xbf').decode('utf-8', errors='surrogateescape')


def class_names(file: str) -> tuple[str, ...]:
    """The class names in a text file, one a line, in label order; blank lines do not count."""
    try:
        text = text_of(file)
    except (OSError, UnicodeError) as error:
        raise ValueError(
            f'config.data.classes={file!r}: not a readable text file: {error}'
        ) from None
    lines = text.splitlines()
    for number, line in enumerate(lines, 1):
        if line != line.encode(errors='replace').decode():
            raise ValueError(
                f'config.data.classes={file!r}: line {number}, {line!r}, is not UTF-8: save the '
                'file as UTF-8'
            )
    return tuple(composed(line.strip()) for line in lines if line.strip())

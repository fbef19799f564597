"""Training, validation and test set: the names of their folders, and where none may lie."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Collection, Iterable

from jcls.data.sources.classes import listed

logger = logging.getLogger(__name__)

TRAIN, VALIDATION, TEST = 'train', 'validation', 'test'  # TFDS's names of the sets
# Usual names of the sets, in any case. Where there is no validation set, the test set is taken.
NAMES = {TRAIN: 'train(ing)?', VALIDATION: 'val(id(ation)?)?', TEST: 'test(ing)?'}
FURTHER = '([ _-]?(set|data|images|split))?'
# Names of sets and never of classes, if there are folders inside: seg_train, test2017, fold_3.
SET_LIKE = r'(?<![a-z])(train(ing)?|val(id(ation)?)?|test(ing)?)(?![a-z])|(fold|split)[ _-]?\d+$'
GIVE_BOTH = (
    'name them train/ and val/, or give each by itself (config.data.dir and config.data.val_dir; '
    'SRC and --val of jcls prepare)'
)


def kind_of(name: str) -> str | None:
    """Which set a folder of this name is."""
    return next((k for k, n in NAMES.items() if re.fullmatch(n + FURTHER, name.lower())), None)


def names_in(base: str, folders: Iterable[str]) -> list[str]:
    """The folders right below `base` ('' or a path with a slash), sorted."""
    inside = (folder[len(base) :] for folder in folders if folder.startswith(base))
    return sorted(name for name in inside if '/' not in name)


def check_below(base: str, folders: Collection[str], holding: Collection[str], source: str) -> None:
    """Check that no sets lie below the classes; warn of what may be the classes there.

    Raises:
      ValueError: for a/train, a/val, b/train, ...
    """
    below: dict[str, set[str]] = {}
    for folder in folders:
        parent, _, name = folder.rpartition('/')
        if f'{parent}/'.startswith(base) and len(parent) > len(base):
            below.setdefault(parent, set()).add(name)
    with_sets = {}
    for parent, names in sorted(below.items()):
        kinds = {kind_of(name): name for name in sorted(names)}
        held_out = kinds.get(VALIDATION) or kinds.get(TEST)
        if TRAIN in kinds and held_out:
            with_sets[parent] = f'{source}/{parent} has {kinds[TRAIN]}/ and {held_out}/ inside'
    if len(with_sets) == 1:
        ((parent, found),) = with_sets.items()
        raise ValueError(
            f'{found}: if they are the sets, give it by itself: --config.data.dir='
            f'{shlex.quote(f"{source}/{parent}")} (SRC of jcls prepare)'
        )
    if with_sets:
        parent, found = next(iter(with_sets.items()))
        name = parent[len(base) :]
        raise ValueError(
            f'{found}: the sets lie below the classes. Expected {source}/train/{name}/ and '
            f'{source}/val/{name}/; or list the images of each set (--config.data.name=list '
            '--config.data.train_list=FILE --config.data.val_list=FILE)'
        )
    classes = [f'{base}{name}' for name in names_in(base, folders)]
    first = below.get(classes[0], set())
    if (
        len(classes) > 1
        and len(first) > 1
        and all(below.get(name) == first and name not in holding for name in classes)
    ):
        logger.warning(
            'warning: all %d classes of %s have the same folders inside: %s. The classes are %s; '
            'if they should be what is inside, it must lie at the top',
            len(classes),
            f'{source}/{base}'.rstrip('/'),
            listed(sorted(first)),
            listed(names_in(base, folders)),
        )

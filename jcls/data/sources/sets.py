"""Training, validation and test set: which folders they are, and where none may lie."""

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


def find_sets(
    around: str, folders: Collection[str], source: str, *, single: bool
) -> dict[str, str]:
    """The folder of each set, as a path with a slash at its end: `around` if there is only one.

    Args:
      around: the folder around the sets or classes, as `unwrapped` finds it.
      folders: all folders.
      source: name of the source in messages.
      single: whether there is known to be one set.

    Raises:
      ValueError: for what looks like sets and is not understood.
    """
    names = names_in(around, folders)
    kinds = {name: kind_of(name) for name in names}
    by_kind = {kind: [name for name in names if kinds[name] == kind] for kind in NAMES}
    beside = [name for name in names if kinds[name] is None]
    place = f'{source}/{around}'.rstrip('/')
    for kind, same in by_kind.items():
        if len(same) > 1:
            raise ValueError(f'{place} has {listed(same)}: which one is for {kind}? {GIVE_BOTH}')
    held_out = by_kind[VALIDATION] or by_kind[TEST]
    if single and beside and not (by_kind[TRAIN] and held_out):
        return {TRAIN: around}
    if held_out and not by_kind[TRAIN]:
        raise ValueError(
            f'{place} has {held_out[0]}/ but no train/; give both, or class folders only '
            f'(jcls evaluate RUN {place}/{held_out[0]} evaluates on it)'
        )
    if by_kind[TRAIN] and beside and not held_out:
        raise ValueError(
            f'{place} has {by_kind[TRAIN][0]}/ beside {listed(beside)}: is it a class or the '
            f'training set? {GIVE_BOTH}'
        )
    if by_kind[TRAIN]:
        found = {TRAIN: by_kind[TRAIN], VALIDATION: held_out}
        return {kind: f'{around}{same[0]}/' for kind, same in found.items() if same}
    like = [
        n for n in names if re.search(SET_LIKE, n.lower()) and names_in(f'{around}{n}/', folders)
    ]
    if len(like) > 1:
        raise ValueError(
            f'{place} has {listed(like)} with folders inside, which look like sets and not like '
            f'classes: {GIVE_BOTH}'
        )
    return {TRAIN: around}


def unwrapped(
    base: str,
    folders: Collection[str],
    holding: Collection[str],
    classes: Collection[str] = (),
    *,
    sets: bool = False,
) -> str:
    """The folder around all class folders or sets below `base`, as a path with a slash, or ''.

    Args:
      base: where to begin: '' or a path with a slash.
      folders: all folders.
      holding: those with images right inside, which makes them classes.
      classes: names that are classes in any case.
      sets: whether a folder with the name of a set is one.
    """
    while True:
        names = names_in(base, folders)
        deeper = f'{base}{names[0]}/' if len(names) == 1 else ''
        a_set = bool(sets and deeper and kind_of(names[0]))
        if not deeper or a_set or names[0] in classes or deeper[:-1] in holding:
            return base
        if not names_in(deeper, folders):
            return base
        base = deeper


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

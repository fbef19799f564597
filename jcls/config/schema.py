"""Sections and their fields: the names, types and defaults of everything in a config.

A config *section* is the keyword arguments of exactly one function. Its fields are the function's
keyword-only parameters, with the function's annotations as types and the function's defaults. A
section with a ``name`` may choose among several functions in a table; the parameters of the chosen
one are then fields of the section, too. This file gets the functions as a table of `Section`.

Every mistake raises a ValueError that says where it is, what is allowed and how to cure it.
"""

from __future__ import annotations

import ast
import inspect
import logging
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from jcls.config.parts import is_own, part, suggest

logger = logging.getLogger(__name__)

REQUIRED = inspect.Parameter.empty


class Section(NamedTuple):
    """A section: its `function` and, if it takes a ``name``, the `table` of choices.

    A function with ``**kwargs`` passes them to ``table[name]``, whose keyword-only parameters are
    then fields as well. With ``function=None`` the section is an ordered tuple of such choices.

    Attributes:
      function: function, or dataclass, whose keyword-only parameters are the fields.
      table: the choices by name.
      free: fields that do not change the mathematics of a run, so that they may differ when it is
        resumed; '*' for all fields.
      host_specific: fields that may also differ between the hosts of a run, mostly places.
    """

    function: Callable[..., Any] | None
    table: Mapping[str, Any] | None = None
    free: tuple[str, ...] = ()
    host_specific: tuple[str, ...] = ()


Sections = Mapping[str, Section]


def complete(
    config: Any, overrides: Mapping[str, Any] | None = None, *, sections: Sections
) -> dict[str, Any]:
    """Fill in all defaults, apply `overrides`, check names and types; returns plain values.

    A section's new ``name`` is applied first, since it decides which fields there are.
    """
    tree = plain(config)
    changes = {
        key.removeprefix('config.'): Text(value) if isinstance(value, str) else plain(value)
        for key, value in (overrides or {}).items()
    }
    for key in [key for key in changes if key.endswith('.name') and key[:-5] in sections]:
        where, name = key[:-5], changes.pop(key)
        tree[where] = _renamed(_section(tree.get(where, {}), where), sections[where], where, name)
    tree = _filled(tree, sections)
    # First whole tuples, then what is in them, and there again names first.
    for key in sorted(changes, key=lambda key: (len(_steps(key)), not key.endswith('.name'))):
        _assign(tree, key, changes[key], sections)
    return _checked(tree, sections)


class Text(str):
    """A value as typed on a command line, to be read as its field's type later."""


def plain(value: Any) -> Any:
    """The tree as nested dicts; tuples of sections become lists, other sequences tuples."""
    if isinstance(value, ConfigDict):
        value = value.to_dict()
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [plain(item) for item in value]
        return items if items and isinstance(items[0], dict) else tuple(items)
    return value


def _parameters(function: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """The keyword-only parameters of `function` as ``{name: (annotation, default)}``."""
    hints = typing.get_type_hints(getattr(function, 'func', function))  # also for a partial
    return {
        key: (hints.get(key, Any), parameter.default)
        for key, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def fields(section: Section, name: Any = None, where: str = '') -> dict[str, tuple[Any, Any]]:
    """The fields of a section with the choice `name`, or with the default choice for None."""
    parameters = _parameters(section.function) if section.function else {}
    if section.table is None:
        return parameters
    if name is None:
        name = parameters.get('name', (str, REQUIRED))[1]
    if name is REQUIRED:
        raise ValueError(f'config.{where}: needs a name (known: {", ".join(section.table)})')
    try:
        choice = part(section.table, str(name), 'name')
    except ValueError as error:
        raise ValueError(f'config.{where}.name: {error}') from None
    parameters = {'name': (str, str(name))} | {k: v for k, v in parameters.items() if k != 'name'}
    takes_more = section.function is None or any(
        p.kind is p.VAR_KEYWORD for p in inspect.signature(section.function).parameters.values()
    )
    return parameters | (_parameters(choice) if takes_more else {})


def _renamed(values: Any, section: Section, where: str, name: str) -> dict[str, Any]:
    """The section with a new ``name``, without the old choice's fields that the new one lacks."""
    table = typing.cast(Any, section.table)
    old = values.get('name')
    if old is None and section.function:
        old = _parameters(section.function).get('name', (str, None))[1]
    known = old in table or (isinstance(old, str) and is_own(old))
    old_fields = fields(section, old, where) if known else {}
    new_fields = fields(section, name, where)
    dropped = [key for key in values if key in old_fields and key not in new_fields]
    if dropped:
        logger.info('config.%s.name=%s drops %s', where, name, ', '.join(dropped))
    return {**{k: v for k, v in values.items() if k not in dropped}, 'name': str(name)}


def _section(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ValueError(f'config.{where}: a section, written as {{field: value}}; got {values!r}')
    return values


def is_free(sections: Sections, field: str) -> bool:
    """Whether a field of `flatten`, such as 'data.dir', may differ when a run is resumed."""
    section, name = _owner(sections, field)
    return '*' in section.free or name in (*section.free, *section.host_specific)


def is_host_specific(sections: Sections, field: str) -> bool:
    """Whether a field of `flatten`, such as 'data.dir', may differ between hosts."""
    section, name = _owner(sections, field)
    return name in section.host_specific


def _owner(sections: Sections, field: str) -> tuple[Section, str]:
    """The section of a field, and its name there: of 'evaluate.preprocess[0].size', preprocess."""
    where, name, *_ = [*re.split(r'[.\[]', field), '']
    return (sections[where], name) if where in sections else (sections[''], where)


def _unknown(where: str, key: str, known: Iterable[str]) -> ValueError:
    known = list(known)
    return ValueError(
        f'config.{where}{key}: no such field{suggest(key, known)} (known: {", ".join(known)})'
    )


def _filled_section(values: Any, section: Section, where: str) -> dict[str, Any]:
    values = _section(values, where)
    known = fields(section, values.get('name'), where)
    for key in values:
        if key not in known:
            raise _unknown(f'{where}.', key, known)
    return {key: plain(values.get(key, default)) for key, (_, default) in known.items()}


def _filled_items(items: Any, section: Section, where: str) -> Any:
    if not isinstance(items, list | tuple):
        raise ValueError(f'config.{where}: a tuple of sections, each with a name; got {items!r}')
    return plain([_filled_section(v, section, f'{where}[{i}]') for i, v in enumerate(items)])


def _filled(tree: dict[str, Any], sections: Sections) -> dict[str, Any]:
    """All sections with all fields, defaults included; unknown ones are errors."""
    top = _parameters(typing.cast(Any, sections[''].function))
    named = [where for where in sections if where and not where.endswith('[]')]
    for key in tree:
        if key not in (*top, *named):
            raise _unknown('', key, (*top, *named))
    filled = {key: plain(tree.get(key, default)) for key, (_, default) in top.items()}
    filled |= {key: _filled_section(tree.get(key, {}), sections[key], key) for key in named}
    for where in (where[:-2] for where in sections if where.endswith('[]')):
        holder, key = _holder(filled, where)
        holder[key] = _filled_items(holder[key], sections[f'{where}[]'], where)
    return filled


def _steps(path: str) -> list[str | int]:
    """The steps of a path: ``'augment[0].size'`` -> ``['augment', 0, 'size']``."""
    if not re.fullmatch(r'[A-Za-z_]\w*(\.[A-Za-z_]\w*|\[\d+\])*', path):
        raise ValueError(f"config.{path}: not the name of a field, like 'section.field'")
    return [int(part) if part.isdigit() else part for part in re.findall(r'\w+', path)]


def _place(steps: Iterable[int | str]) -> str:
    """The path of some steps: ``['augment', 0]`` -> ``'augment[0]'``."""
    text = ''.join(f'[{step}]' if isinstance(step, int) else f'.{step}' for step in steps)
    return text.removeprefix('.')


def _holder(tree: dict[str, Any], path: str) -> tuple[Any, Any]:
    """The container and the key that `path` ('optimizer.lr', 'augment[0].size') refers to."""
    steps = _steps(path)
    holder: Any = tree
    for depth, step in enumerate(steps):
        here = _place(steps[:depth])
        if isinstance(holder, list) and isinstance(step, int):
            if step >= len(holder):
                known = ', '.join(map(str, range(len(holder))))
                raise ValueError(f'config.{here}[{step}]: no such item (known: {known})')
        elif not isinstance(holder, dict) or isinstance(step, int):
            raise ValueError(f'config.{path}: config.{here} has no such part; set it as a whole')
        elif step not in holder:
            raise _unknown(f'{here}.' if here else '', step, holder)
        if depth < len(steps) - 1:
            holder = holder[step]
    return holder, steps[-1]


def _assign(tree: dict[str, Any], path: str, value: Any, sections: Sections) -> None:
    holder, key = _holder(tree, path)
    if isinstance(holder[key], dict):
        raise ValueError(f'config.{path}: a section; set its fields: {", ".join(holder[key])}')
    if f'{path}[]' in sections:
        value = _literal(value) if isinstance(value, Text) else value
        holder[key] = _filled_items(plain(value), sections[f'{path}[]'], path)
    elif key == 'name' and (item := re.fullmatch(r'(.*)\[\d+\]\.name', path)):
        where, section = path.removesuffix('.name'), sections[f'{item[1]}[]']
        renamed = _renamed(dict(holder), section, where, value)
        holder.clear()
        holder.update(_filled_section(renamed, section, where))
    else:
        holder[key] = value


def _checked(tree: dict[str, Any], sections: Sections) -> dict[str, Any]:
    """The tree with every value converted to its annotated type; a missing one is an error."""
    for where, section in sections.items():
        items = where.endswith('[]')
        holder, key = _holder(tree, where.removesuffix('[]')) if where else ({'': tree}, '')
        for i, values in enumerate(holder[key] if items else [holder[key]]):
            place = f'{where[:-2]}[{i}].' if items else where and f'{where}.'
            for field, (kind, _) in fields(section, values.get('name'), where).items():
                if f'{place}{field}[]' not in sections:
                    values[field] = conform(values[field], kind, f'config.{place}{field}')
    return tree


def _literal(text: str) -> Any:
    try:
        return plain(ast.literal_eval(text))
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        return str(text)


def conform(value: Any, kind: Any, where: str) -> Any:
    """Convert `value` to `kind`, an annotation; `Text` is read as a Python literal."""
    if value is REQUIRED:
        raise ValueError(f'{where}: required; give it in the config or as --{where}=VALUE')
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    candidates = [value]
    if isinstance(value, Text):
        words = {'none': None, 'null': None, 'true': True, 'false': False}
        candidates = [words.get(value.lower(), _literal(value)), str(value)]
    for candidate in candidates:
        for option in options:
            if option is Any or _fits(candidate, option):
                return float(candidate) if option is float else candidate
    names = ' or '.join(_type_name(option) for option in options)
    raise ValueError(f'{where}: expected {names}, got {value!r}')


def _type_name(kind: Any) -> str:
    if kind is type(None):
        return 'None'
    return str(kind) if typing.get_origin(kind) else getattr(kind, '__name__', str(kind))


def _fits(value: Any, kind: Any) -> bool:
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        return len(kinds) == len(value) and all(map(_fits, value, kinds))
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)

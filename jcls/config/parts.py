"""Parts by name: an entry of a table, or your own function, ``'package.module:function'``.

Your own function comes from an installed package or from a module in the working directory. The law
of all sections holds for it: its keyword-only parameters are the fields, with their defaults and
types. Its positional parameters are those of the table's entries.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def suggest(word: str, known: Iterable[str]) -> str:
    """``'; did you mean 'x'?'`` for the nearest known word, else an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f'; did you mean {near[0]!r}?' if near else ''


def choose(table: Mapping[str, Any], name: str, what: str) -> Any:
    """Return ``table[name]``; an unknown name raises a ValueError that lists the known ones."""
    if name not in table:
        known = ', '.join(table)
        raise ValueError(f'unknown {what} {name!r}{suggest(str(name), table)} (known: {known})')
    return table[name]


def part(table: Mapping[str, Any], name: str, what: str) -> Any:
    """Return ``table[name]``, or the function that a name with a colon refers to.

    Raises:
      ValueError: for an unknown name, a module that cannot be imported, or a function with more
        or fewer positional parameters than the table's entries.
    """
    if not is_own(name):
        return choose(table, name, what)
    own = _imported(name, what)
    like = next(iter(table.values()))
    if not callable(own):
        if isinstance(own, type(like)):
            return own
        raise ValueError(f'{what} {name!r}: {own!r} is not a function')
    if callable(like):
        _check_positional(own, like, name, what)
    return own


def is_own(name: str) -> bool:
    """Whether a name refers to a function of the user's own."""
    return ':' in name


def own_sources(tree: Any) -> dict[str, str]:
    """The hash of the source file of each function of the user's own in a config, by name."""
    names = sorted({value for value in _names(tree) if is_own(value)})
    return {name: _hash(sys.modules[name.partition(':')[0]]) for name in names}


def _names(tree: Any) -> Iterable[str]:
    """All values of ``name`` in a config, and the names in a list of them (``metrics``)."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            if key == 'name' and isinstance(value, str):
                yield value
            elif key == 'metrics':
                yield from value
            else:
                yield from _names(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _names(value)


def _hash(module: Any) -> str:
    file = inspect.getsourcefile(module)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:12] if file else ''


def _imported(name: str, what: str) -> Any:
    module_name, _, function_name = name.partition(':')
    if not module_name or not function_name.isidentifier():
        raise ValueError(f'{what} {name!r}: write your own as package.module:function')
    here = str(Path.cwd())
    if here not in sys.path:  # as for `python -m`, but last, so that it hides no package
        sys.path.append(here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # the user's module may raise anything
        raise ValueError(
            f'{what} {name!r}: cannot import {module_name} ({type(error).__name__}: {error}); it '
            f'must be installed, or a file in {here}'
        ) from error
    if not hasattr(module, function_name):
        near = suggest(function_name, vars(module))
        raise ValueError(f'{what} {name!r}: {module.__file__} has no {function_name}{near}')
    return getattr(module, function_name)


def _check_positional(own: Any, like: Any, name: str, what: str) -> None:
    """Raise ValueError for a function that cannot be called like the table's entries."""
    wanted = [key for key, p in inspect.signature(like).parameters.items() if _is_positional(p)]
    parameters = inspect.signature(own).parameters.values()
    taken = [p.name for p in parameters if _is_positional(p)]
    if len(taken) != len(wanted):
        raise ValueError(
            f'{what} {name!r}: must take ({", ".join([*wanted, "*", "your fields"])}), like '
            f'{getattr(like, "__name__", "the entries of the table")}; it takes '
            f'({", ".join(taken) or "nothing"}) before its keyword-only fields'
        )


def _is_positional(parameter: inspect.Parameter) -> bool:
    return parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)

"""Config files: from text to one complete and checked tree of plain values.

Loading runs in one direction: file -> names chosen on the command line -> defaults -> overrides ->
types. `jcls.config.schema` does all but the first. This file also has the functions that config
files call, and those that show and compare configs.
"""

from __future__ import annotations

import inspect
import json
import re
import runpy
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from jcls.config.parts import suggest
from jcls.config.schema import Sections, Text, complete, conform, is_host_specific, plain

OF_RUN = 'config.json'


def find(path: str | Path) -> Path:
    """Locate a config file.

    That is the path as given, the config of a run's folder, or 'NAME.py' or 'configs/NAME.py' as
    shipped.
    """
    path = Path(path)
    if path.is_dir():
        if (path / OF_RUN).is_file():
            return path / OF_RUN
        raise ValueError(f'{path} is not a workdir of jcls: it has no {OF_RUN}')
    package = Path(__file__).parent.parent
    shipped = [package / 'configs', package.parent / 'configs']
    others = [folder / path.name for folder in shipped]
    shipped_name = str(path.parent) in ('.', 'configs')
    for candidate in [path, *(others if shipped_name else [])]:
        if candidate.is_file():
            return candidate
    names = sorted(f.name for folder in shipped if folder.is_dir() for f in folder.glob('*.py'))
    raise ValueError(f'no config file {str(path)!r}{suggest(path.name, names)} (shipped: {names})')


def read(path: str | Path, arg: str = '') -> ConfigDict:
    """Run a config file and return what its ``get_config(arg)`` returns, as a ConfigDict.

    The config of a run, a JSON file, is returned as it is.
    """
    file = find(path)
    if file.suffix == '.json':
        if arg:
            raise ValueError(f'{file} takes no argument, but got {arg!r} after the colon')
        return _wrap(plain(_read_json(file)))
    try:
        get_config = runpy.run_path(str(file)).get('get_config')
    except SyntaxError as error:
        at = f' line {error.lineno}' if error.lineno else ''
        raise ValueError(f'{error.filename or file}{at} is no Python: {error.msg}') from None
    if get_config is None:
        raise ValueError(f'{file} defines no get_config(arg): every config file must')
    if arg and not inspect.signature(get_config).parameters:
        raise ValueError(f'{file} takes no argument, but got {arg!r} after the colon')
    config = get_config(arg) if inspect.signature(get_config).parameters else get_config()
    if not isinstance(config, ConfigDict | Mapping):
        raise ValueError(f'{file}: get_config() must return a ConfigDict; it returned {config!r}')
    return _wrap(plain(config))


def _read_json(file: Path) -> Any:
    try:
        content = json.loads(file.read_text('utf-8'))
    except (ValueError, RecursionError) as error:
        raise ValueError(f'{file} is damaged: {error}') from None
    if not isinstance(content, dict):
        raise ValueError(f'{file} is no config: it holds no JSON object')
    return content


def inherit(file: str, base: str, arg: str = '') -> ConfigDict:
    """The config of `base`, a file beside `file` (pass ``__file__``); it may inherit once more."""
    return read(Path(file).with_name(base), arg)


def parse_arg(arg: str, **defaults: Any) -> types.SimpleNamespace:
    r"""Parse ``'res=160,arch=resnet101'`` against typed defaults; a bare ``flag`` means True.

    A comma in a value is written ``\,``.
    """
    values = dict(defaults)
    before = ''
    for item in filter(None, re.split(r'(?<!\\),', arg)):
        key, equals, text = item.replace('\\,', ',').partition('=')
        if key not in defaults:
            known = ', '.join(f'{k}={v!r}' for k, v in defaults.items()) or 'none'
            comma = f"; a comma in a value is written \\,: '{before}\\,{item}'" if before else ''
            raise ValueError(
                f'unknown config argument {key!r}{suggest(key, defaults)} (known: {known}){comma}'
            )
        before = item
        kind = type(defaults[key])
        values[key] = conform(Text(text if equals else 'true'), kind, f'config argument {key!r}')
    return types.SimpleNamespace(**values)


def load(
    path: str, overrides: Mapping[str, Any] | None = None, *, sections: Sections
) -> dict[str, Any]:
    """Load ``'file.py:arg'``, apply `overrides` ({'optimizer.lr': 0.1}); returns all fields.

    Overrides may be Python values, or the text that was typed on a command line.
    """
    # A colon may be in the names of folders, too.
    whole = re.fullmatch(r'(.*?\.(?:py|json)):(.*)', path, re.DOTALL)
    file, arg = whole.groups() if whole else (path, '')
    if not whole and not Path(path).exists():
        file, _, arg = path.partition(':')
    return complete(read(file, arg), overrides, sections=sections)


def as_config_dict(tree: Mapping[str, Any]) -> ConfigDict:
    """Wrap a complete tree in a locked ConfigDict: attribute access, no new fields."""
    return _wrap(tree, lock=True)


def _wrap(value: Any, *, lock: bool = False) -> Any:
    """Make ConfigDicts of all dicts, also inside tuples."""
    if isinstance(value, Mapping):
        wrapped = ConfigDict({key: _wrap(item, lock=lock) for key, item in value.items()})
        return wrapped.lock() if lock else wrapped
    if isinstance(value, list | tuple):
        return tuple(_wrap(item, lock=lock) for item in value)
    return value


def flatten(tree: Any, prefix: str = '') -> dict[str, Any]:
    """``{'optimizer.lr': 0.1, 'augment[0].size': 176, ...}``: one entry per field."""
    if isinstance(tree, Mapping) and tree:
        parts = [flatten(v, f'{prefix}.{k}' if prefix else str(k)) for k, v in tree.items()]
    elif isinstance(tree, list | tuple) and tree and isinstance(tree[0], Mapping):
        parts = [flatten(v, f'{prefix}[{i}]') for i, v in enumerate(tree)]
    else:
        return {prefix: tree} if prefix else {}
    return {key: value for part in parts for key, value in part.items()}


def common_fields(tree: Any, sections: Sections) -> dict[str, Any]:
    """The fields that must be the same on all hosts of a run."""
    fields = flatten(tree)
    return {key: value for key, value in fields.items() if not is_host_specific(sections, key)}


def show(tree: Any) -> str:
    """A text with every field on a line of its own."""
    return '\n'.join(f'{key} = {value!r}' for key, value in flatten(plain(tree)).items())


def diff(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """The fields that differ, as ``{field: (old, new)}``; an absent field shows as '(absent)'."""
    a, b = flatten(plain(old)), flatten(plain(new))
    pairs = {key: (a.get(key, '(absent)'), b.get(key, '(absent)')) for key in {**a, **b}}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}

"""Config files: found, read, inherited, shown, compared; and the real table of sections."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

import jcls
from jcls.assembly import SECTIONS
from jcls.config import as_config_dict, diff, find, flatten, parse_arg, read, show
from jcls.config.schema import complete, fields, plain

ROOT = Path(jcls.__file__).parent
CONFIG = (
    "{'model': {'name': 'resnet20'}, 'data': {'name': 'digits'}, 'augment': ({'name': 'flip'},)}"
)


@pytest.fixture
def file(tmp_path):
    """Write a config file whose get_config has this body; returns its path."""

    def write(body: str = f'return {CONFIG}', name: str = 'mine.py', arg: str = '') -> str:
        imports = (
            'from ml_collections import ConfigDict\nfrom jcls.config import inherit, parse_arg\n'
        )
        code = f'{imports}\ndef get_config({arg}):\n{textwrap.indent(body, "    ")}\n'
        (tmp_path / name).write_text(code)
        return str(tmp_path / name)

    return write


# Finding and reading


def test_shipped_configs_are_found_from_another_directory(tmp_path, monkeypatch):
    """configs/x.py and x.py mean the shipped file wherever jcls is called from."""
    monkeypatch.chdir(tmp_path)
    found = find('configs/quickstart.py')
    assert found.is_file()
    assert found == find('quickstart.py')
    assert jcls.load_config('configs/quickstart.py').batch_size == 64


def test_a_file_that_is_there_comes_before_a_shipped_one(tmp_path, monkeypatch, file):
    """One's own quickstart.py is not replaced by the shipped one."""
    file(
        "return {'batch_size': 7, 'model': {'name': 'resnet18'}, 'data': {'name': 'digits'}}",
        'quickstart.py',
    )
    monkeypatch.chdir(tmp_path)
    assert jcls.load_config('quickstart.py').batch_size == 7


def test_a_missing_file_suggests_and_lists_the_shipped_ones():
    """The message for a file that is not there has the near name and all the names."""
    with pytest.raises(
        ValueError, match=r"'configs/resnet50_v3.py'; did you mean 'resnet50_v"
    ) as e:
        find('configs/resnet50_v3.py')
    assert 'quickstart.py' in str(e.value)


def test_a_missing_absolute_path_is_not_another_file_of_that_name(tmp_path):
    """A wrong folder in a full path is an error, not silently the shipped recipe."""
    with pytest.raises(ValueError, match='no config file'):
        find(tmp_path / 'quickstart.py')


def test_a_file_without_get_config_is_an_error(tmp_path):
    """The message names the file and what it lacks."""
    (tmp_path / 'empty.py').write_text('x = 1\n')
    with pytest.raises(ValueError, match=r'empty\.py defines no get_config'):
        read(tmp_path / 'empty.py')


@pytest.mark.parametrize('body', ['pass', 'return 3', "return [('batch_size', 8)]"])
def test_a_get_config_that_returns_no_config_is_an_error(file, body):
    """A forgotten return is a ValueError that names the file, not a traceback."""
    with pytest.raises(ValueError, match=r'mine\.py'):
        jcls.load_config(file(body))


def test_the_argument_reaches_the_file_or_is_refused(file):
    """What follows the colon goes to get_config; one that takes none says so."""
    body = f'return {{**{CONFIG}, "recipe": arg}}'
    assert jcls.load_config(file(body, arg="arg=''") + ':a=1,b').recipe == 'a=1,b'
    with pytest.raises(ValueError, match=r"takes no argument, but got 'a=1' after the colon"):
        jcls.load_config(file() + ':a=1')


def test_the_config_of_a_run_is_a_config(tmp_path, file):
    """The JSON file, or the run's folder, stand for the Python that made them."""
    config = jcls.load_config(file(), {'batch_size': 7})
    run = tmp_path / 'a:b, c=[1]'
    run.mkdir()
    (run / 'config.json').write_text(json.dumps(plain(config)))
    for path in (run, run / 'config.json'):
        assert jcls.load_config(str(path)) == config
        assert jcls.load_config(str(path), {'batch_size': 8}).batch_size == 8
    with pytest.raises(ValueError, match='takes no argument'):
        jcls.load_config(f'{run}/config.json:res=160')


@pytest.mark.parametrize(
    ('name', 'text', 'message'),
    [
        ('a.json', '{"batch_size": ', 'a.json is damaged: Expecting value'),
        ('a.json', '[1]', 'a.json is no config: it holds no JSON object'),
        ('a.json', '{"classes": 1}', 'config.classes: no such field'),
        ('a.yaml', 'batch size: 8', 'a.yaml line 1 is no Python: invalid syntax'),
    ],
)
def test_what_is_no_config_is_an_error(name, text, message, tmp_path):
    """A sentence, and never a traceback of Python's parser."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        jcls.load_config(str(tmp_path / name))


def test_a_colon_may_be_in_a_path(tmp_path, file):
    """The argument begins after the file's name."""
    (tmp_path / 'a:b').mkdir()
    path = file(
        f"args = parse_arg(arg, dir='')\nreturn {{**{CONFIG}, 'recipe': args.dir}}", arg='arg'
    )
    moved = Path(path).rename(tmp_path / 'a:b' / 'mine.py')
    assert jcls.load_config(f'{moved}:dir=/x:y/z.py:1').recipe == '/x:y/z.py:1'
    with pytest.raises(ValueError, match='no config file'):
        jcls.load_config(f'{tmp_path}/a:c/mine.py:dir=x')


def test_the_recipe_is_called_after_its_file_unless_it_says_otherwise(file):
    """config.recipe is the path as given, so that model.json can name it."""
    assert jcls.load_config(file()).recipe == file()
    assert jcls.load_config(file(), {'recipe': 'mine'}).recipe == 'mine'


def test_configs_inherit_two_deep(file):
    """A file beside another changes its config, whose base changes that of a third."""
    file(f'return ConfigDict({CONFIG})', 'a.py')
    file(
        "c = inherit(__file__, 'a.py')\nc.seed = 5\nc.batch_size = int(arg or 1)\nreturn c",
        'b.py',
        "arg=''",
    )
    third = file(
        "c = inherit(__file__, 'b.py', '32')\nc.seed = 6\nc.augment[0].probability = 0.25\n"
        "c.optimizer = {'lr': 0.3}\nreturn c",
        'c.py',
    )
    config = jcls.load_config(third)
    assert (config.seed, config.batch_size, config.optimizer.lr) == (6, 32, 0.3)
    assert config.augment[0].to_dict() == {'name': 'flip', 'probability': 0.25}
    assert read(third.replace('c.py', 'b.py')).seed == 5


def test_a_config_argument_has_its_default_s_type():
    """parse_arg reads int, float, bool, str and tuple values; a bare flag is True."""
    defaults = {'res': 224, 'lr': 0.1, 'deep': False, 'arch': 'resnet50'}
    args = parse_arg('res=160,lr=1,deep,arch=18', **defaults)
    assert vars(args) == {'res': 160, 'lr': 1.0, 'deep': True, 'arch': '18'}
    assert type(args.lr) is float
    assert vars(parse_arg('', **defaults)) == defaults
    assert parse_arg('deep=false', deep=True).deep is False
    paths = parse_arg(r'a=birds\, 2024,b=/x=1:2\,,c=~/[é] *', a='', b='', c='')
    assert vars(paths) == {'a': 'birds, 2024', 'b': '/x=1:2,', 'c': '~/[é] *'}


@pytest.mark.parametrize(
    ('arg', 'message'),
    [
        ('ress=160', r"unknown config argument 'ress'; did you mean 'res'\? \(known: res=224"),
        ('res=big', r"config argument 'res': expected int, got 'big'"),
        ('res=2.5', r"config argument 'res': expected int, got '2.5'"),
        ('res=', r"config argument 'res': expected int"),
        ('res', r"config argument 'res': expected int"),
        ('deep=1', r"config argument 'deep': expected bool"),
        ('=3', r"unknown config argument ''"),
        (
            'res=3, 4',
            r"argument ' 4'.*a comma in a value is written \\,: 'res=3\\, 4'",
        ),
    ],
)
def test_a_wrong_config_argument_is_an_error(arg, message):
    """An unknown key or a value of another type says what is known or expected."""
    with pytest.raises(ValueError, match=message):
        parse_arg(arg, res=224, deep=False)


# The tree as a whole


def test_a_config_survives_json(file):
    """Complete, written as JSON and read again it is equal, and completing it changes nothing."""
    config = jcls.load_config(file(), {'evaluate.preprocess': (), 'model.blocks': (1, 2)})
    again = complete(json.loads(json.dumps(plain(config))), sections=SECTIONS)
    assert again == complete(config, sections=SECTIONS) == plain(config)
    assert as_config_dict(again) == config


def test_a_loaded_config_refuses_new_fields(file):
    """Attribute access works at any depth, and a misspelled attribute is an error."""
    config = jcls.load_config(file())
    config.optimizer.lr = 0.5
    assert config.augment[0].probability == 0.5
    with pytest.raises(AttributeError, match='lrr'):
        config.optimizer.lrr = 0.5
    with pytest.raises(AttributeError, match='probabilty'):
        config.augment[0].probabilty = 0.1


def test_flatten_names_every_field_as_an_override_does():
    """Sections by dots, items of tuples by brackets; other tuples are values."""
    tree = {'a': 1, 'b': {'c': (1, 2), 'd': ()}, 'e': ({'name': 'x', 'f': {'g': 2}}, {'name': 'y'})}
    assert flatten(plain(tree)) == {
        'a': 1,
        'b.c': (1, 2),
        'b.d': (),
        'e[0].name': 'x',
        'e[0].f.g': 2,
        'e[1].name': 'y',
    }


def test_every_shown_line_is_an_override(file):
    """`show` has each field once, and its lines as overrides rebuild the config."""
    config = jcls.load_config(file())
    lines = dict(line.split(' = ', 1) for line in show(config).split('\n'))
    assert lines['optimizer.lr'] == '0.1'
    assert lines['augment[0].name'] == "'flip'"
    assert set(lines) == set(flatten(plain(config)))
    assert jcls.load_config(file(), {k: ast.literal_eval(v) for k, v in lines.items()}) == config


def test_diff_shows_exactly_what_differs(file):
    """Changed, added and removed fields, tuples equal to lists; nothing for equal configs."""
    a = jcls.load_config(file())
    b = jcls.load_config(file(), {'optimizer.lr': 0.2, 'schedule.name': 'constant', 'augment': ()})
    assert diff(a, a) == diff(a, json.loads(json.dumps(plain(a)))) == {}
    assert diff(a, b) == {
        'optimizer.lr': (0.1, 0.2),
        'schedule.name': ('cosine', 'constant'),
        'schedule.end': (0.0, '(absent)'),
        'augment': ('(absent)', ()),
        'augment[0].name': ('flip', '(absent)'),
        'augment[0].probability': (0.5, '(absent)'),
    }


# The table of sections


def choices() -> list[tuple[str, str | None]]:
    """Every section with each of its choices."""
    return [(where, name) for where, s in SECTIONS.items() for name in (s.table or [None])]


@pytest.mark.parametrize(('where', 'name'), choices())
def test_every_field_can_be_overridden_with_the_text_of_its_default(where, name):
    """Every field is open to the command line, where its default as Python prints it is itself."""
    base: dict[str, Any] = {'model': {'name': 'resnet20'}, 'data': {'name': 'digits'}}
    path = where.replace('[]', '[0]')
    known = fields(SECTIONS[where], name, where)
    if name:
        required = {
            k: 'x' for k, (_, default) in known.items() if default is inspect.Parameter.empty
        }
        section = {'name': name, **required}
        holder, _, key = where.removesuffix('[]').rpartition('.')
        section = (section,) if where.endswith('[]') else section
        base[holder or key] = {key: section} if holder else section
    plainly = complete(base, sections=SECTIONS)
    flat = flatten(plainly)
    for key in known:
        full = f'{path}.{key}' if path else key
        if f'{full}[]' in SECTIONS:
            continue  # a tuple of sections, whose fields are fields themselves
        changed = complete(base, {full: str(flat[full])}, sections=SECTIONS)
        assert changed == plainly, full
        assert type(flatten(changed)[full]) is type(flat[full])


def functions() -> list[Any]:
    """Every function behind a section or a choice."""
    found = [s.function for s in SECTIONS.values()]
    found += [choice for s in SECTIONS.values() for choice in (s.table or {}).values()]
    found = [getattr(function, 'func', function) for function in found]  # of a partial
    return list(dict.fromkeys(f for f in found if callable(f)))


@pytest.mark.parametrize('function', functions(), ids=lambda f: f'{f.__module__}.{f.__name__}')
def test_every_field_is_read_and_documented(function):
    """A section's function explains each keyword, and uses all that do more than name a run."""
    if dataclasses.is_dataclass(function):  # what is read of it, the next test looks for
        words = set(re.findall(r'\w+', function.__doc__ or ''))
        assert {field.name for field in dataclasses.fields(function)} - words == set()
        return
    tree = ast.parse(inspect.getsource(function)).body[0]
    assert isinstance(tree, ast.FunctionDef)
    names = [n for part in tree.body for n in ast.walk(part) if isinstance(n, ast.Name)]
    keywords = {a.arg for a in tree.args.kwonlyargs} - {'recipe', 'checksum'}
    more = {tree.args.kwarg.arg} if tree.args.kwarg else set()
    assert (keywords | more) - {n.id for n in names if isinstance(n.ctx, ast.Load)} == set()
    words = set(re.findall(r'\w+', ast.get_docstring(tree) or ''))
    assert keywords - {'name'} - words == set()


def test_every_setting_is_read_somewhere():
    """What a section keeps, in a dataclass or a NamedTuple, is an attribute that code reads."""
    code = [ast.parse(path.read_text()) for path in ROOT.rglob('*.py')]
    found = [n for tree in code for n in ast.walk(tree) if isinstance(n, ast.Attribute)]
    read = {n.attr for n in found if isinstance(n.ctx, ast.Load)}
    kept: dict[str, set[str]] = {}
    for function in functions():
        if dataclasses.is_dataclass(function):
            names = {field.name for field in dataclasses.fields(function)}
        else:
            result = function.__globals__.get(inspect.signature(function).return_annotation)
            names = set(getattr(result, '_fields', ()))
        kept[function.__module__] = names
    assert kept['jcls.workdir.log'] == {'every', 'tensorboard'}
    assert kept['jcls.data.sources'] > {'mean', 'std', 'balanced'}
    assert {module: names - read for module, names in kept.items() if names - read} == {}

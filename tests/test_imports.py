"""What imports what: one direction, late where it is slow, and nothing that happens on import."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import environment

import jcls

ROOT = Path(jcls.__file__).parent
FILES = sorted(ROOT.rglob('*.py'))

ROOMS = {'machines', 'models', 'data', 'optim', 'training', 'tools', 'weights'}
PARTS = {'models', 'data', 'optim', 'weights'}
BELOW_EXPERIMENT = PARTS | {'training', 'config', 'schema'}
ALLOWED = {  # what a room may import of jcls ('jcls' is the package itself, for its version)
    'schema': set(),
    'config': {'schema'},
    'models': {'models', 'schema'},
    'data': {'data', 'schema'},
    'optim': {'optim', 'schema'},
    'weights': {'weights', 'models', 'optim', 'schema', 'jcls'},
    'training': BELOW_EXPERIMENT,
    'experiment': BELOW_EXPERIMENT | {'jcls'},
    'assembly': BELOW_EXPERIMENT | {'experiment'},
    'machines': {'machines', 'schema'},
    'tools': BELOW_EXPERIMENT | {'experiment', 'assembly', 'machines', 'tools'},
    'arguments': set(),
    'main': {'arguments', 'tools', 'training'},  # all but the first inside functions only
    'jcls': set(),  # names are looked up late
}
SLOW = {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow', 'tensorflow_datasets', 'clu'}


def name_of(path: Path) -> str:
    """jcls/data/source.py -> 'data/source.py'."""
    return path.relative_to(ROOT).as_posix()


def room_of(path: Path) -> str:
    """The room that a file is in: its folder's name, or its own."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem.replace('__init__', 'jcls')


def statements(path: Path) -> Iterator[tuple[ast.AST, bool]]:
    """Every node that runs (not under TYPE_CHECKING), and whether it is inside a function."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[ast.AST, bool]]:
        yield node, inside
        if isinstance(node, ast.If) and ast.unparse(node.test) == 'TYPE_CHECKING':
            return
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside)

    return walk(ast.parse(path.read_text()), False)


def imports(path: Path) -> set[tuple[str, bool]]:
    """(full module name, inside a function) of all imports; relative ones do not occur."""
    found = set()
    for node, inside in statements(path):
        if isinstance(node, ast.Import):
            found |= {(alias.name, inside) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}: relative import'
            assert all(alias.name != '*' for alias in node.names)
            package = node.module == 'jcls'  # from jcls import models: the room is the name
            found |= {
                (f'jcls.{a.name}' if package else str(node.module), inside) for a in node.names
            }
    return found


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_imports_run_one_way(path):
    """A file imports of jcls only what lies below its room."""
    room = room_of(path)
    mine = {name for name, _ in imports(path) if name.split('.')[0] == 'jcls'}
    assert {(f'{name}.'.split('.')[1] or 'jcls') for name in mine} <= ALLOWED[room]


def test_every_room_has_its_arrows():
    """No folder or file of jcls is without a rule, and no rule without its files."""
    assert {room_of(path) for path in FILES} == set(ALLOWED)
    assert {path.name for path in ROOT.iterdir() if (path / '__init__.py').exists()} == ROOMS


def test_the_command_line_imports_late():
    """main.py and the package itself import only the standard library on import."""
    for name in ('main.py', '__init__.py'):
        now = {module for module, inside in imports(ROOT / name) if not inside}
        others = {module for module in now if module.split('.')[0] not in sys.stdlib_module_names}
        assert others <= {'jcls.arguments'}


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_tensorflow_stays_in_functions_of_data(path):
    """TensorFlow is imported inside functions of data/, clu inside one of training/log.py."""
    found = {(name.split('.')[0], inside) for name, inside in imports(path)}
    found = {
        (name, inside) for name, inside in found if name.startswith('tensorflow') or name == 'clu'
    }
    if room_of(path) == 'data':
        assert found <= {('tensorflow', True), ('tensorflow_datasets', True)}
    else:
        assert found <= ({('clu', True)} if name_of(path) == 'training/log.py' else set())


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_only_the_config_law_knows_config_dicts(path):
    """Below the experiment nothing knows ml_collections: functions take plain arguments."""
    knows = any(name.split('.')[0] == 'ml_collections' for name, _ in imports(path))
    assert not knows or room_of(path) in {'schema', 'config', 'assembly', 'tools'}


# Calls that a module may make on import: they build a constant and touch nothing else.
CONSTRUCTORS = {
    'enumerate',
    'tuple',
    'logging.getLogger',
    'nn.initializers.variance_scaling',
    'schema.Section',
    '_preset',
    '_resnet_d',
    '_cifar',
    'range',
    'Chip',
    'Layout',
    '_indexed',
    '_older',
    '_paddle_stem',
}
CHANGING = {'append', 'extend', 'add', 'update', 'insert', 'pop', 'remove', 'clear', 'setdefault'}


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_importing_does_nothing(path):
    """A module's top level is definitions, imports and constants: no call with an effect."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) in ('TYPE_CHECKING', "__name__ == '__main__'")
        elif isinstance(node, ast.Expr):
            rule = ast.unparse(node.value).partition('(')[0].endswith('.defvjp')  # of a function
            assert rule or isinstance(node.value, ast.Constant), f'line {node.lineno}'
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
            assert {ast.unparse(call.func) for call in calls} <= CONSTRUCTORS, f'line {node.lineno}'
        else:
            allowed = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
            assert isinstance(node, allowed), f'line {node.lineno}'


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_no_module_has_state(path):
    """No table of a module is empty at first or changed later, and nothing is declared global."""
    tree = ast.parse(path.read_text())
    tables = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            value = node.value
            if isinstance(value, ast.Dict | ast.List | ast.Set):
                assert ast.unparse(value) not in ('{}', '[]'), f'line {node.lineno}'
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                tables |= {ast.unparse(target) for target in targets}
    for node, _ in statements(path):
        assert not isinstance(node, ast.Global)
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            assert ast.unparse(node.value) not in tables, f'line {node.lineno}'
        if isinstance(node, ast.Attribute) and node.attr in CHANGING:
            assert ast.unparse(node.value) not in tables, f'line {node.lineno}'
        if isinstance(node, ast.AugAssign):
            assert ast.unparse(node.target) not in tables, f'line {node.lineno}'
    cached = [
        function.name
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        and any('cache' in ast.unparse(decorator) for decorator in function.decorator_list)
    ]
    assert cached == (['tensorflow'] if name_of(path) == 'data/runtime.py' else [])


def loaded_by(code: str) -> set[str]:
    """The packages that are loaded after `code` ran in a process of its own."""
    code += '\nimport json, sys\nprint(json.dumps(sorted({m.split(".")[0] for m in sys.modules})))'
    command = [sys.executable, '-c', code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.split('\n')[-2]))


def test_the_package_and_help_load_neither_jax_nor_tensorflow():
    """import jcls, and --help of jcls and of every verb, load nothing slow."""
    code = """
import contextlib, io
import jcls, jcls.arguments, jcls.main
assert jcls.__version__ and 'train' in dir(jcls)
for verb in ([], *([verb] for verb in jcls.arguments.VERBS)):
    for words in ([*verb, '--help'], [*verb, '-h'], [*verb, '--no-such-flag']):
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
            with contextlib.redirect_stderr(io.StringIO()):
                jcls.main.main(words)
        assert 'usage' in out.getvalue() or 'flag' in words[-1], words
"""
    assert loaded_by(code) & (SLOW | {'numpy', 'ml_collections'}) == set()


def test_the_config_law_loads_neither_jax_nor_tensorflow():
    """A config file, which imports jcls.config, costs no start-up of JAX."""
    assert loaded_by('import jcls.config, jcls.schema') & SLOW == set()


def test_experiments_are_built_without_tensorflow():
    """A config is loaded and an experiment built, errors and all, before TensorFlow is touched."""
    code = "import jcls; jcls.build(jcls.load_config('configs/quickstart.py'))"
    found = loaded_by(code)
    assert 'jax' in found
    assert found & {'tensorflow', 'tensorflow_datasets', 'clu'} == set()


def test_every_public_name_exists():
    """Each name that the package promises is there on first use; another is an AttributeError."""
    assert set(jcls.__all__) <= set(dir(jcls))
    for name in jcls.__all__:
        assert getattr(jcls, name) is not None
    with pytest.raises(AttributeError, match='no attribute'):
        _ = jcls.evalute

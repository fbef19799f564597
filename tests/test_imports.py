"""What imports what: one direction, late where it is slow, and nothing that happens on import."""

from __future__ import annotations

import ast
import graphlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import jcls
from helpers.runs import environment

ROOT = Path(jcls.__file__).parent
FILES = sorted(ROOT.rglob('*.py'))

# What each room may import of jcls, beside itself: what stands below it.
CORE = {'config', 'host'}
PARTS = CORE | {'models', 'optim', 'data', 'distributed', 'workdir'}
TRAINER = PARTS | {'weights', 'training', 'assembly'}
ALLOWED: dict[str, set[str]] = {
    'config': set(),
    'host': set(),
    'models': {'config'},
    'optim': {'config'},
    'data': CORE,
    'distributed': CORE,
    'workdir': CORE,
    'weights': CORE | {'models', 'workdir'},
    'training': PARTS | {'weights'},
    'assembly': PARTS | {'weights', 'training'},
    'tools': TRAINER,
    'arguments': set(),
    'main': {'arguments', 'distributed', 'host', 'tools'},
    'jcls': {'models', 'assembly', 'weights', 'tools'},  # for type checkers only; see below
}
SLOW = {'jax', 'jaxlib', 'flax', 'optax', 'orbax', 'tensorflow', 'tensorflow_datasets', 'clu'}


def name_of(path: Path) -> str:
    """jcls/data/sources/__init__.py -> 'data/sources/__init__.py'."""
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


def imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name in it) of every import, of those for type checkers and late ones, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, '') for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((str(node.module), alias.name) for alias in node.names)


def full_name(pair: tuple[str, str]) -> str:
    """('jcls', 'models') -> 'jcls.models'."""
    return '.'.join(filter(None, pair))


def module_of(path: Path) -> str:
    """jcls/data/augment/__init__.py -> 'jcls.data.augment'."""
    return '.'.join(('jcls', *path.relative_to(ROOT).with_suffix('').parts)).removesuffix(
        '.__init__'
    )


def modules_of(path: Path) -> set[str]:
    """The modules of jcls that a file imports, its own package left out."""
    known = {module_of(file) for file in FILES}
    found = set()
    for pair in imported(ast.parse(path.read_text())):
        name = full_name(pair)
        found |= {name if name in known else pair[0]} & known
    return found - {module_of(path)}


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


def rooms_of(path: Path) -> set[str]:
    """The rooms that a file imports something of, also for type checkers alone."""
    tree = ast.parse(path.read_text())
    return {
        name.split('.')[1] for name in map(full_name, imported(tree)) if name.startswith('jcls.')
    }


def test_imports_run_one_way() -> None:
    """A file imports of jcls only what stands below its room, for type checkers, too."""
    wrong = {
        name_of(path): upward
        for path in FILES
        if (upward := rooms_of(path) - ALLOWED[room_of(path)] - {room_of(path)})
    }
    assert wrong == {}
    assert {room_of(path) for path in FILES} == set(ALLOWED)


def test_no_circles_inside_a_room() -> None:
    """Within a room, too, imports have a direction: what is imported never imports back."""
    graph = {module_of(path): modules_of(path) for path in FILES if path != ROOT / '__init__.py'}
    # A circle is a CycleError, which names its modules.
    order = set(graphlib.TopologicalSorter(graph).static_order())
    assert {module_of(path) for path in FILES} - {'jcls'} <= order


def test_the_command_line_imports_late() -> None:
    """main.py and the package itself import only the standard library on import."""
    for name in ('main.py', '__init__.py'):
        now = {module for module, inside in imports(ROOT / name) if not inside}
        others = {module for module in now if module.split('.')[0] not in sys.stdlib_module_names}
        assert others <= {'jcls.arguments'}


def test_slow_libraries_are_imported_late() -> None:
    """TensorFlow, TFDS and clu are imported inside functions, where they are needed."""
    allowed = {
        'tensorflow': {'host/tensorflow.py'},
        'tensorflow_datasets': {'data/sources/tfds.py', 'tools/prepare/write.py'},
        'clu': {'workdir/log.py'},
    }
    for path in FILES:
        for name, inside in imports(path):
            if (library := name.split('.')[0]) in allowed:
                assert name_of(path) in allowed[library], library
                assert inside, f'{name_of(path)}: {library} on import'


def test_only_the_config_law_knows_config_dicts() -> None:
    """Below the assembly nothing knows ml_collections: functions take plain arguments."""
    knowing = {
        room_of(path)
        for path in FILES
        if any(name.split('.')[0] == 'ml_collections' for name, _ in imports(path))
    }
    assert knowing <= {'config', 'assembly', 'tools'}


# Calls that a module may make on import: they build a constant and touch nothing else.
CONSTRUCTORS = {
    'enumerate',
    'tuple',
    'logging.getLogger',
    'nn.initializers.variance_scaling',
    'Section',
    'Metric',
    'functools.partial',
    'PRESETS.items',
    '_TensorFlow',
    '_preset',
    '_resnet_d',
    '_cifar',
    'range',
    'Chip',
    'Layout',
    'Launcher',
    '_indexed',
    '_older',
    '_paddle_stem',
}
CHANGING = {'append', 'extend', 'add', 'update', 'insert', 'pop', 'remove', 'clear', 'setdefault'}


def test_importing_does_nothing() -> None:
    """A module's top level is definitions, imports and constants: no call with an effect."""
    for path in FILES:
        check_top_level(path)


def check_top_level(path: Path) -> None:
    for node in ast.parse(path.read_text()).body:
        line = f'{name_of(path)}, line {node.lineno}'
        if isinstance(node, ast.If):
            assert ast.unparse(node.test) in ('TYPE_CHECKING', "__name__ == '__main__'"), line
        elif isinstance(node, ast.Expr):
            rule = ast.unparse(node.value).partition('(')[0].endswith('.defvjp')  # of a function
            assert rule or isinstance(node.value, ast.Constant), line
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            calls = [n for n in ast.walk(node) if isinstance(n, ast.Call)]
            assert {ast.unparse(call.func) for call in calls} <= CONSTRUCTORS, line
        else:
            allowed = ast.Import | ast.ImportFrom | ast.FunctionDef | ast.ClassDef
            assert isinstance(node, allowed), line


def test_no_module_has_state() -> None:
    """No table of a module is empty at first or changed later, and nothing is declared global."""
    for path in FILES:
        check_state(path)


def check_state(path: Path) -> None:
    tree = ast.parse(path.read_text())
    tables = set()
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign):
            value = node.value
            if isinstance(value, ast.Dict | ast.List | ast.Set):
                assert ast.unparse(value) not in ('{}', '[]'), f'{name_of(path)}, {node.lineno}'
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                tables |= {ast.unparse(target) for target in targets}
    for node, _ in statements(path):
        assert not isinstance(node, ast.Global)
        if isinstance(node, ast.Subscript) and not isinstance(node.ctx, ast.Load):
            assert ast.unparse(node.value) not in tables, f'{name_of(path)}, line {node.lineno}'
        if isinstance(node, ast.Attribute) and node.attr in CHANGING:
            assert ast.unparse(node.value) not in tables, f'{name_of(path)}, line {node.lineno}'
        if isinstance(node, ast.AugAssign):
            assert ast.unparse(node.target) not in tables, f'{name_of(path)}, line {node.lineno}'
    cached = [
        function.name
        for function in tree.body
        if isinstance(function, ast.FunctionDef)
        and any('cache' in ast.unparse(decorator) for decorator in function.decorator_list)
    ]
    assert cached == (['load'] if name_of(path) == 'host/tensorflow.py' else []), name_of(path)


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
    assert loaded_by('import jcls.config, jcls.config.schema') & SLOW == set()


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

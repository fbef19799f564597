"""The command line: what it accepts, what it refuses and how, exit codes, --json."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import logging
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import jcls
from helpers.runs import TINY
from jcls import arguments
from jcls import main as command
from jcls.config.schema import plain
from jcls.data.augment import crop
from jcls.distributed import launch
from jcls.tools import config, evaluate, export, import_, plan, predict, prepare, preview, train
from jcls.tools.bench.input import bench_input
from jcls.tools.plan.measure import bench_step
from jcls.training.loop import Result
from jcls.weights import imported
from jcls.weights.foreign.convert import UNTOLD

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
OVERRIDES = ['--config.duration=3 steps', '--config.log.every', '1 steps']


@pytest.fixture(autouse=True)
def keep_logging():
    """Put back the levels that the command line sets."""
    loggers = [logging.getLogger(name) for name in ('jcls', 'absl')]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope='module')
def file(tmp_path_factory) -> str:
    """A config file of a run of seconds."""
    path = tmp_path_factory.mktemp('configs') / 'tiny.py'
    path.write_text(f'def get_config():\n    return {TINY!r}\n')
    return str(path)


@pytest.fixture(scope='module')
def workdir(file, tmp_path_factory) -> Path:
    """The folder of a finished run of three steps."""
    path = tmp_path_factory.mktemp('runs') / 'tiny'
    assert command.main(['--config', file, '--workdir', str(path), *OVERRIDES]) == 0
    return path


@pytest.fixture
def run(capsys):
    """Run a command line in this process: (exit code, standard output, standard error)."""

    def main(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            code = command.main([str(word) for word in words])
        except SystemExit as error:
            code = error.code
        captured = capsys.readouterr()
        assert 'Traceback' not in captured.err
        return code, captured.out, captured.err

    return main


def last_line(out: str) -> Any:
    """The last line of the output, which must be JSON as the standard has it (no NaN)."""
    return json.loads(out.rstrip('\n').split('\n')[-1], parse_constant=pytest.fail)


# Wrong command lines


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], '--config'),
        (['--workdir', 'w'], '--config'),
        (['--config', 'FILE', '--workdir', 'w', 'left'], 'left'),
        (['train', '--config', 'FILE', '--workdir', 'w', 'left', 'over'], 'left over'),
        (['--config', 'FILE', '--workdir', 'w', 'config.lr=3'], 'write --config.lr=3'),
        (['config', 'show', 'FILE', 'config.optimizer.lr=3'], 'write --config.optimizer.lr=3'),
        (['--config', 'FILE', '--workdir', 'w', '--dryrun'], '--dryrun'),
        (['--config', 'FILE', '--workdir', 'w', '--dry'], '--dry'),
        (['--config', 'FILE', '--workdir', 'w', '--optimizer.lr=3'], '--optimizer.lr=3'),
        (['--config', 'FILE', '--workdir', 'w', '--config.optimizer.lr'], 'lacks a value'),
        (['--config', 'FILE', '--distributed', 'maybe', '--workdir', 'w'], 'auto'),
        (['trian', '--config', 'FILE', '--workdir', 'w'], 'trian'),
        (['evalute', 'runs/x'], 'evalute'),
        (['evaluate'], 'workdir'),
        (['config', 'shw', 'FILE'], 'show'),
        (['config', 'show'], 'configs'),
        (['predict', 'w', 'a.jpg', '--config.seed=1'], 'predict has no config: --config.seed'),
    ],
)
def test_a_wrong_command_line_exits_with_2_and_says_what_is_wrong(run, file, words, message):
    """Words, flags and verbs that jcls does not know are named on standard error."""
    code, out, err = run(*[file if word == 'FILE' else word for word in words])
    assert code == 2
    assert message in err
    assert out == ''


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--config', 'no.py', '--workdir', 'w'], "no config file 'no.py'"),
        (['--config', 'FILE:a=1', '--workdir', 'w'], 'takes no argument'),
        (['--config', 'FILE', '--workdir', 'w', '--config.optimizer.lrr=3'], "mean 'lr'?"),
        (['--config', 'FILE', '--workdir', 'w', '--config.seed=1.5'], 'config.seed: expected int'),
        (['--config', 'FILE', '--workdir', 'w', '--config.augment.0.name=flip'], 'config.augment'),
        (['--config', 'FILE', '--workdir', 'w', '--config.duration=1e400 epochs'], 'duration'),
        (['--config', 'FILE', '--workdir', 'w', '--config.schedule.warmup=5 moons'],
         "config.schedule.warmup: '5 moons'"),
        (['--config', 'FILE', '--workdir', 'w', '--config.optimizer.lr=0'], 'must be positive'),
        (['config', 'diff', 'FILE'], 'takes 2'),
        (['config', 'show', 'FILE', 'FILE'], 'takes 1'),
        (['config', 'show', '.'], 'not a workdir'),
        (['evaluate', 'nowhere'], 'nowhere is not a workdir'),
    ],
)  # fmt: skip
def test_an_error_exits_with_1_and_a_message(run, file, tmp_path, monkeypatch, words, message):
    """A user's mistake is one message on standard error: no traceback, no JSON, no workdir."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*[word.replace('FILE', file) for word in words], '--json')
    assert code == 1
    assert err.startswith('error: ')
    assert message in err
    assert '{' not in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], '--workdir'),
        (['--workdir', ''], '--workdir'),
        (['--workdir', 'w', '--config.=3'], 'config.'),
    ],
)
def test_an_incomplete_command_line_is_refused(run, file, words, message):
    """Without a workdir, or with an override of nothing, there is a message and no run."""
    code, _, err = run('--config', file, *words)
    assert code in (1, 2)
    assert message in err


def test_a_traceback_comes_on_request(file, monkeypatch):
    """JCLS_TRACEBACK=1 lets the error through, for whoever looks for the place."""
    monkeypatch.setenv('JCLS_TRACEBACK', '1')
    with pytest.raises(ValueError, match='lrr'):
        command.main(['config', 'show', file, '--config.optimizer.lrr=3'])


def test_a_config_file_may_be_called_config_py(run, tmp_path, monkeypatch):
    """Only config.x=value lacks its dashes; config.py is a good name for a file."""
    (tmp_path / 'config.py').write_text(f'def get_config():\n    return {TINY!r}\n')
    monkeypatch.chdir(tmp_path)
    code, out, err = run('config', 'show', 'config.py')
    assert (code, err) == (0, '')
    assert 'optimizer.lr = 0.05' in out


# Looking at configs


def test_config_show_prints_every_field_with_the_overrides_applied(run, file):
    """Each field is on a line of its own, by either form of override, and in the JSON line."""
    words = [
        '--config.optimizer.lr=0.5',
        '--config.augment[0].size',
        '9',
        '--config.data.name=digits',
    ]
    code, out, _ = run('config', 'show', file, '--json', *words)
    assert code == 0
    lines = out.split('\n')
    assert 'optimizer.lr = 0.5' in lines
    assert 'augment[0].size = 9' in lines
    assert "schedule.name = 'cosine'" in lines  # a default
    assert last_line(out)['augment'] == [{'name': 'pad_and_crop', 'size': 9, 'padding': 1}]


def test_config_diff_prints_what_differs(run, file, workdir):
    """Two files, or a file and a workdir: one pair of lines a field, then a fact that follows; JSON
    {fields: {field: [old, new]}, facts: ...}."""
    code, out, _ = run('config', 'diff', file, workdir, '--json')
    assert code == 0
    expected = {'duration': ['12 steps', '3 steps'], 'log.every': ['2 steps', '1 steps']}
    assert last_line(out)['fields'] == expected
    assert last_line(out)['facts']['steps'] == [12, 3]
    assert (
        out.index('+ duration') < out.index('and so, before any run:') < out.index('- steps = 12')
    )
    assert "- duration = '12 steps'\n+ duration = '3 steps'" in out
    assert 'no difference' in run('config', 'diff', file, file)[1]


def test_overrides_of_a_workdir_s_config_are_not_ignored(run, workdir):
    """jcls config show WORKDIR --config.x=y applies the override or refuses it."""
    code, out, _ = run('config', 'show', workdir, '--config.optimizer.lr=77')
    assert code != 0 or 'optimizer.lr = 77.0' in out.split('\n')
    assert run('config', 'show', workdir, '--config.optimizer.lrr=77')[0] != 0


def test_a_new_name_says_what_it_drops(run, file, caplog):
    """The command line shows which fields a new name made disappear."""
    with caplog.at_level(logging.INFO, 'jcls'):
        assert run('config', 'show', file, '--config.schedule.name=constant')[0] == 0
        assert caplog.text == ''  # the config says nothing that `constant` lacks
        words = ['--config.evaluate.preprocess=({"name":"flip"},)', '--config.augment[0].name=flip']
        assert run('config', 'show', file, *words)[0] == 0
    assert 'config.augment[0].name=flip drops size, padding' in caplog.text


# Training and evaluating


def test_training_ends_with_one_json_object_and_0(run, file, workdir):
    """The last line has step, total, workdir and the last evaluation, of a resumed run, too."""
    code, out, _ = run('train', '--config', file, '--workdir', workdir, '--json', *OVERRIDES)
    assert code == 0
    found = last_line(out)
    assert (found['step'], found['total'], found['interrupted']) == (3, 3, None)
    assert found['workdir'] == str(workdir)
    assert 0 <= found['eval/top1'] <= 1
    assert found['eval/examples'] == len(jcls.build(jcls.load_config(file)).data.val)
    assert json.loads((workdir / 'config.json').read_text())['duration'] == '3 steps'


def test_a_workdir_of_another_config_is_refused_with_the_difference(run, file, workdir):
    """Exit code 1; what differs is shown, and nothing in the workdir changes."""
    before = (workdir / 'config.json').read_text()
    words = ['--config', file, '--workdir', workdir, *OVERRIDES, '--config.optimizer.lr=0.5']
    code, _, err = run(*words)
    assert code == 1
    assert '- optimizer.lr = 0.05\n  + optimizer.lr = 0.5' in err
    assert 'log.every' not in err
    assert (workdir / 'config.json').read_text() == before


def test_evaluate_prints_the_metrics_of_the_run(run, workdir):
    """jcls evaluate --json gives what the run itself measured, on every held-out image."""
    code, out, _ = run('evaluate', workdir, '--json', '--config.evaluate.batch_size=90')
    assert code == 0
    found = last_line(out)
    metadata = json.loads((workdir / 'model.json').read_text())
    assert (found['damaged'], found['step']) == (0, 3)
    assert found['examples'] == metadata['metrics']['eval/examples'] > 350
    assert found['top1'] == metadata['metrics']['eval/top1']
    assert found['loss'] == pytest.approx(metadata['metrics']['eval/loss'], rel=1e-5)
    assert run('evaluate', workdir, '--step', '2')[0] == 1


def test_weights_from_elsewhere_are_evaluated_on_a_configs_data(run, file, workdir, tmp_path):
    """Exported and without a config of its own, the model has the run's metrics on the same data;
    without --config, with other classes or data of none, the message says what is missing."""
    metadata = json.loads((workdir / 'model.json').read_text())
    assert run('export', workdir, tmp_path / 'out')[0] == 0
    code, out, err = run('evaluate', tmp_path / 'out', '--config', file, '--json')
    assert code == 0, err
    assert last_line(out)['top1'] == metadata['metrics']['eval/top1']
    assert last_line(out)['examples'] == metadata['metrics']['eval/examples']
    for path in (workdir, tmp_path / 'out'):
        code, out, _ = run('evaluate', path, '--config', file, '--json')
        assert (last_line(out)['step'], last_line(out)['ema']) == (3, False)
        assert f'{path}, checkpoint 3: top-1' in out
    code, _, err = run('evaluate', tmp_path / 'out')
    assert (code, 'is no workdir of jcls; name a config with the data' in err) == (1, True)
    renamed = {**metadata, 'classes': [f'digit {name}' for name in metadata['classes']]}
    (tmp_path / 'out' / 'model.json').write_text(json.dumps(renamed))
    code, _, err = run('evaluate', tmp_path / 'out', '--config', file)
    assert (code, 'they must be the same names' in err) == (1, True)


@pytest.mark.parametrize('where', ['model.width=8', 'norm.epsilon=0.1', 'init.source=x'])
def test_evaluate_changes_no_weights(run, file, workdir, where):
    """What belongs to the weights is refused, on the run's data and on another config's."""
    for words in ([], ['--config', file]):
        code, _, err = run('evaluate', workdir, *words, f'--config.{where}')
        assert (code, f'{where.split("=")[0]}: belongs to the weights' in err) == (1, True)


def test_weights_are_evaluated_on_images_turned_as_they_were(run, file, workdir, tmp_path):
    """The data of another config are prepared as model.json says, data.exif included."""
    assert run('export', workdir, tmp_path / 'out')[0] == 0
    metadata = json.loads((workdir / 'model.json').read_text())
    (tmp_path / 'out' / 'model.json').write_text(json.dumps({**metadata, 'exif': True}))
    built = mock.Mock(side_effect=ValueError('enough'))
    with mock.patch('jcls.tools.evaluate.build', built):
        run('evaluate', tmp_path / 'out', '--config', file)
    assert built.call_args.args[0]['data']['exif'] is True


@pytest.mark.parametrize('kind', [ValueError, OSError, FloatingPointError])
def test_a_run_that_fails_exits_with_1(run, file, monkeypatch, kind):
    """Bad configs, full disks and losses that are not finite end with their message alone."""
    monkeypatch.setattr(train, 'train', mock.Mock(side_effect=kind('what is wrong')))
    code, out, err = run('--config', file, '--workdir', 'w', '--json')
    assert (code, out, err) == (1, '', 'error: what is wrong\n')


def test_an_interrupted_run_exits_with_75(run, file, monkeypatch):
    """A launcher sees by the code that the same command resumes, and --json says so, too; an
    interrupted dry run exits with 130."""
    result = Result(2, 3, {}, Path('w'), 'SIGTERM')
    monkeypatch.setattr(train, 'train', mock.Mock(return_value=result))
    code, out, _ = run('--config', file, '--workdir', 'w', '--json')
    assert code == 75
    expected = {'step': 2, 'total': 3, 'workdir': 'w', 'interrupted': 'SIGTERM'}
    assert last_line(out) == expected
    code, out, err = run('--config', file, '--dry_run')  # of which nothing is left to resume
    assert code == 130
    assert 'interrupted' in err
    assert 'done' not in out


def test_a_dry_run_keeps_what_the_user_sets(run, file):
    """--dry_run shrinks around the user's own overrides, which win, and prints them all."""
    words = ['--config.batch_size=32', '--config.model.width=8']
    code, out, err = run('--config', file, '--dry_run', '--json', *words)
    assert code == 0, err
    assert last_line(out)['step'] == 2
    printed = [line.strip() for line in out.split('\n') if line.startswith('  --config.')]
    assert [line for line in printed if line.startswith(tuple(w[:-2] for w in words))] == words


def test_a_dry_run_does_not_occupy_the_workdir(run, file, tmp_path):
    """A command tried with --dry_run first can start in the same workdir afterwards."""
    code, _, err = run('--config', file, '--workdir', tmp_path / 'w', '--dry_run')
    assert code == 0, err
    assert not (tmp_path / 'w' / 'config.json').exists()
    assert not (tmp_path / 'w' / 'checkpoints').exists()


@pytest.mark.parametrize('words', [[], ['train'], ['evaluate'], ['config']])
def test_help_exits_with_0(run, words):
    """jcls --help and each verb's --help print their usage, of jcls every verb."""
    code, out, err = run(*words, '--help')
    assert (code, err) == (0, '')
    assert out.startswith(f'usage: {" ".join(["jcls", *words])} [')
    assert words or all(verb in out for verb in arguments.VERBS)


FUNCTIONS = {
    'train': [launch.initialize],
    'evaluate': [evaluate.evaluate],
    'config': [config.run],
    'predict': [predict.predict],
    'import': [import_.import_weights],
    'export': [export.export],
    'preview': [preview.preview],
    'plan': [plan.plan],
    'bench': [bench_input, bench_step],
    'prepare': [prepare.prepare],
}


@pytest.mark.parametrize('verb', arguments.VERBS)
def test_help_tells_the_defaults_of_the_functions(verb):
    """Every default in a signature stands in the help text as '(default: ...)'."""
    defaults: dict[str, Any] = {}
    for function in FUNCTIONS[verb]:
        parameters = inspect.signature(function).parameters.values()
        defaults |= {p.name: p.default for p in parameters if p.default is not p.empty}
    parser = argparse.ArgumentParser(argument_default=argparse.SUPPRESS)
    arguments._ARGUMENTS[verb](parser)
    for action in parser._actions:
        default = defaults.get(action.dest)
        told = re.search(r'\(default: (.*)\)$', action.help or '')
        if isinstance(default, bool) or default in (None, '', (), sys.executable):
            continue  # a flag, or a default that the text describes in words
        assert told, action.dest
        assert told[1] == f'{default:g}' if isinstance(default, float) else str(default)


CHOICES = {
    ('train', 'mode'): launch.MODES,
    ('evaluate', 'ema'): imported.EMA_CHOICES,
    ('predict', 'ema'): imported.EMA_CHOICES,
    ('import', 'ema'): imported.EMA_CHOICES,
    ('import', 'interpolation'): crop.INTERPOLATIONS,
    **{('import', what): UNTOLD[what] for what in ('stem', 'shortcut', 'padding')},
    ('export', 'ema'): imported.EMA_CHOICES,
    ('export', 'format'): export.FORMATS,
    ('prepare', 'drop'): prepare.DROP,
}


@pytest.mark.parametrize('verb', arguments.VERBS)
def test_choices_are_those_of_the_functions(verb):
    """What the command line lets through is just what the functions know."""
    parser = argparse.ArgumentParser()
    arguments._ARGUMENTS[verb](parser)
    listed = {a.dest: {*a.choices} for a in parser._actions if a.choices and a.option_strings}
    assert listed == {dest: {*known} for (of, dest), known in CHOICES.items() if of == verb}


def test_python_and_the_command_line_agree(run, file):
    """jcls.load_config and the command line make the same tree of the same overrides."""
    overrides = {'optimizer.lr': '1', 'augment': '()', 'evaluate.preprocess': "({'name':'flip'},)"}
    out = run(
        'config', 'show', file, '--json', *[f'--config.{k}={v}' for k, v in overrides.items()]
    )
    assert last_line(out[1]) == json.loads(json.dumps(plain(jcls.load_config(file, overrides))))


def test_no_message_advises_to_remove_anything():
    """What somebody removes on our advice may be a month's work."""
    found = []
    for path in Path(jcls.__file__).parent.rglob('*.py'):
        tree = ast.parse(path.read_text())
        documentation = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, DOCUMENTED)
        }
        found += [
            f'{path.name}:{node.lineno}: {node.value}'
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value not in documentation
            and re.search(r'\b(remove|delete|erase|rm)\b', node.value, re.IGNORECASE)
        ]
    assert not found

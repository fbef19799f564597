"""The loop: resuming is exact, nothing is lost, and every way to end is told."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jcls
from helpers.runs import TINY, assert_same_run, crashing, environment, lines
from jcls.training import loop
from jcls.training.experiment import Experiment
from jcls.workdir import log
from jcls.workdir.checkpoint import FOLDER, Checkpoints


def test_crashed_and_resumed_is_never_crashed(
    experiment: Experiment, finished: Path, tmp_path: Path
) -> None:
    """A run that crashed twice, the second time right after a save, equals one that did not."""
    for at in (7, 9):
        with pytest.raises(RuntimeError, match='power cut'):
            loop.train(crashing(experiment, at), tmp_path)
    result = loop.train(experiment, tmp_path)
    assert (result.step, result.total, result.interrupted) == (12, 12, None)
    assert_same_run(tmp_path, finished, experiment)


def test_a_run_killed_before_its_first_checkpoint_starts_over_with_its_log(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """Nothing of a start that no checkpoint kept stays in metrics.jsonl, step 0 included."""
    tiny['evaluate'] |= {'at_start': True}
    exp = jcls.build({**tiny, 'duration': '4 steps'})
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(exp, 3), tmp_path)
    assert [line['step'] for line in lines(tmp_path)] == [0, 2]
    loop.train(exp, tmp_path)
    assert [line['step'] for line in lines(tmp_path)] == [0, 2, 4, 4]


def test_an_evaluation_that_a_signal_put_off_is_made_up_for(
    experiment: Experiment, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped where an evaluation was due, the run saves at once; resumed, it evaluates first, and
    in the end nothing differs from an undisturbed run."""
    with monkeypatch.context() as patch:
        patch.setattr(loop.Interrupt, 'requested', lambda _, step: 'SIGTERM' if step == 5 else None)
        assert loop.train(experiment, tmp_path).interrupted == 'SIGTERM'
    assert [line['step'] for line in lines(tmp_path)] == [2, 4]
    with pytest.raises(RuntimeError, match='power cut'):
        loop.train(crashing(experiment, 6), tmp_path)
    assert [line['step'] for line in lines(tmp_path)] == [2, 4, 5]
    loop.train(experiment, tmp_path)
    assert_same_run(tmp_path, finished, experiment)


def test_the_best_is_a_metric_that_exists(tiny: dict[str, Any]) -> None:
    """A misspelled checkpoint.best is refused before the run, with the metrics there are."""
    tiny['checkpoint'] |= {'best': 'eval/topp1'}
    with pytest.raises(ValueError, match=r"checkpoint.best 'eval/topp1'; did you mean 'eval/top1'"):
        jcls.build(tiny)


def test_metrics_say_what_happened_at_which_step(experiment: Experiment, finished: Path) -> None:
    """Logs every 2 steps, evaluations every 5 and at the end; the rate is the schedule's, epochs
    are steps over steps per epoch."""
    read = lines(finished)
    train = {line['step']: line for line in read if 'train/loss' in line}
    evals = {line['step']: line for line in read if 'eval/top1' in line}
    assert list(train) == [2, 4, 6, 8, 10, 12]
    assert list(evals) == [5, 10, 12]
    assert all(line['eval/examples'] == 360 for line in evals.values())
    for step, line in train.items():
        rate = float(experiment.schedule(step - 1))
        assert line['train/learning_rate'] == pytest.approx(rate, rel=1e-6)
        assert line['epoch'] == step / (1437 // 8)
    assert {'train/top1', 'train/top5', 'train/gradient_norm'} <= set(train[2])
    metadata = json.loads((finished / 'model.json').read_text())
    assert metadata['metrics']['eval/top1'] == evals[12]['eval/top1']
    assert metadata['classes'] == list('0123456789')


def test_a_finished_run_run_again_changes_nothing(
    experiment: Experiment, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command after the end takes no step and says what was reached."""
    before = (finished / log.FILE).read_bytes()
    result = loop.train(experiment, finished)
    assert result.step == 12
    assert (finished / log.FILE).read_bytes() == before
    assert f'top-1 {result.metrics["eval/top1"]:.4f}' in capsys.readouterr().out


def test_evaluation_before_the_start_and_on_training_images(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """at_start evaluates state 0; train_examples adds eval_train on that many training images."""
    tiny['duration'] = '1 step'
    tiny['evaluate'] |= {'at_start': True, 'train_examples': 50, 'every': 'never'}
    result = jcls.train(tiny, tmp_path)
    first = lines(tmp_path)[0]
    assert (first['step'], first['eval/examples'], first['eval_train/examples']) == (0, 360, 50)
    assert result.metrics['eval_train/examples'] == 50
    scores = jcls.evaluate(tmp_path)
    assert scores['top1'] == result.metrics['eval/top1']
    assert (scores['examples'], scores['damaged'], scores['step']) == (360, 0, 1)


def test_a_loaded_model_gives_the_logits_of_the_run(
    experiment: Experiment, finished: Path, tmp_path: Path
) -> None:
    """jcls.load rebuilds model and variables from the workdir alone: accuracy computed from its
    logits in NumPy is the run's own, for 'last', 'best' and a checkpoint's path."""
    val = experiment.data.val
    batches = list(experiment.eval_batches(val, np.arange(len(val))))
    images = np.concatenate([np.asarray(b['image']) for b in batches])[:360] / 255
    normal = (images - np.array(experiment.data.mean)) / np.array(experiment.data.std)
    expected = {line['step']: line['eval/top1'] for line in lines(finished) if 'eval/top1' in line}
    for path, step, number in (
        (finished, 'last', 12), (finished / FOLDER / '12', 'last', 12), (finished, 12, 12),
    ):  # fmt: skip
        model, variables = jcls.load(path, step)
        logits = model.apply(variables, jnp.asarray(normal, jnp.float32), train=False)
        assert logits.shape == (360, 10)
        top1 = (np.asarray(logits).argmax(1) == val.labels).mean()
        assert top1 == pytest.approx(expected[number], abs=1e-6)
    with pytest.raises(ValueError, match=r"step='7': no such checkpoint .*\(there are: .*12"):
        jcls.load(finished, '7')
    with pytest.raises(ValueError, match='is not a workdir of jcls'):
        jcls.load(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_rate(
    tiny: dict[str, Any], tmp_path: Path
) -> None:
    """The error names the first bad step and its learning rate; the checkpoint before it stays and
    is finite, and no later one is written."""
    tiny['optimizer'] |= {'lr': 1e30, 'weight_decay': 0.0}
    tiny['schedule'] = {'name': 'constant', 'warmup': '6 steps'}
    tiny['checkpoint'] = {'every': '1 step', 'keep': 12}
    with pytest.raises(FloatingPointError, match=r'at step (\d+) is (nan|inf).*learning rate') as e:
        jcls.train(tiny, tmp_path)
    bad = int(str(e.value).split('at step ')[1].split()[0])
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == list(range(1, bad))
    checkpoints.close()
    _, variables = jcls.load(tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables['params']))


def test_a_longer_duration_goes_on(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A run that ended goes on from its end when the duration grows, with other logs, too."""
    tiny['duration'] = '2 steps'
    jcls.train(tiny, tmp_path)
    tiny |= {'duration': '4 steps', 'log': {'every': '1 step', 'tensorboard': False}}
    assert jcls.train(tiny, tmp_path).step == 4
    assert [line['step'] for line in lines(tmp_path)] == [2, 2, 3, 4, 4]


def start(workdir: Path, *more: str, **env: str) -> subprocess.Popen[str]:
    """The command line on the tiny config, as a process of its own."""
    config = workdir.with_suffix('.py')
    config.write_text(f'def get_config():\n    return {TINY!r}\n')
    command = [sys.executable, '-m', 'jcls.main', '--config', str(config)]
    return subprocess.Popen(
        [*command, '--workdir', str(workdir), *more],
        env=environment(**env), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Until the condition holds; an error if the process ends first."""
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_code_75(number: signal.Signals, tmp_path: Path) -> None:
    """SIGTERM and SIGINT end the run after the step, saved; the message says how to go on."""
    workdir = tmp_path / 'run'
    process = start(workdir, '--config.duration=100000 steps', '--config.evaluate.every=never')
    wait_for(lambda: len(log.read(workdir / log.FILE)) > 3, process)
    process.send_signal(number)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert f'stopped by {number.name} at step' in output
    assert 'Run the same command to resume' in output
    step = int(output.split(f'stopped by {number.name} at step ')[1].split()[0])
    assert (workdir / FOLDER / str(step)).is_dir()


def test_a_file_that_cannot_grow_is_an_error_that_keeps_what_was_saved(tmp_path: Path) -> None:
    """When the disk refuses to take more (here by a limit on the size of a file), the command ends
    with code 1 and an error that names the folder and the cure."""
    workdir = tmp_path / 'run'
    limit = 'import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (3000, 3000))\n'
    limit += 'import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
    (tmp_path / 'sitecustomize.py').write_text(limit)
    process = start(workdir, PYTHONPATH=str(tmp_path))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f'\nerror: cannot write to {workdir}' in f'\n{errors}'
    assert 'run the same command to resume' in errors
    assert 'jcls/main.py' not in errors  # no traceback of ours


@pytest.mark.slow
def test_killed_at_five_moments_and_resumed_is_never_killed(
    tmp_path: Path,
) -> None:
    """SIGKILL at five moments, one of them during a checkpoint write, and resumed each time:
    parameters, statistics, optimizer state and metrics.jsonl equal the undisturbed run's."""
    more = ['--config.duration=300 steps', '--config.checkpoint.every=20 steps']
    reference, workdir = tmp_path / 'reference', tmp_path / 'killed'
    assert start(reference, *more).wait(timeout=300) == 0
    delays = np.random.default_rng(0).uniform(0, 1.5, 4)
    for number in range(5):
        process = start(workdir, *more)
        seen = len(log.read(workdir / log.FILE))
        if number == 2:  # a checkpoint that is being written has 'tmp' in its name
            wait_for(lambda: any((workdir / FOLDER).glob('*tmp*')), process)
        else:
            wait_for(lambda seen=seen: len(log.read(workdir / log.FILE)) > seen, process)
            time.sleep(delays[number - (number > 2)])
        process.kill()
        process.wait()
        left = sorted(path.name for path in workdir.glob(f'{FOLDER}/*'))
        print(f'kill {number}: {len(lines(workdir))} lines, checkpoints {left}')
    assert start(workdir, *more).wait(timeout=300) == 0
    longer = jcls.build({**TINY, 'duration': '300 steps'})
    assert_same_run(workdir, reference, longer)

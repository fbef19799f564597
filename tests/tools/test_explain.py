"""`jcls config explain` and `diff`: facts by hand, traps one by one."""

from __future__ import annotations

import json
import re
from typing import Any

import jax.numpy as jnp
import pytest
from PIL import Image

import jcls
from helpers.folders import noise
from jcls.main import main
from jcls.training import loop, traps


def explained(capsys: pytest.CaptureFixture[str], *args: str) -> dict[str, Any]:
    assert main(['config', 'explain', *args, '--out=', '--json']) == 0
    return json.loads(capsys.readouterr().out.strip().split('\n')[-1])


def test_explain_states_what_the_run_will_do(capsys):
    """v2 without ImageNet on this machine: the published run's numbers, worked out by hand."""
    found = explained(capsys, 'configs/resnet50_v2.py', '--config.data.dir=/nowhere')
    assert '/nowhere is not there' in found['data']
    assert (found['steps'], found['steps_per_epoch']) == (600 * 1251, 1251)
    assert found['images_seen'] == 600 * 1251 * 1024
    assert len(found['learning_rate']) == 600
    assert found['learning_rate'][5] == pytest.approx(0.5)
    assert found['coupled_equivalent'] == pytest.approx(2e-5)
    assert found['parameters'] - found['decayed'] == 53_120  # scale and bias of 53 layers
    assert found['not_decayed'] == ['norm/bias', 'norm/scale']
    assert (found['mix_draws_a_step'], found['norm_groups_a_step']) == (8, 1)
    assert found['ema']['decay'] == pytest.approx(0.99890773, abs=1e-8)
    assert found['ema']['time_constant_epochs'] == pytest.approx(22.9, abs=0.05)
    assert found['published'].startswith('top-1 0.80674')
    assert found['warnings'] == []
    assert any('sees 1,281,024 distinct examples' in text for text in found['promises'])
    repeated = explained(capsys, 'configs/resnet50_a2.py', '--config.data.dir=/nowhere')
    assert any('426,666 distinct examples, each 3 times' in text for text in repeated['promises'])
    subset = ('configs/resnet50_v2.py', '--config.data.dir=/nowhere', '--config.data.subset=0.1')
    assert explained(capsys, *subset)['steps_per_epoch'] == 125


@pytest.mark.parametrize(
    ('config', 'changes', 'warning'),
    [
        ('resnet50_a2.py', ('loss.label_smoothing=0.1',), 'the threshold makes targets 0 or 1'),
        ('resnet50_v2.py:epochs=10', ('ema.decay=0.9999999',), 'slower than the run'),
        ('resnet50_a2.py', ('optimizer.name=sgd',), 'divides by 1000 classes'),
        ('resnet50_v2.py:arch=resnet18', (), 'on a small network'),
        ('resnet50_v1.py', ('model.name=resnet20', 'model.stem=imagenet'), 'recommends 0.2'),
        ('resnet50_v1.py', ('optimizer.decay=decoupled',), '10 times weaker'),
        ('resnet50_v1.py', ('optimizer.lr=by_dataset_size',), 'starts from random weights'),
        ('resnet50_v1.py', ('accumulate=2',), 'micro-batches of 128, not the batch of 256'),
        (
            'resnet50_v1.py',
            ('schedule.warmup=10 steps', 'duration=1 epochs'),
            "0 in 5,004 of the 5,004 steps, in which nothing is learned: schedule.every='1 epoch'",
        ),
        (
            'resnet50_v1.py',
            ('schedule.warmup=9 epochs', 'schedule.warmup_shape=constant'),
            '0 in 45,036 of the 450,360 steps, .*schedule.warmup_start, which is 0',
        ),
    ],
)
def test_explain_warns_of_traps(config, changes, warning, capsys):
    """Each trap by its own text, and none where nothing is wrong."""
    given = [f'--config.{change}' for change in (*changes, 'data.dir=/nowhere')]
    found = explained(capsys, f'configs/{config}', *given)
    assert any(re.search(warning, text) for text in found['warnings']), found['warnings']
    if changes:
        before = explained(capsys, f'configs/{config}', '--config.data.dir=/nowhere')
        assert not any(re.search(warning, text) for text in before['warnings'])


def test_a_run_says_its_warnings_when_it_starts(tiny, tmp_path, capsys):
    """The same text as explain's, before the first step; a run without traps says none."""
    loop.train(jcls.build({**tiny, 'duration': '1 step', 'accumulate': 2}), tmp_path / 'a')
    out = capsys.readouterr().out
    assert out.index('warning: accumulate=2: BatchNorm sees') < out.index('compiling')
    loop.train(jcls.build({**tiny, 'duration': '1 step'}), tmp_path / 'b')
    assert 'warning:' not in capsys.readouterr().out


def test_a_run_without_a_rate_says_so_at_both_ends(tiny, tmp_path, capsys):
    """Before the first step and beside what was reached, which nothing was learned for."""
    rate = {'warmup': '2 steps', 'every': '4 steps'}
    change = {'duration': '3 steps', 'schedule': rate}
    loop.train(jcls.build({**tiny, **change}), tmp_path / 'a')
    start, end = capsys.readouterr().out.split('done: 3 steps')
    for text in (start, end):
        assert 'warning: the learning rate is 0 in 3 of the 3 steps' in text
    loop.train(jcls.build({**tiny, **change, 'schedule': {'warmup': '2 steps'}}), tmp_path / 'b')
    assert 'learning rate is 0' not in capsys.readouterr().out


def squared(*, scale: float = 1.0):
    """A loss of the user's own, without any of the fields of jcls's."""
    return lambda logits, targets: scale * (targets - logits) ** 2


def dead(length, to_steps, *, at: str = '0.5 run'):
    """A schedule of the user's own that ends in the middle."""
    del length
    return lambda t: jnp.where(t < to_steps(at), 1.0, 0.0)


def test_traps_take_parts_of_the_user_s_own(tiny):
    """A loss without label smoothing is no trap; a schedule that ends early is one."""
    parts = {'loss': {'name': f'{__name__}:squared'}, 'schedule': {'name': f'{__name__}:dead'}}
    (warning,) = traps.warnings(jcls.build({**tiny, **parts}))
    assert warning.startswith('the learning rate is 0 in 6 of the 12 steps')
    assert warning.endswith(f"schedule.name='{__name__}:dead' has come to its end by then")


def own_images(tiny, **data):
    """The tiny run on files of images; `data` are fields of its source."""
    sizes = ({'name': 'center_crop', 'size': 8},)
    return jcls.build({**tiny, 'augment': sizes, 'evaluate': {'preprocess': sizes}, 'data': data})


def test_classes_without_images_are_named(tiny, tmp_path):
    """Labels that count from 1 leave class 0 without an image, whose cure is named."""
    files = [f'{name}/{i}.png' for name in '123' for i in range(4)]
    noise(tmp_path, *files)
    listed = tmp_path / 'list.txt'
    listed.write_text('\n'.join(f'{file} {file[0]}' for file in files))
    data = {'name': 'list', 'train_list': str(listed), 'dir': str(tmp_path)}
    (warning,) = traps.warnings(own_images(tiny, **data))
    assert warning.startswith('1 of the 4 classes have no training image: 0. If your labels count')
    (tmp_path / 'classes').write_text('1\n2\n3\n')
    assert traps.warnings(own_images(tiny, **data, classes=str(tmp_path / 'classes'))) == []
    (tmp_path / 'classes').write_text('1\n2\n3\nmoth\n')
    (warning,) = traps.warnings(own_images(tiny, **data, classes=str(tmp_path / 'classes')))
    assert warning == '1 of the 4 classes have no training image: moth'


def test_images_that_say_they_are_turned(tiny, tmp_path):
    """Some of them are looked at; with data.exif there is nothing to say."""
    noise(tmp_path, *(f'{name}/{i}.jpg' for name in 'ab' for i in range(10)))
    assert traps.warnings(own_images(tiny, name='folder', dir=str(tmp_path))) == []
    turn = Image.Exif()
    turn[0x0112] = 6
    for name in 'ab':
        for file in (tmp_path / name).iterdir():
            Image.open(file).save(file, exif=turn)
    (warning,) = traps.warnings(own_images(tiny, name='folder', dir=str(tmp_path)))
    assert warning.startswith('18 of 18 training images that were looked at say that they are tur')
    assert traps.warnings(own_images(tiny, name='folder', dir=str(tmp_path), exif=True)) == []


def test_a_run_s_folder_and_its_config_are_compared(tiny, tmp_path, capsys):
    """diff, show and explain take the folder of a run, and the JSON in it, as a config."""
    loop.train(jcls.build({**tiny, 'duration': '1 step', 'recipe': 'mine'}), tmp_path)
    capsys.readouterr()
    both = [str(tmp_path), str(tmp_path / 'config.json')]
    assert main(['config', 'diff', *both]) == 0
    assert capsys.readouterr().out == 'no difference\n'
    for path in both:
        assert main(['config', 'show', path]) == 0
        assert "duration = '1 step'" in capsys.readouterr().out
        assert explained(capsys, path)['steps'] == 1


def test_explain_draws_and_diff_speaks_the_same_facts(tmp_path, capsys):
    """The plot is a PNG; diff gives fields, then what they mean."""
    file = tmp_path / 'lr.png'
    assert main(['config', 'explain', 'configs/quickstart.py', '--out', str(file)]) == 0
    assert file.read_bytes().startswith(b'\x89PNG')
    out = capsys.readouterr().out
    assert '1,437 training images' in out.replace('\n', ' ')
    args = ['configs/resnet50_v2.py', 'configs/resnet50_v2.py:like=torchvision', '--json']
    assert main(['config', 'diff', *args, '--config.data.dir=/nowhere']) == 0
    found = json.loads(capsys.readouterr().out.strip().split('\n')[-1])
    assert found['fields']['norm.batch_size'] == [0, 128]
    assert found['facts']['norm_groups_a_step'] == [1, 8]

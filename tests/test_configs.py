"""The shipped config files, each of them: loads, fits together at full size, takes real steps."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import jcls
from jcls import models
from jcls.config import diff, horizon, read
from jcls.config.schema import plain
from jcls.data import augment
from jcls.main import main
from jcls.models import batch_norm
from jcls.optim import optimizer, schedule
from jcls.training import losses

ROOT = Path(jcls.__file__).parent.parent
FILES = sorted((ROOT / 'configs').glob('*.py'))
NOT_RECIPES = ('base.py', 'rsb.py')  # only inherited
IMAGENET = 1_281_167  # training images

CHOICES = {  # of arguments that do not take just any value
    'aug': ('mixup',),
    'depth': (32,),
    'like': ('torchvision',),
    'rung': ('ema',),
    'schedule': ('cosine', 'piecewise'),
}
NEEDS = {('resolution_study.py', name): 'init=w,res=448' for name in ('at', 'lr', 'freeze')}
NEEDS['finetune.py', 'freeze'] = 'source=w'

all_files = pytest.mark.parametrize('file', FILES, ids=lambda path: path.name)


def arguments(file: Path) -> dict[str, Any]:
    """The names and defaults that a config file hands to parse_arg."""
    calls = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    parse = [call for call in calls if ast.unparse(call.func).endswith('parse_arg')]
    return {k.arg: ast.literal_eval(k.value) for call in parse for k in call.keywords if k.arg}


def test_there_are_configs():
    """The glob finds the files that the README shows."""
    assert {'quickstart.py', 'resnet50_v1.py', 'resnet50_v2.py'} <= {file.name for file in FILES}


@all_files
def test_a_config_fits_together_at_full_size(file):
    """With no argument: model, statistics, optimizer and gradients trace at the full batch."""
    config = plain(jcls.load_config(str(file)))
    assert config['recipe'] == str(file)
    height, width = augment.compose(tuple(config['augment']), 'augment').output_size(None)
    classes = config['model']['num_classes'] or 1000
    model = models.create(
        **{**config['model'], 'num_classes': classes}, norm=batch_norm.batch_norm(**config['norm'])
    )
    images = jnp.zeros((1, height, width, 3))
    batch = config['batch_size']
    update = optimizer.create(batch, None, 10_000, **config['optimizer'])

    def start() -> Any:
        variables = model.init(jax.random.key(0), images, train=False)
        return variables, update.direction.init(variables['params'])

    def loss(params: Any, variables: Any) -> Any:
        inputs = jnp.zeros((batch, height, width, 3), jnp.uint8) / 255
        rngs = {'dropout': jax.random.key(0)}
        logits, _ = model.apply(
            {**variables, 'params': params}, inputs, train=True, mutable=['batch_stats'], rngs=rngs
        )
        assert (logits.shape, logits.dtype) == ((batch, classes), 'float32')
        return losses.create(**config['loss'])(logits, jnp.zeros((batch, classes))).mean()

    variables, _ = jax.eval_shape(start)
    gradient = jax.eval_shape(jax.grad(loss), variables['params'], variables)
    assert gradient == variables['params']
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype('float32')}

    length = horizon.create_horizon(config['duration'], batch, IMAGENET)
    lr = schedule.create(update.peak, length.total, length.steps, **config['schedule'])
    rates = lr(jnp.linspace(0, length.total - 1, 1000).astype(int))
    assert 0 < float(rates.max()) <= update.peak * (1 + 1e-6)
    for section in ('evaluate', 'checkpoint', 'log'):
        assert length.every(config[section]['every'], section) > 0


@all_files
def test_a_config_evaluates_images_of_one_size(file):
    """The preprocessing brings any image, or at least the data's own, to one size."""
    config = plain(jcls.load_config(str(file)))
    own = {'digits': (8, 8)}.get(config['data']['name'])
    size = augment.compose(tuple(config['evaluate']['preprocess']), 'x').output_size(own)
    assert size is not None
    assert min(size) >= config['augment'][0]['size']


# Configs whose steps have the same operations as those of another one.
SAME_GRAPH = (
    'base.py', 'finetune_cifar10.py', 'flax_example.py', 'resnet50_a2.py', 'resnet50_a3.py',
    'resnet50_ladder.py', 'resnet50_v1.py', 'resolution_study.py', 'rsb.py',
)  # fmt: skip


@pytest.mark.parametrize(
    'file',
    [
        pytest.param(file, marks=[pytest.mark.slow] if file.name in SAME_GRAPH else [])
        for file in FILES
    ],
    ids=lambda path: path.name,
)
def test_a_config_takes_real_steps_in_a_dry_run(file, capsys):
    """--dry_run, as a user types it, updates twice with finite losses and evaluates."""
    # A CPU emulates bfloat16, slowly; the test above traces it.
    quick = ['--config.model.dtype=float32', '--config.log.tensorboard=false']
    code = main(['--config', str(file), '--dry_run', '--json', *quick])
    assert code == 0  # a loss or gradient that is not finite is an error
    out = capsys.readouterr().out.strip().split('\n')
    result = json.loads(out[-1])
    assert result['step'] == 2
    assert result['eval/examples'] > 0
    assert 0 < result['eval/loss'] < 20
    assert any(re.match(r'step 1/2  loss \d', line) for line in out)


@pytest.mark.parametrize(
    ('path', 'changes'),
    [
        ('cifar_resnet.py', ('schedule.gamma=0.2', 'distill.name=soft', 'distill.teacher=w')),
        ('cifar_resnet.py', ('init.source=w', 'init.head=new', 'init.freeze=2')),
    ],
)
def test_what_a_shrunken_copy_cannot_have_does_not_stop_a_dry_run(path, changes, capsys):
    """Milestones beyond two steps, a teacher, weights to start from: left out, the rest is run."""
    words = [f'--config.{change}' for change in (*changes, 'log.tensorboard=false')]
    assert main(['--config', f'configs/{path}', '--dry_run', '--json', *words]) == 0
    out = capsys.readouterr().out
    assert json.loads(out.strip().split('\n')[-1])['step'] == 2
    assert ('freezing report' in out) == ('init.freeze=2' in changes)


@all_files
def test_a_config_s_page_has_its_command_and_what_to_expect(file):
    """The docstring names the file's own command, a paper or source, and an expected accuracy."""
    page = ast.get_docstring(ast.parse(file.read_text()))
    assert page
    if file.name in NOT_RECIPES:
        assert 'inherit' in page
        return
    assert f'python -m jcls.main --config configs/{file.name}' in page
    assert '--workdir' in page
    assert re.search(
        r'(Expected|Published).*\d\d|publishes\s+no accuracy|no published accuracy', page
    )


@all_files
def test_every_argument_of_a_config_does_something(file):
    """Each argument is read, changes the config by itself, and stands in the docstring."""
    defaults = arguments(file)
    tree = ast.parse(file.read_text())
    used = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    page = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == 'get_config')
    if not defaults:
        assert not page.args.args  # so that an argument is refused, not ignored
    standard = plain(read(file))
    for key, value in defaults.items():
        choices = [choice for choice in CHOICES.get(key, ()) if choice != value]
        scaled = f'{value}x' if isinstance(value, str) else value * 2 or 0.1
        changed = choices[0] if choices else scaled
        assert f'args.{key}' in used
        needs = NEEDS.get((file.name, key), '')
        assert diff(read(file, needs), read(file, f'{needs},{key}={changed}'))
        assert not diff(standard, read(file, f'{key}={value}')), key
        assert f'{key}=' in (ast.get_docstring(page) or ''), key


def examples() -> list[str]:
    """Every config with its argument that the README and the config files themselves write."""
    pages = [ROOT / 'README.md', ROOT / 'configs' / 'README.md', *FILES]
    named = [
        m
        for page in pages
        for m in re.findall(r'configs/\w+\.py(?::[\w=,./-]*\w)?', page.read_text())
    ]
    for file in FILES:
        shown = re.findall(r"arg is e\.g\. '([^']+)'", file.read_text())
        named += [f'configs/{file.name}:{arg}' for arg in shown]
    return sorted(set(named))


@pytest.mark.parametrize('path', examples())
def test_every_config_that_is_written_down_loads(path):
    """What README and docstrings tell people to type is a complete and valid config."""
    config = jcls.load_config(path)
    assert config.model.name in models.MODELS


def test_the_quickstart_s_page_counts_its_digits():
    """The number of held-out digits on the page is the number that is evaluated."""
    page = (ROOT / 'configs' / 'quickstart.py').read_text()
    held_out = len(jcls.build(jcls.load_config('configs/quickstart.py')).data.val)
    assert re.findall(r'([\d,]+) held-out', page) == [str(held_out)]


def test_the_first_and_the_new_recipe_state_what_they_state():
    """The numbers of torchvision's recipes, after all defaults and inheritance."""
    v1, v2 = (plain(jcls.load_config(f'configs/resnet50_v{i}.py')) for i in (1, 2))
    assert (v1['batch_size'], v1['duration']) == (256, '90 epochs')
    assert (v2['batch_size'], v2['duration']) == (1024, '600 epochs')
    for config, peak, decay in ((v1, 0.1, ('coupled', 1e-4)), (v2, 0.5, ('decoupled', 2e-4))):
        section = config['optimizer']
        assert optimizer.create(config['batch_size'], **section).peak == pytest.approx(peak)
        assert (section['decay'], section['weight_decay']) == decay
        assert (section['momentum'], section['nesterov']) == (0.9, False)
        assert config['augment'][1] == {'name': 'flip', 'probability': 0.5}
        assert config['model']['zero_gamma'] is False
    assert (v1['schedule']['name'], v1['schedule']['interval']) == ('step', '30 epochs')
    assert (v2['schedule']['name'], v2['schedule']['warmup']) == ('cosine', '5 epochs')
    assert v1['augment'][0]['scale'] == v2['augment'][0]['scale'] == (0.08, 1.0)
    assert v2['augment'][0]['ratio'] == (3 / 4, 4 / 3)
    assert (v1['augment'][0]['size'], v2['augment'][0]['size']) == (224, 176)
    assert [item['size'] for item in v1['evaluate']['preprocess']] == [256, 224]
    assert [item['size'] for item in v2['evaluate']['preprocess']] == [232, 224]
    assert (v1['loss']['label_smoothing'], v2['loss']['label_smoothing']) == (0.0, 0.1)
    assert v2['schedule']['warmup_start'] == 0.01
    assert (v2['ema']['name'], v2['ema']['decay'], v2['ema']['every']) == (
        'torchvision',
        0.99998,
        32,
    )


LADDER = {  # rung: what differs from the rung before
    'lr': {
        'batch_size', 'norm.batch_size', 'optimizer.lr', 'optimizer.reference_batch',
        'schedule.name', 'schedule.warmup', 'schedule.warmup_start', 'schedule.end',
        'schedule.gamma', 'schedule.interval',
    },
    'trivial_augment': {'augment'},
    'long': {'duration'},
    'erasing': {'augment'},
    'smoothing': {'loss.label_smoothing'},
    'mixup': {'mix.mixup', 'mix.batch_size'},
    'cutmix': {'mix.cutmix'},
    'decay': {'optimizer.weight_decay', 'optimizer.decay_groups'},
    'fixres': {'augment'},
    'ema': {'ema.name', 'ema.decay', 'ema.every', 'checkpoint.best'},
    'resize': {'evaluate.preprocess'},
}  # fmt: skip


def test_each_rung_of_the_ladder_changes_what_it_says_and_nothing_else():
    """Consecutive rungs differ in the named fields, and in what was published; none is idle."""
    published = []
    before = plain(jcls.load_config('configs/resnet50_ladder.py:rung=baseline'))
    for rung, fields in LADDER.items():
        config = plain(jcls.load_config(f'configs/resnet50_ladder.py:rung={rung}'))
        found = {key.split('[')[0] for key in diff(before, config)}
        assert found == fields | {'recipe', 'reference.top1'}, rung
        published.append(config['reference']['top1'])
        before = config
    assert published == sorted(published)
    assert published[-1] == 0.80674


def test_the_ladder_begins_and_ends_with_the_two_recipes():
    """Its first rung is resnet50_v1 in groups of 32, its last resnet50_v2:like=torchvision."""
    unlike = {'recipe', 'reference.source'}
    for rung, other, fields in (
        ('baseline', 'resnet50_v1.py', {'norm.batch_size'}),
        ('resize', 'resnet50_v2.py:like=torchvision', set()),
    ):
        pair = (f'configs/resnet50_ladder.py:rung={rung}', f'configs/{other}')
        trees = [plain(jcls.load_config(path)) for path in pair]
        assert set(diff(*trees)) == unlike | fields


@pytest.mark.parametrize(
    ('path', 'facts'),
    [
        (
            'resnet50_a1.py',
            ('600 epochs', 5e-3, 0.01, 0.1, None, 0.2, 7.0, 0.05, 3, 224, 0.804),
        ),
        (
            'resnet50_a2.py',
            ('300 epochs', 5e-3, 0.02, 0.0, 0.2, 0.1, 7.0, 0.05, 3, 224, 0.798),
        ),
        (
            'resnet50_a3.py',
            ('100 epochs', 8e-3, 0.02, 0.0, None, 0.1, 6.0, 0.0, 1, 160, 0.781),
        ),
    ],
)
def test_a1_to_a3_state_the_paper_s_table(path, facts):
    """Wightman et al. 2021, table 2, and timm's command lines."""
    c = plain(jcls.load_config(f'configs/{path}'))
    assert facts == (
        c['duration'],
        c['optimizer']['lr'],
        c['optimizer']['weight_decay'],
        c['loss']['label_smoothing'],
        c['loss']['threshold'],
        c['mix']['mixup'],
        c['augment'][2]['magnitude'],
        c['model']['drop_path'],
        c['data']['repeats'],
        c['augment'][0]['size'],
        c['reference']['top1'],
    )
    assert (c['batch_size'], c['optimizer']['name'], c['loss']['name']) == (2048, 'lamb', 'binary')
    assert c['schedule']['warmup_start'] * c['optimizer']['lr'] == pytest.approx(1e-4)
    assert (c['mix']['cutmix'], c['mix']['partner']) == (1.0, 'flip')
    assert [section['size'] for section in c['evaluate']['preprocess']] == [235, 224]


PUBLISHED = [  # every row of the studies' tables, as percentages
    ('resnet50_paddle.py', 77.31),
    ('resnet50_paddle.py:aug=autoaugment', 77.95),
    ('resnet50_paddle.py:aug=mixup', 78.28),
    ('resnet50_paddle.py:aug=cutmix', 78.39),
    ('resnet50_paddle.py:aug=cutout', 78.01),
    ('resnet50_paddle.py:aug=gridmask', 77.85),
    ('resnet50_paddle.py:aug=randaugment', 77.70),
    ('resnet50_paddle.py:aug=erasing', 77.91),
    ('resnet50_paddle.py:aug=hide_and_seek', 77.43),
    ('resnet50_paddle.py:aug=randaugment,decay=7e-5', 78.04),
    ('resnet50_paddle.py:arch=resnet50d,decay=7e-5,epochs=200', 77.9),
    ('resnet50_paddle.py:arch=resnet50d,smoothing=0.1,decay=7e-5,epochs=200', 78.4),
    ('resnet50_paddle.py:arch=resnet18,epochs=200', 70.98),
    ('resnet50_paddle.py:arch=resnet18,smoothing=0.1,epochs=200', 70.81),
    ('resolution_study.py:res=224', 76.548),
    ('resolution_study.py:res=320', 77.698),
    ('resolution_study.py:res=416', 78.026),
    ('resolution_study.py:res=448', 77.826),
    ('resolution_study.py:res=320,init=w', 78.052),
    ('resolution_study.py:res=416,init=w', 78.572),
    ('resolution_study.py:res=448,init=w', 78.722),
    ('resolution_study.py:res=416,init=w,at=320', 78.678),
    ('resolution_study.py:res=448,init=w,at=416', 78.542),
    ('resolution_study.py:res=448,init=w,lr=0.1', 78.924),
    ('resolution_study.py:res=448,init=w,lr=0.01', 78.736),
    ('resolution_study.py:res=448,init=w,lr=0.1,freeze=1', 78.796),
    ('resolution_study.py:res=448,init=w,lr=0.01,freeze=2', 78.822),
    ('resolution_study.py:res=448,init=w,lr=0.01,freeze=3', 78.05),
    ('resolution_study.py:res=448,init=w,lr=0.01,freeze=4', 74.432),
    ('cifar_resnet.py:depth=110', 93.57),
    ('flax_example.py', 76.37),
    ('resnet50_vd.py', 78.25),
    ('resnet50_v2.py:repeats=4', 80.858),
    ('resnet50_v2.py:arch=resnext50_32x4d', 81.116),
    ('resnet50_v1.py:arch=resnet34', 73.314),
]


@pytest.mark.parametrize(('path', 'top1'), PUBLISHED)
def test_every_published_row_is_one_argument_away(path, top1):
    """The config of a row says what was published for it, and its page has the number."""
    config = jcls.load_config(f'configs/{path}')
    assert config.reference.top1 == pytest.approx(top1 / 100)
    assert f'{top1:g}' in (ROOT / 'configs' / path.split(':')[0]).read_text()
    assert config.reference.source


@pytest.mark.parametrize(
    'path',
    [
        'resnet50_v2.py:epochs=100',
        'resnet50_v2.py:arch=resnet18',
        'resnet50_v1.py:schedule=cosine',
        'resnet50_paddle.py:smoothing=0.1',
        'resolution_study.py:res=256',
        'resolution_study.py:res=320,init=w,at=192',
        'resnet50_v1.py:batch=4096',
        'flax_example.py:batch=256',
        'cifar_resnet.py:epochs=10',
        'resnet50_ladder.py:arch=resnet101',
    ],
)
def test_what_was_never_published_is_not_claimed(path):
    """A variant without a row has no number."""
    assert jcls.load_config(f'configs/{path}').reference.top1 is None


@pytest.mark.parametrize(
    ('path', 'message'),
    [
        ('resnet50_ladder.py:rung=mixpu', "rung='mixpu': one of baseline, lr, "),
        ('resnet50_paddle.py:aug=gridmaks', "aug='gridmaks': one of none, autoaugment"),
        ('resnet50_paddle.py:schedule=x', "schedule='x'"),
        ('resnet50_v2.py:like=timm', "like='timm': 'jcls' or 'torchvision'"),
        ('resnet50_v1.py:schedule=x', "schedule='x'"),
        ('resolution_study.py:lr=0.1', 'give init=WORKDIR'),
        ('cifar_resnet.py:depth=18', 'depth=18: one of'),
    ],
)
def test_an_argument_that_cannot_be_is_an_error(path, message):
    """It names the argument and what is allowed."""
    with pytest.raises(ValueError, match=message):
        jcls.load_config(f'configs/{path}')

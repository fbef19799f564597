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
from jcls import config as configs
from jcls import models
from jcls.data import augment
from jcls.main import main
from jcls.models import layers
from jcls.optim import optimizer, schedule
from jcls.schema import plain
from jcls.training import horizon, losses

ROOT = Path(jcls.__file__).parent.parent
FILES = sorted((ROOT / 'configs').glob('*.py'))
NOT_RECIPES = ('base.py',)  # only inherited
IMAGENET = 1_281_167  # training images

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
    height, width = augment.compose(tuple(config['augment']), 'augment').extent(None)
    classes = config['model']['num_classes'] or 1000
    model = models.create(
        **{**config['model'], 'num_classes': classes}, norm=layers.batch_norm(**config['norm'])
    )
    images = jnp.zeros((1, height, width, 3))
    batch = config['batch_size']
    direction, peak = optimizer.create(batch, **config['optimizer'])

    def start() -> Any:
        variables = model.init(jax.random.key(0), images, train=False)
        return variables, direction.init(variables['params'])

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

    length = horizon.create(config['duration'], batch, IMAGENET)
    lr = schedule.create(peak, length.total, length.steps, **config['schedule'])
    rates = lr(jnp.linspace(0, length.total - 1, 1000).astype(int))
    assert 0 < float(rates.max()) <= peak * (1 + 1e-6)
    for section in ('evaluate', 'checkpoint', 'log'):
        assert length.every(config[section]['every'], section) > 0


@all_files
def test_a_config_evaluates_images_of_one_size(file):
    """The preprocessing brings any image, or at least the data's own, to one size."""
    config = plain(jcls.load_config(str(file)))
    own = (8, 8) if config['data']['name'] == 'digits' else None
    extent = augment.compose(tuple(config['evaluate']['preprocess']), 'x').extent(own)
    assert extent is not None
    assert min(extent) >= config['augment'][0]['size']


@pytest.fixture
def quick_compiler():
    """Compile in half the time, for steps that run twice."""
    jax.config.update('jax_disable_most_optimizations', True)
    yield
    jax.config.update('jax_disable_most_optimizations', False)


@pytest.mark.usefixtures('quick_compiler')
@all_files
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
    assert re.search(r'(Expected|Published).*\d\d', page)


@all_files
def test_every_argument_of_a_config_does_something(file):
    """Each argument is read, changes the config by itself, and stands in the docstring."""
    defaults = arguments(file)
    tree = ast.parse(file.read_text())
    read = {ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)}
    page = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == 'get_config')
    if not defaults:
        assert not page.args.args  # so that an argument is refused, not ignored
    standard = plain(configs.read(file))
    for key, value in defaults.items():
        if key == 'depth':  # not every number is a depth
            changed = value + 12
        else:
            changed = f'{value}x' if isinstance(value, str) else value * 2
        assert f'args.{key}' in read
        assert configs.diff(standard, configs.read(file, f'{key}={changed}')), key
        assert not configs.diff(standard, configs.read(file, f'{key}={value}')), key
        assert f'{key}=' in (ast.get_docstring(page) or ''), key


def examples() -> list[str]:
    """Every config with its argument that the README and the config files themselves write."""
    pages = [ROOT / 'README.md', *FILES]
    named = [m for page in pages for m in re.findall(r'configs/\w+\.py[\w:=,]*', page.read_text())]
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


def test_the_recipes_state_what_they_state():
    """The numbers of the published recipes, after all defaults and inheritance."""
    v1, v2 = (plain(jcls.load_config(f'configs/resnet50_v{i}.py')) for i in (1, 2))
    assert (v1['batch_size'], v1['duration'], v2['duration']) == (1024, '90 epochs', '600 epochs')
    for config, peak, decay in ((v1, 0.4, ('coupled', 1e-4)), (v2, 0.5, ('decoupled', 2e-4))):
        section = config['optimizer']
        assert optimizer.create(config['batch_size'], **section).peak == pytest.approx(peak)
        assert (section['decay'], section['weight_decay']) == decay
        assert (section['momentum'], section['nesterov']) == (0.9, False)
        assert (config['schedule']['name'], config['schedule']['warmup']) == ('cosine', '5 epochs')
        assert config['augment'][1] == {'name': 'flip', 'probability': 0.5}
        assert config['model']['zero_gamma'] is False
    assert v1['augment'][0]['scale'] == v2['augment'][0]['scale'] == (0.08, 1.0)
    assert v2['augment'][0]['ratio'] == (3 / 4, 4 / 3)
    assert (v1['augment'][0]['size'], v2['augment'][0]['size']) == (224, 176)
    assert [item['size'] for item in v1['evaluate']['preprocess']] == [256, 224]
    assert [item['size'] for item in v2['evaluate']['preprocess']] == [232, 224]
    assert (v1['loss']['label_smoothing'], v2['loss']['label_smoothing']) == (0.0, 0.1)
    assert (v1['schedule']['warmup_start'], v2['schedule']['warmup_start']) == (0.0, 0.01)

"""A run starts from weights that exist, and those that do not fit are refused."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

import jcls
from helpers.weights import WIDE, assert_same, averaged_run, config, flat, shapes
from jcls import models
from jcls.main import main
from jcls.training import loop
from jcls.weights import init


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with averaged weights, on the digits 0 to 9."""
    return averaged_run(tmp_path_factory.mktemp('source'))


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'freeze': -2}, r'config.init.freeze=-2'),
        ({'head': 'new'}, r'config.init.source is None'),
        ({'ema': 'no'}, r'config.init.source is None'),
        ({'source': ''}, r"config.init.source='': a folder, or None"),
        ({'source': 'x', 'head': 'nwe'}, r"config.init.head 'nwe'; did you mean 'new'"),
        ({'source': 'x', 'ema': 'maybe'}, r'config.init.ema'),
    ],
)
def test_a_section_that_cannot_be_is_refused(fields, message):
    """Each field by its name and value."""
    with pytest.raises(ValueError, match=message):
        init.InitSettings(**fields)


@pytest.mark.parametrize(('ema', 'averaged'), [('auto', True), ('yes', True), ('no', False)])
def test_a_run_starts_from_the_weights_of_another(source, ema, averaged):
    """Parameters and statistics bit for bit, averaged or raw; step and optimizer start anew."""
    state = jcls.build(config(init={'source': str(source), 'ema': ema})).init()
    _, expected = jcls.load(source, ema=ema)
    assert_same(state.variables, expected)
    _, raw = jcls.load(source, ema='no')
    head = state.params['head']['kernel']
    assert bool((raw['params']['head']['kernel'] != head).any()) == averaged
    assert int(state.step) == 0
    assert not any(leaf.any() for leaf in flat(state.opt_state).values())


def test_any_folder_that_orbax_saved_is_a_source(source, tmp_path):
    """A tree of params and batch_stats by Orbax itself, under a prefix; and one checkpoint."""
    _, variables = jcls.load(source)
    nested = {name: {'backbone': tree} for name, tree in variables.items()}
    nested['params']['other'] = {'kernel': np.zeros(3)}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(tmp_path / 'saved', nested)
    section = {'source': str(tmp_path / 'saved'), 'prefix': 'backbone'}
    assert_same(jcls.build(config(init=section)).init().variables, variables)
    wider = config(init=section, model={**WIDE, 'width': 8, 'blocks': (1, 2)})
    with pytest.raises(ValueError, match=r'does not fit') as refused:
        jcls.build(wider).init()
    assert '+ params/stage2_block2/conv1/kernel (3, 3, 16, 16): not in' in str(refused.value)
    assert re.search(
        r'! params/head/kernel: \(8, 10\) in the source, \(16, 10\)', str(refused.value)
    )
    assert 'params/other/kernel' not in str(refused.value)
    step = source / 'checkpoints' / '6'
    assert_same(jcls.build(config(init={'source': str(step)})).init().variables, variables)


def test_the_finetuning_config_takes_the_architecture_of_its_source(source):
    """Of a run or one of its checkpoints; of a source that does not say it, the default's."""
    for path in (source, source / 'checkpoints' / '6'):
        model = jcls.load_config(f'configs/finetune.py:source={path}').model
        assert {key: model[key] for key in WIDE} == WIDE
    for arg in ('', 'source=weights.pth', f'source={source},arch=resnet50', 'source=~nobody/x'):
        assert jcls.load_config(f'configs/finetune.py:{arg}').model.blocks is None
    with pytest.raises(ValueError, match=r'freeze=2 .* give a source'):
        jcls.load_config('configs/finetune.py:freeze=2')


def test_another_epsilon_is_another_network(source, tmp_path):
    """The weights would compute something else with it; the finetuning config takes it over."""
    shutil.copytree(source, tmp_path / 'run')
    path = tmp_path / 'run' / 'model.json'
    metadata = json.loads(path.read_text())
    metadata['norm']['epsilon'] = 1e-3
    path.write_text(json.dumps(metadata))
    changed = config(init={'source': str(tmp_path / 'run')})
    with pytest.raises(
        ValueError, match=r'epsilon=0.001, .*=1e-05.* set --config.norm.epsilon=0.0'
    ):
        jcls.build(changed).check_sources(start=True)
    jcls.build({**changed, 'norm': {'epsilon': 1e-3}}).check_sources(start=True)
    found = jcls.load_config(f'configs/finetune.py:source={tmp_path / "run"}')
    assert found.norm.epsilon == 1e-3


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('config.json', '{}', 'config.json is damaged: it lacks data, model, checkpoint'),
        ('config.json', '[]', 'config.json is damaged: it is no JSON object'),
        ('config.json', '{', 'config.json is damaged: '),
        ('model.json', '{', 'model.json is damaged: '),
        ('model.json', '{}', 'model.json does not describe a model: it lacks architecture, norm'),
    ],
)
def test_a_damaged_run_says_which_file(source, tmp_path, name, content, message):
    """To load, evaluate and start from."""
    shutil.copytree(source, tmp_path / 'run')
    (tmp_path / 'run' / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        jcls.load(tmp_path / 'run')
    with pytest.raises(ValueError, match=message):
        jcls.build(config(init={'source': str(tmp_path / 'run')})).check_sources(start=True)


def test_other_classes_need_a_new_head(source):
    """'keep' with another class count says what to do; 'new' starts that head as without source."""
    few = {'name': 'synthetic', 'examples': 64, 'size': 8, 'num_classes': 5}
    section = {'source': str(source)}
    with pytest.raises(ValueError, match=r"the classifier of .* set config.init.head='new'"):
        jcls.build(config(data=few, init=section)).init()
    state = jcls.build(config(data=few, init={**section, 'head': 'new'})).init()
    fresh = jcls.build(config(data=few)).init()
    _, loaded = jcls.load(source)
    for part, tree in state.params.items():
        assert_same(tree, (fresh.params if part == 'head' else loaded['params'])[part])


@pytest.mark.parametrize(
    ('changes', 'section', 'message'),
    [
        ({}, {'source': '/nowhere'}, r'config.init: /nowhere: no such file or folder'),
        ({}, {'source': '~nobodyhere/x'}, r'config.init: ~nobodyhere/x: no such file or folder'),
        ({}, {'source': 'EMPTY'}, r'is not a workdir of jcls, and not a checkpoint of Orbax'),
        ({}, {'source': 'SOURCE', 'step': '5'}, r"step='5': no such checkpoint .*there are: 6"),
        (
            {},
            {'source': 'SOURCE', 'prefix': 'backbone'},
            r"prefix='backbone': nothing of .* lies below it; it has params of head, stage1",
        ),
        (
            {'model': {**WIDE, 'blocks': (2, 1)}},
            {'source': 'SOURCE'},
            r'does not fit config.model:\s+! blocks: \(1, 1\) in the source, \(2, 1\) in the model',
        ),
        (
            {'model': {**WIDE, 'blocks': (1,)}},
            {'source': 'SOURCE', 'head': 'new'},
            r'! blocks: \(1, 1\) in the source, \(1,\) in the model',
        ),
        (
            {'model': {**WIDE, 'width': 8}},
            {'source': 'SOURCE'},
            r'! width: 4 in the source, 8 in the model',
        ),
    ],
)
def test_a_source_that_does_not_fit_is_refused_with_what_differs(
    changes, section, message, source, tmp_path
):
    """Nothing, something else, another architecture: named, with the shapes."""
    paths = {'SOURCE': str(source), 'EMPTY': str(tmp_path)}
    section = {**section, 'source': paths.get(section['source'], section['source'])}
    with pytest.raises(ValueError, match=message):
        jcls.build(config(**changes, init=section)).init()


def test_the_same_parameters_may_be_another_architecture():
    """ResNet-50-D and a ResNet-50 with a deep stem differ in a pooling, which has no weights."""
    pair = (models.create('resnet50d'), models.create('resnet50', stem='deep'))
    assert shapes('resnet50d') == shapes('resnet50', stem='deep')
    with pytest.raises(ValueError, match='shortcut: pool in the source, conv in the model'):
        init.check_architecture(*pair, init.InitSettings(source='x'))
    init.check_architecture(
        pair[0], models.create('resnet50d', zero_gamma=True), init.InitSettings()
    )


def test_a_source_that_does_not_fit_leaves_no_workdir(source, tmp_path):
    """It is found before the run's folder is made, so that the corrected config may use it."""
    wrong = config(model={**WIDE, 'width': 8}, init={'source': str(source)})
    with pytest.raises(ValueError, match='does not fit'):
        loop.train(jcls.build(wrong), tmp_path / 'run')
    assert not (tmp_path / 'run').exists()


def test_a_resumed_run_needs_its_source_no_more(source, tmp_path, capsys):
    """The checkpoint holds all: the source may be gone, and evaluating never looks for it."""
    copy = tmp_path / 'copy'
    shutil.copytree(source, copy)
    section = {'source': str(copy), 'freeze': 0}
    loop.train(jcls.build(config(init=section)), tmp_path / 'run')
    shutil.rmtree(copy)
    loop.train(jcls.build(config(init=section, duration='8 steps')), tmp_path / 'run')
    assert jcls.evaluate(tmp_path / 'run')['step'] == 8
    assert main(['evaluate', str(tmp_path / 'run')]) == 0
    assert 'checkpoint 8' in capsys.readouterr().out


def test_a_config_that_took_its_model_from_a_source_resumes_without_it(source, tmp_path, capsys):
    """configs/finetune.py reads the architecture there; a longer run has it from its workdir."""
    copy = tmp_path / 'copy'
    shutil.copytree(source, copy)
    words = ['--workdir', str(tmp_path / 'run'), '--config.data.name=digits', '--config.augment=()']
    words += ['--config.evaluate.preprocess=()', '--config.log.tensorboard=False']
    words += ['--config.optimizer.lr=0.01', '--config', f'configs/finetune.py:source={copy}']
    assert main([*words, '--config.duration=2 steps']) == 0
    shutil.rmtree(copy)
    assert main([*words, '--config.duration=3 steps']) == 0
    assert jcls.evaluate(tmp_path / 'run')['step'] == 3
    assert main([*words, '--config.duration=4 steps', '--config.model.width=8']) == 1
    assert '+ model.width = 8' in capsys.readouterr().err
    other = [*words[:1], str(tmp_path / 'other'), *words[2:]]
    assert main([*other, '--config.duration=4 steps']) == 1  # a start needs it
    assert f'{copy}: no such file or folder' in capsys.readouterr().err


@pytest.mark.slow
def test_hosts_start_from_the_same_weights_and_teacher(
    source: Path, tmp_path: Path, run_python: Callable[..., list[str]]
) -> None:
    """2 processes train frozen and distilled as one does: the same loss, what is frozen intact."""
    code = """
import sys, json
from jcls.distributed import launch
launch.initialize()
import jax, jcls
config, source, workdir = json.loads(sys.argv[1]), *sys.argv[2:]
config |= {'init': {'source': source, 'freeze': 0}, 'distill': {'name': 'soft', 'teacher': source}}
result = jcls.train(config, workdir)
print(result.metrics['eval/loss'])
"""
    losses = []
    for processes in (1, 2):
        args = (json.dumps(config()), str(source), str(tmp_path / f'run{processes}'))
        out = run_python(code, *args, processes=processes)[0]
        assert 'what is frozen has not changed by one bit' in out
        losses.append(float(out.strip().split('\n')[-1]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_weights_go_to_any_number_of_devices(
    source: Path, run_python: Callable[..., list[str]]
) -> None:
    """8 devices start from what one device saved, at another resolution."""
    code = """
import sys, json, jax, jcls, numpy as np
exp = jcls.build({**json.loads(sys.argv[1]), 'init': {'source': sys.argv[2]},
                  'augment': ({'name': 'pad_and_crop', 'size': 12, 'padding': 2},)})
state = exp.init()
leaf = state.params['head']['kernel']
print(len(leaf.sharding.device_set), float(np.abs(leaf).sum()), exp.image_shape)
state, _ = exp.train_step(state, next(exp.train_batches(0, 1)))
"""
    out = run_python(code, json.dumps(config()), str(source), devices=8)[0].split()
    _, variables = jcls.load(source)
    assert out[0] == '8'
    assert float(out[1]) == float(np.abs(variables['params']['head']['kernel']).sum())
    assert out[2] == '(12,'

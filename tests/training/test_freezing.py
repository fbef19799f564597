"""What is frozen does not change by one bit, and what cannot be frozen is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jcls
from helpers.weights import assert_same, averaged_run, config, flat, shapes
from jcls.training import freezing, loop


@pytest.fixture(scope='module')
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with averaged weights, on the digits 0 to 9."""
    return averaged_run(tmp_path_factory.mktemp('source'))


def frozen_parts(freeze: int | tuple[str, ...], name: str = 'resnet50') -> set[str]:
    """The parts of a model of which everything is frozen, such as 'stem' and 'stage1_block2'."""
    tree = freezing.trained(shapes(name)['params'], freeze)
    return {part for part, leaves in tree.items() if not any(jax.tree.leaves(leaves))}


@pytest.mark.parametrize(
    ('stages', 'blocks'),
    [(-1, None), (0, ()), (1, (3,)), (2, (3, 4)), (3, (3, 4, 6)), (4, (3, 4, 6, 3))],
)
@pytest.mark.parametrize('name', ['resnet50', 'resnet50d'])
def test_stages_are_counted_as_mmpretrain_counts_them(stages, blocks, name):
    """-1 nothing, 0 the stem (all of a deep one), k also stages 1 to k; the head never."""
    wanted = set() if blocks is None else {'stem'}
    for stage, count in enumerate(blocks or (), 1):
        wanted |= {f'stage{stage}_block{i}' for i in range(1, count + 1)}
    assert frozen_parts(stages, name) == wanted
    trained = freezing.trained(shapes(name)['params'], stages)
    assert all(jax.tree.leaves(trained['head']))


def test_patterns_freeze_what_they_match_whole():
    """Regular expressions over whole paths; a layer of which a part trains keeps its
    statistics moving."""
    tree = shapes()
    freeze = ('stem/.*', r'stage1_block1/norm\d/scale', r'stage2_.*/norm\d/.*')
    trained = freezing.trained(tree['params'], freeze)
    assert not any(jax.tree.leaves(trained['stem']))
    assert trained['stage1_block1']['norm1'] == {'scale': False, 'bias': True}
    assert trained['stage2_block1']['conv1'] == {'kernel': True}
    frozen_stats = freezing.norms_with_frozen_stats(
        tree['params'], tree['batch_stats'], freeze, False
    )
    assert 'stem/norm1' in frozen_stats
    assert 'stage1_block1/norm1' not in frozen_stats
    assert {f'stage2_block{i}/norm{j}' for i in range(1, 5) for j in (1, 2, 3)} <= frozen_stats
    assert 'stage2_block1/shortcut_norm' not in frozen_stats
    everything = freezing.norms_with_frozen_stats(tree['params'], tree['batch_stats'], -1, True)
    assert len(everything) == 53


@pytest.mark.parametrize(
    ('freeze', 'message'),
    [
        (5, r'config.init.freeze=5: the model has stages 1 to 4'),
        (('stem',), r"'stem' matches no parameter; it must match a whole path, such as "),
        (('stem/.*', 'stage9.*'), r"'stage9\.\*' matches no parameter"),
        (('(',), r'is not a regular expression'),
        (('.*',), r'freezes every parameter'),
    ],
)
def test_a_freeze_that_cannot_be_is_refused(freeze, message):
    """A stage that does not exist, a pattern that matches nothing, and all of it."""
    with pytest.raises(ValueError, match=message):
        freezing.trained(shapes()['params'], freeze)


@pytest.mark.parametrize('optimizer', ['sgd', 'lamb'])
def test_what_is_frozen_does_not_move_by_one_bit(optimizer, source, tmp_path, capsys):
    """Parameters and statistics of stem and stage 1, through decay, momentum and the average; what
    is trained moves; the report says both; the optimizer keeps nothing for what is frozen."""
    section = {'source': str(source), 'freeze': 1}
    fields = {**config()['optimizer'], 'name': optimizer}
    ema = {'name': 'timm', 'decay': 0.5}
    experiment = jcls.build(config(init=section, optimizer=fields, ema=ema))
    loop.train(experiment, tmp_path)
    out = capsys.readouterr().out
    assert 'freezing report' in out
    assert 'what is frozen has not changed by one bit' in out
    rows = {
        line.split('│')[1].strip(): line.split('│')[2:-1] for line in out.split('\n') if '│' in line
    }
    assert [cell.strip() for cell in rows['stem']] == ['116', 'frozen', '-', '0 of 8']
    assert [cell.strip() for cell in rows['head']] == ['90', '90', '90', '-']
    _, before = jcls.load(source)
    for which in ('no', 'yes'):
        _, after = jcls.load(tmp_path, ema=which)
        for collection in ('params', 'batch_stats'):
            for part, tree in after[collection].items():
                if part in ('stem', 'stage1_block1'):
                    assert_same(tree, before[collection][part])
                else:
                    moved = [
                        (a != b).any()
                        for a, b in zip(
                            flat(tree).values(),
                            flat(before[collection][part]).values(),
                            strict=True,
                        )
                    ]
                    assert all(moved), part
    count = sum(leaf.size for leaf in jax.tree.leaves(experiment.state_shapes().opt_state))
    trained = experiment.optimizer.groups(experiment.state_shapes().params).trained
    leaves = zip(
        jax.tree.leaves(experiment.state_shapes().params), jax.tree.leaves(trained), strict=True
    )
    wanted = sum(leaf.size for leaf, moves in leaves if moves)
    assert count == (wanted if optimizer == 'sgd' else 2 * wanted + 1)


def test_norm_eval_keeps_all_statistics_and_trains_their_parameters(source, tmp_path):
    """No running mean or variance moves; scale and bias do."""
    section = {'source': str(source), 'norm_eval': True}
    loop.train(jcls.build(config(init=section)), tmp_path)
    (_, before), (_, after) = jcls.load(source), jcls.load(tmp_path)
    assert_same(after['batch_stats'], before['batch_stats'])
    for layer in ('stem', 'stage2_block1'):
        norms = [after['params'][layer]['norm1'][k] != before['params'][layer]['norm1'][k]
                 for k in ('scale', 'bias')]  # fmt: skip
        assert all(bool(change.all()) for change in norms)


def test_frozen_weights_that_changed_are_found(source, tmp_path):
    """A defect that moves them ends the run with an error; so does a change between two starts."""
    section = {'source': str(source), 'freeze': 0}
    experiment = jcls.build(config(init=section))
    step = experiment.train_step

    def defective(state: Any, batch: Any) -> Any:
        state, metrics = step(state, batch)
        stem = jax.tree.map(lambda leaf: leaf + 1e-7, state.params['stem'])
        return type(state)(**{**vars(state), 'params': {**state.params, 'stem': stem}}), metrics

    with pytest.raises(RuntimeError, match='freezes has changed between the start and step 6'):
        loop.train(dataclasses.replace(experiment, train_step=defective), tmp_path / 'a')
    loop.train(jcls.build(config(init=section)), tmp_path / 'b')
    metadata = json.loads((tmp_path / 'b' / 'model.json').read_text())
    (tmp_path / 'b' / 'model.json').write_text(json.dumps({**metadata, 'frozen_crc32': 1}))
    longer = jcls.build(config(init=section, duration='8 steps'))
    with pytest.raises(RuntimeError, match='between the start and step 6'):
        loop.train(longer, tmp_path / 'b')


def test_a_fingerprint_sees_one_bit():
    """Of a frozen parameter and of a frozen statistic, and of nothing else."""
    variables = {
        'params': {
            'a': {'kernel': np.ones(3, np.float32)},
            'b': {'kernel': np.ones(3, np.float32)},
        },
        'batch_stats': {'n': {'mean': np.zeros(2, np.float32)}},
    }
    frozen = freezing.Frozen(frozenset({'a/kernel'}), frozenset({'n'}))
    before = freezing.fingerprint(variables, frozen)
    variables['params']['b']['kernel'][0] = 2
    assert freezing.fingerprint(variables, frozen) == before
    variables['params']['a']['kernel'][0] = np.nextafter(np.float32(1), np.float32(2))
    assert freezing.fingerprint(variables, frozen) != before
    variables['params']['a']['kernel'][0] = 1
    variables['batch_stats']['n']['mean'][1] = -0.0
    assert freezing.fingerprint(variables, frozen) != before

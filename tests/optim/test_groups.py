"""Groups of parameters follow their rules and are the peers'; wrong rules are refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import Golden
from helpers.nets import path_of
from helpers.optim import parameters
from jcls import models
from jcls.optim import groups, optimizer

RULES = ((optimizer.NORM, 0.0), ('.*', 1.0))


@pytest.fixture(scope='module')
def data(golden: Golden) -> dict[str, np.ndarray]:
    """What the peers computed."""
    return dict(golden('recipes.npz'))


def shapes(name: str) -> Any:
    model = models.create(name)
    return jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))['params']


@pytest.mark.parametrize('name', ['resnet20', 'resnet18', 'resnet50', 'resnet50d'])
def test_by_default_exactly_the_norm_parameters_are_spared(name):
    """Zero for scale and bias of every module that has a scale, one for all else, head bias too."""

    def spared(tree: Any) -> Any:
        rest = {k: spared(v) for k, v in tree.items() if isinstance(v, dict)}
        leaves = [k for k in tree if k not in rest]
        return rest | dict.fromkeys(leaves, 0.0 if 'scale' in tree else 1.0)

    params = shapes(name)
    found = groups.assign(params, RULES, 'x')
    assert found == spared(params)
    assert found['head'] == {'kernel': 1.0, 'bias': 1.0}
    optimizer.create(256).direction.init(params)


def test_the_first_rule_that_matches_wins_and_must_match_all():
    """Order decides, a pattern is for the whole path, and a recipe can spare biases as well."""
    rules = (('head/bias', 0.5), ('head/.*', 2.0), (optimizer.NORM, 0.0), ('.*', 1.0))
    found = groups.assign(parameters(), rules, 'x')
    assert found['head'] == {'kernel': 2.0, 'bias': 0.5}
    assert found['stem'] == {'conv1': {'kernel': 1.0}, 'norm1': {'scale': 0.0, 'bias': 0.0}}
    assert found['stage1_block1'] == {'shortcut_norm': {'scale': 0.0, 'bias': 0.0}}


def by_path(tree: Any) -> dict[str, float]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {groups.path_of(keys): leaf for keys, leaf in leaves}


def test_decay_groups_are_the_peer_s(data: dict[str, np.ndarray]) -> None:
    """Of resnet50, by default what torchvision's --norm-weight-decay=0 spares is spared, and with
    the head's bias what timm spares; all else has the whole decay."""
    params = shapes('resnet50')
    paths = ['/'.join(path_of(name, deep=False)) for name in data['resnet50_names']]
    rules = ((optimizer.NORM, 0.0), ('.*', 1.0))
    for peer, section in (
        ('torchvision', {}),
        ('timm', {'decay_groups': (('head/bias', 0.0), *rules)}),
    ):
        found = by_path(optimizer.create(256, weight_decay=0.02, **section).groups(params).decay)
        decays = data[f'resnet50_{peer}'].tolist()
        assert found == dict(zip(paths, (0.02 if decay else 0.0 for decay in decays), strict=True))
    assert len(found) == 161


def test_layer_decay_is_timm_s(data: dict[str, np.ndarray]) -> None:
    """Of resnet18, each parameter's rate is multiplied by 0.75 to the number that timm counts."""
    found = by_path(optimizer.create(256, layer_decay=0.75).groups(shapes('resnet18')).rate)
    paths = ['/'.join(path_of(name, deep=False)) for name in data['resnet18_names']]
    expected = dict(zip(paths, data['resnet18_rates'], strict=True))
    assert found == pytest.approx(expected, rel=1e-15)
    assert len(found) == 62


@pytest.mark.parametrize(
    ('rules', 'message'),
    [
        ((('head/.*', 1.0),), r"no rule covers 'stage1_block1/shortcut_norm/bias'; end the rules"),
        ((), r'no rule covers'),
        ((('haed/.*', 0.0), ('.*', 1.0)), r"'haed/\.\*' decides about no parameter"),
        ((('bias', 0.0), ('.*', 1.0)), r"'bias' decides about no parameter"),
        ((('head', 0.0), ('.*', 1.0)), r"'head' decides about no parameter"),
        ((('.*', 1.0), ('head/bias', 0.0)), r"'head/bias' decides about no parameter"),
        ((('(', 0.0), ('.*', 1.0)), r"'\(' is not a regular expression"),
    ],
)
def test_wrong_rules_are_errors_before_any_step(rules, message):
    """An uncovered parameter, an idle rule and a bad pattern show when the state is made."""
    direction = optimizer.create(256, decay_groups=rules).direction
    with pytest.raises(ValueError, match=f'^config.optimizer.decay_groups: {message}'):
        direction.init(parameters())

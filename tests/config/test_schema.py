"""Sections, defaults, overrides and types, on a small table of sections made up here."""

from __future__ import annotations

import contextlib
import copy
import logging
from typing import Any

import pytest
from ml_collections import ConfigDict

from jcls.config.parts import choose, suggest
from jcls.config.schema import Section, complete

Rules = tuple[tuple[str, float], ...]


def run(
    _sections: Any,
    *,
    steps: int = 10,
    title: str = '',
    rate: float | None = None,
    fast: bool = False,
    blocks: tuple[int, ...] | None = None,
    augment: tuple = (),
) -> Any:
    return locals()


def optimizer(*, name: str = 'sgd', lr: float = 0.1, groups: Rules = (), **fields: Any) -> Any:
    return locals()


def sgd(*, momentum: float = 0.9, nesterov: bool = False) -> Any:
    return locals()


def adam(*, beta: float, epsilon: float = 1e-8) -> Any:
    return locals()


def model(name: str, *, classes: int | None = None) -> Any:
    return locals()


def evaluate(*, every: str = '1 epoch', preprocess: tuple = ({'name': 'crop', 'size': 8},)) -> Any:
    return locals()


def flip(*, probability: float = 0.5) -> Any:
    return locals()


def crop(*, size: int = 32, scale: tuple[float, float] = (0.08, 1.0)) -> Any:
    return locals()


OPERATIONS = {'flip': flip, 'crop': crop}
SECTIONS = {
    '': Section(run),
    'augment[]': Section(None, OPERATIONS),
    'evaluate': Section(evaluate),
    'evaluate.preprocess[]': Section(None, OPERATIONS),
    'model': Section(model, {'small': {}, 'large': {}}),
    'optimizer': Section(optimizer, {'sgd': sgd, 'adam': adam}),
}
CONFIG = {'model': {'name': 'small'}, 'augment': ({'name': 'crop', 'size': 16}, {'name': 'flip'})}
TO_ADAM = {'optimizer.name': 'adam', 'optimizer.beta': '0.5'}


def completed(overrides: dict[str, Any] | None = None, **config: Any) -> dict[str, Any]:
    return complete({**CONFIG, **config}, overrides, sections=SECTIONS)


def value_at(tree: Any, path: str) -> Any:
    for step in path.replace('[', '.').replace(']', '').split('.'):
        tree = tree[int(step)] if step.isdigit() else tree[step]
    return tree


def error_of(overrides: dict[str, Any] | None = None, **config: Any) -> str:
    with pytest.raises(ValueError, match=r'.') as caught:
        completed(overrides, **config)
    return str(caught.value)


def test_defaults_come_from_the_signatures():
    """A config of two entries becomes the whole tree, with each function's own defaults."""
    top = {'steps': 10, 'title': '', 'rate': None, 'fast': False, 'blocks': None}
    scale = (0.08, 1.0)
    sgd_fields = {'lr': 0.1, 'groups': (), 'momentum': 0.9, 'nesterov': False}
    preprocess = [{'name': 'crop', 'size': 8, 'scale': scale}]
    assert completed() == top | {
        'augment': [{**preprocess[0], 'size': 16}, {'name': 'flip', 'probability': 0.5}],
        'evaluate': {'every': '1 epoch', 'preprocess': preprocess},
        'model': {'name': 'small', 'classes': None},
        'optimizer': {'name': 'sgd', **sgd_fields},
    }


ACCEPTED = {
    'steps': [('20', 20), ('1_000', 1000), ('-3', -3)],
    'title': [(text, text) for text in ('2024', '1e5', 'true', 'none', '', 'a: (b', '{[]: 1}')],
    'rate': [('none', None), ('None', None), ('3', 3.0), ('1e-3', 1e-3)],
    'fast': [('true', True), ('False', False)],
    'blocks': [('(1, 2)', (1, 2)), ('1,2', (1, 2)), ('[3]', (3,)), ('()', ()), ('null', None)],
    'optimizer.lr': [('1', 1.0), ('.5', 0.5)],
    'optimizer.groups': [("(('a', 0), ('.*', 1.0))", (('a', 0.0), ('.*', 1.0)))],
    'augment[0].size': [('176', 176)],
    'augment[0].scale': [('(0.2, 1)', (0.2, 1.0)), ('[0.2, 1]', (0.2, 1.0))],
    'evaluate.preprocess[0].size': [('9', 9)],
}


@pytest.mark.parametrize('path', ACCEPTED)
def test_text_and_python_values_mean_the_same(path):
    """What is typed becomes its field's type, and the Python value gives the same tree."""
    for text, expected in ACCEPTED[path]:
        typed = completed({path: text})
        found = value_at(typed, path)
        assert (found, type(found)) == (expected, type(expected))
        assert typed == completed({path: expected}) == completed({f'config.{path}': text})
    if path == 'optimizer.lr':
        assert type(completed({path: 3})['optimizer']['lr']) is float


REFUSED = {
    ('steps', 'int'): ['2.5', 2.0, True, 'true', 'none', None, '', (1,)],
    ('title', 'str'): [3, None, True],
    ('rate', 'float or None'): ['high', True, 'true', (1.0,)],
    ('fast', 'bool'): ['1', 0, 'yes', None],
    ('blocks', 'tuple'): ['3', '(1, 2.5)', (True,), 'x'],
    ('optimizer.lr', 'float'): [True, 'none', '1/2'],
    ('optimizer.groups', 'tuple'): [(('.*',),), '((1, 2),)'],
    ('augment[1].probability', 'float'): ['always'],
    ('augment[0].scale', 'tuple'): ['(0.1,)', (0.1, 1.0, 1.0)],
    ('evaluate.preprocess[0].size', 'int'): ['8.0'],
}


@pytest.mark.parametrize(('path', 'kind'), REFUSED)
def test_a_value_of_another_type_is_refused_at_its_place(path, kind):
    """A wrong type, above all a float or a bool for an int, is an error that names the field."""
    for value in REFUSED[path, kind]:
        found = error_of({path: value})
        assert found.startswith(f'config.{path}: expected {kind}')
        assert found.endswith(f'got {value!r}')


def test_a_required_field_is_an_error_that_says_how_to_give_it():
    """A field without a default must come from somewhere, and may come from an override."""
    found = error_of({'optimizer.name': 'adam'})
    assert found.startswith('config.optimizer.beta: required')
    assert '--config.optimizer.beta=' in found
    assert completed(TO_ADAM)['optimizer']['beta'] == 0.5
    assert error_of(model={}) == 'config.model: needs a name (known: small, large)'
    assert completed({'model.name': 'large'}, model={})['model']['name'] == 'large'


MISSPELLED = {  # a path: what the message must contain (the place, the suggestion, the known ones)
    'stesp': ['config.stesp:', "'steps'?", 'title, rate, fast, blocks, augment, evaluate'],
    'optimizr.lr': ['config.optimizr:', "'optimizer'?", 'evaluate, model, optimizer'],
    'optimizer.lrr': ['config.optimizer.lrr:', "'lr'?", 'name, lr, groups, momentum'],
    'optimizer.beta': ['config.optimizer.beta:', 'momentum, nesterov'],
    'evaluate.evry': ['config.evaluate.evry:', "'every'?", 'every, preprocess'],
    'augment[0].sizze': ['config.augment[0].sizze:', "'size'?", 'name, size, scale'],
    'augment[2].size': ['config.augment[2]', 'known: 0, 1'],
    'augment[-1].size': ['config.augment'],
    'augment[0].scale[0]': ['config.augment[0].scale[0]'],
    'steps.more': ['config.steps.more'],
    'optimizer': ['config.optimizer: a section; set its fields: name, lr'],
    '': ['config.'],
    'optimizer..lr': ['config.optimizer'],
    'optimizer.lr.': ['config.optimizer.lr'],
    'optimizer[name]': ['config.optimizer'],
    'augment.0.name': ['config.augment'],
}


@pytest.mark.parametrize('path', MISSPELLED)
def test_a_misspelled_override_is_an_error_with_place_and_cure(path):
    """No path that is not exactly a field's is accepted, and the message helps to mend it."""
    found = error_of({path: {'augment.0.name': 'flip', 'optimizer[name]': 'adam'}.get(path, '3')})
    assert [part for part in MISSPELLED[path] if part not in found] == [], found


@pytest.mark.parametrize('item', [{'name': 'flip'}, {'name': 'crop'}, "{'name': 'flip'}"])
def test_an_item_of_a_tuple_is_set_whole_or_refused(item):
    """--config.augment[0]={...} either replaces the item, defaults filled in, or is an error."""
    with contextlib.suppress(ValueError):
        assert completed({'augment[0]': item}) == completed(
            {'augment': f"({item}, {{'name': 'flip'}})"}
        )


MISTAKES = [  # a change of the config itself, what the message must contain
    ({'stesp': 3}, ['config.stesp', "'steps'?"]),
    ({'optimizer': {'lrr': 3}}, ['config.optimizer.lrr', "'lr'?", 'known: name, lr']),
    ({'optimizer': {'name': 'sgdd'}}, ['config.optimizer.name', "'sgd'?", 'sgd, adam']),
    ({'optimizer': {'name': 'sgd', 'beta': 0.5}}, ['config.optimizer.beta']),
    ({'optimizer': 3}, ['config.optimizer: a section']),
    ({'optimizer': {'lr': '0.5'}}, ["config.optimizer.lr: expected float, got '0.5'"]),
    ({'augment': ({'name': 'crp'},)}, ['config.augment[0].name', "'crop'?"]),
    ({'augment': ({'size': 3},)}, ['config.augment[0]: needs a name', 'flip, crop']),
    ({'augment': ({'name': 'flip', 'size': 3},)}, ['config.augment[0].size', 'probability']),
    ({'augment': 'flip'}, ['config.augment: a tuple of sections']),
    ({'augment': ('flip',)}, ['config.augment[0]: a section']),
    ({'evaluate': {'preprocess': ({'name': 'x'},)}}, ['config.evaluate.preprocess[0].name']),
]


@pytest.mark.parametrize(('change', 'parts'), MISTAKES)
def test_a_mistake_in_the_config_itself_is_an_error(change, parts):
    """What a config file may contain is as strict as the command line, and text stays text."""
    found = error_of(**change)
    assert [part for part in parts if part not in found] == [], found


def test_a_misspelled_choice_lists_the_choices():
    """A new name is checked, in a section and inside a tuple, and the near ones are suggested."""
    found = error_of({'optimizer.name': 'adm', 'optimizer.lr': 'x'})
    assert found.startswith(
        "config.optimizer.name: unknown name 'adm'; did you mean 'adam'? (known"
    )
    assert 'config.augment[1].name: unknown name' in error_of({'augment[1].name': 'flop'})
    assert suggest('cosin', ['constant', 'cosine']) == "; did you mean 'cosine'?"
    with pytest.raises(ValueError, match=r"^unknown loss 'zzz' \(known: a, b\)$"):
        choose({'a': 1, 'b': 2}, 'zzz', 'loss')


def test_a_new_name_drops_what_it_lacks_and_opens_its_own(caplog):
    """The old choice's own fields go and are named, shared ones stay, the new one's can be set."""
    with caplog.at_level(logging.INFO, 'jcls'):
        found = completed(TO_ADAM, optimizer={'name': 'sgd', 'lr': 0.3, 'momentum': 0.5})
    shared = {'name': 'adam', 'lr': 0.3, 'groups': ()}
    assert found['optimizer'] == {**shared, 'beta': 0.5, 'epsilon': 1e-8}
    assert 'config.optimizer.name=adam drops momentum' in caplog.text
    assert 'momentum: no such field' in error_of({**TO_ADAM, 'optimizer.momentum': '0.1'})


def test_the_same_name_drops_nothing():
    """To name the choice that a section has already changes nothing and forgives nothing."""
    changed = {'momentum': 0.5}
    assert completed({'optimizer.name': 'sgd'}, optimizer=changed) == completed(optimizer=changed)
    assert 'momentun' in error_of({'optimizer.name': 'sgd'}, optimizer={'momentun': 0.5})


def test_a_misspelled_field_is_not_taken_for_one_of_the_old_choice():
    """Only fields that the old choice has are dropped by a new name; others stay errors."""
    assert 'momentun' in error_of(TO_ADAM, optimizer={'name': 'sgd', 'momentun': 0.5})


def test_names_inside_tuples_change_like_those_of_sections(caplog):
    """augment[0].name drops and opens fields whatever the order of the overrides."""
    with caplog.at_level(logging.INFO, 'jcls'):
        found = completed({'augment[0].probability': '1', 'augment[0].name': 'flip'})['augment']
    assert found == [{'name': 'flip', 'probability': p} for p in (1.0, 0.5)]
    assert 'config.augment[0].name=flip drops size' in caplog.text


@pytest.mark.parametrize('path', ['augment', 'evaluate.preprocess'])
def test_a_whole_tuple_comes_from_text_or_python(path):
    """A tuple of sections is replaced whole, filled in or emptied, its items set in the same go."""
    text = "({'name': 'flip'}, {'name': 'crop', 'size': 3})"
    python = ({'name': 'flip'}, ConfigDict({'name': 'crop', 'size': 3}))
    assert completed({path: text}) == completed({path: python})
    assert not value_at(completed({path: '()'}), path)
    assert value_at(completed({path: text, f'{path}[1].size': '4'}), f'{path}[1].size') == 4
    assert f'config.{path}[0].sizze' in error_of({path: "[{'name': 'crop', 'sizze': 3}]"})
    assert f'config.{path}: a tuple of sections' in error_of({path: 'flip'})


@pytest.mark.parametrize('path', ['augment', 'evaluate.preprocess'])
def test_an_item_s_new_name_applies_to_the_tuple_given_with_it(path):
    """A tuple and the name of one of its items, both overridden, both take effect."""
    overrides = {path: "({'name': 'crop', 'size': 3},)", f'{path}[0].name': 'flip'}
    assert value_at(completed(overrides), path) == [{'name': 'flip', 'probability': 0.5}]


def test_the_inputs_are_not_mutated():
    """Neither the config nor the overrides nor the defaults change, at any depth."""
    config = {**copy.deepcopy(CONFIG), 'optimizer': {'lr': 1.0}}
    overrides = {'augment': [{'name': 'crop'}], 'augment[0].size': '3', **TO_ADAM}
    inputs = (config, overrides, ConfigDict(config))
    before = copy.deepcopy(inputs)
    for given in (config, inputs[2]):
        found = complete(given, overrides, sections=SECTIONS)
        found['evaluate']['preprocess'][0]['size'] = 99
        found['augment'].clear()
    assert inputs == before
    assert completed()['evaluate']['preprocess'][0]['size'] == 8


@pytest.mark.parametrize('overrides', [{}, {'augment': '()', 'blocks': '(1,)'}, TO_ADAM])
def test_completing_twice_changes_nothing(overrides):
    """complete(complete(x)) == complete(x), also through a ConfigDict."""
    once = completed(overrides)
    assert complete(once, sections=SECTIONS) == once
    assert complete(ConfigDict(once), sections=SECTIONS) == once

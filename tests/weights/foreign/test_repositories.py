"""Files that people have: other names, wrappers, and what a file does not tell."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import jcls
from helpers.foreign import SMALL, below, state, variables_of, without_head
from jcls import models
from jcls.main import main
from jcls.models.resnet import ARCHITECTURE, Block
from jcls.tools.import_ import import_weights
from jcls.weights import artifact, imported, load
from jcls.weights.foreign import convert
from jcls.weights.foreign.edits import Edits


def assert_same(found: Any, wanted: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


# Names


def names_of_cifar100(prefix: str) -> set[str]:
    """weiaicunzai/pytorch-cifar100, models/resnet.py: a bottleneck's first block of a stage."""
    parts = [f'residual_function.{i}' for i in (0, 1, 3, 4, 6, 7)] + ['shortcut.0', 'shortcut.1']
    return {f'{prefix}.{part}.weight' for part in parts}


def test_the_names_are_those_of_the_repositories() -> None:
    """Spelled out, as they stand in the files."""
    ours = set(state('pytorch_cifar'))  # kuangliu
    assert {'conv1.weight', 'bn1.running_mean', 'layer2.0.shortcut.0.weight', 'linear.bias',
            'layer2.0.shortcut.1.running_var', 'layer1.1.conv2.weight'} <= ours  # fmt: skip
    assert not any('shortcut' in name for name in ours if name.startswith('layer1'))
    ours = set(state('pytorch_cifar', 'resnet20'))  # akamaster
    assert not any('shortcut' in name for name in ours)
    ours = set(state('pytorch_cifar100', 'resnet50'))
    assert {'conv1.0.weight', 'conv1.1.running_var', 'fc.bias'} <= ours
    assert names_of_cifar100('conv2_x.0') | names_of_cifar100('conv3_x.0') <= ours
    ours = set(state('transformers', 'resnet50'))
    start = 'resnet.encoder.stages.1.layers.0'
    assert {'resnet.embedder.embedder.convolution.weight', 'classifier.1.weight',
            f'{start}.shortcut.normalization.bias',
            f'{start}.layer.2.convolution.weight'} <= ours  # fmt: skip


REPOSITORIES = {
    'kuangliu': ('pytorch_cifar', 'resnet18', {'stem': 'cifar'}),
    'kuangliu, 50 layers': ('pytorch_cifar', 'resnet50', {'stem': 'cifar'}),
    'akamaster': ('pytorch_cifar', 'resnet20', {'shortcut': 'pad_both'}),
    'weiaicunzai': ('pytorch_cifar100', 'resnet18', {'stem': 'cifar'}),
    'weiaicunzai, 50 layers': ('pytorch_cifar100', 'resnet50', {'stem': 'cifar'}),
    'chenyaofo': ('torch', 'resnet20', {'shortcut': 'conv'}),
    'huyvnphan': ('torch', 'resnet18', {'stem': 'cifar'}),
    'microsoft': ('transformers', 'resnet50', {}),
}


@pytest.mark.parametrize('case', REPOSITORIES)
@pytest.mark.parametrize('root', ['', 'module.', '_orig_mod.module.', 'student.model.backbone.'])
def test_repositories_are_recognised(case: str, root: str) -> None:
    """The network and every number, whatever wrappers stand before the names."""
    layout, name, fields = REPOSITORIES[case]
    model = models.create(name, **SMALL, **fields)
    found = convert.convert(below(root, state(layout, name, **fields)))
    built = models.create(**found.section)
    for field in (*ARCHITECTURE, 'num_classes'):
        assert getattr(built, field) == getattr(model, field)
    assert_same(found.variables, variables_of(model))


@pytest.mark.parametrize('head', ['linear', 'classifier', 'head', 'last_linear', 'fc.1'])
def test_other_names_of_the_classifier(head: str) -> None:
    """Also one in a torch.nn.Sequential, behind a dropout."""
    tensors = {name.replace('fc.', f'{head}.'): value for name, value in state().items()}
    assert_same(convert.convert(tensors).variables, convert.convert(state()).variables)


def test_a_classifier_may_be_a_convolution() -> None:
    """Of one pixel: [classes, features, 1, 1]."""
    tensors = state()
    tensors['fc.weight'] = tensors['fc.weight'][:, :, None, None]
    assert_same(convert.convert(tensors).variables, convert.convert(state()).variables)


@pytest.mark.parametrize(
    'counter', ['total_ops', 'layer1.0.total_params', 'module.layer1.0.conv1.total_ops']
)
def test_counters_of_profilers_are_skipped(counter: str) -> None:
    """They count operations, and the network computes nothing with them."""
    root = 'module.' if counter.startswith('module.') else ''
    found = convert.convert({**below(root, state()), counter: np.zeros(1)})
    assert counter in {row.name for row in found.report.skipped}


@pytest.mark.parametrize(
    'wrapper', ['_fsdp_wrapped_module', '_checkpoint_wrapped_module', '_orig_mod']
)
def test_wrappers_between_modules_are_removed(file: Any, wrapper: str) -> None:
    """Of each stage or block by itself; also in a prefix."""
    blocks = re.compile(r'(layer1\.|layer2\.0\.)')
    inside = {blocks.sub(rf'\1{wrapper}.', f'net.{name}'): value for name, value in state().items()}
    assert sum(wrapper in name for name in inside) > 12
    path = file(inside)
    for prefix in ('', 'net', f'net.{wrapper}'):
        found = imported.read(path, prefix=prefix)
        assert_same(found.variables, convert.convert(state()).variables)


def test_modules_with_numbers_can_be_named(file: Any, tmp_path: Path) -> None:
    """torch.nn.Sequential(*net.children()): the message has what names them."""
    numbers = {'conv1': 0, 'bn1': 1, 'layer1': 4, 'layer2': 5}
    tensors = {
        f'features.{numbers[name.partition(".")[0]]}.{name.partition(".")[2]}': value
        for name, value in without_head(state()).items()
    }
    path = file({**tensors, **below('features.', {'fc.weight': state()['fc.weight'],
                                                  'fc.bias': state()['fc.bias']})})  # fmt: skip
    with pytest.raises(ValueError, match=r'numbers, as in a torch\.nn\.Sequential') as error:
        imported.read(path)
    renames = dict(re.findall(r"--rename '(\S+)=(\S+)'", str(error.value)))
    import_weights(path, tmp_path / 'out', rename=renames)
    assert_same(artifact.read(tmp_path / 'out')[1], convert.convert(state()).variables)


@pytest.mark.parametrize(
    ('parts', 'undo'),
    [
        (('weight_g', 'weight_v'), 'remove_weight_norm'),
        (('weight_orig', 'weight_u', 'weight_v'), 'remove_spectral_norm'),
        (('weight_orig', 'weight_mask'), 'make its pruning permanent'),
        (('parametrizations.weight.original0',), 'remove_parametrizations'),
    ],
)
@pytest.mark.parametrize('module', ['conv1', 'layer1.0.conv1', 'fc'])
def test_weights_that_are_computed_are_said(
    file: Any, module: str, parts: tuple[str, ...], undo: str
) -> None:
    tensors = state()
    value = tensors.pop(f'{module}.weight')
    path = file({**tensors, **{f'{module}.{part}': value for part in parts}})
    with pytest.raises(ValueError, match=f'a part that a weight is computed from; .*{undo}'):
        imported.read(path)


def test_other_networks_are_refused() -> None:
    """By their first names; a tensor inside of the network is never left out."""
    with pytest.raises(ValueError, match=r'not the weights of a ResNet.*first tensors are cls_tok'):
        convert.convert(
            {'cls_token': np.zeros(1), 'patch_embed.proj.weight': np.zeros((4, 3, 8, 8))}
        )
    gate = {'module.layer1.0.se.fc.weight': np.zeros((4, 1), np.float32)}
    for classifier in (True, False):
        with pytest.raises(ValueError, match=r'module\.layer1\.0\.se\.fc\.weight.*no such tensor'):
            convert.convert({**below('module.', state()), **gate}, classifier=classifier)


# Dictionaries, averages


def tree(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """A dictionary for each module."""
    nested: dict[str, Any] = {}
    for name, value in tensors.items():
        *modules, leaf = name.split('.')
        inner = nested
        for module in modules:
            inner = inner.setdefault(module, {})
        inner[leaf] = value
    return nested


@pytest.mark.parametrize(
    'around',
    [
        lambda s: {'state_dict': s, 'epoch': 3},
        lambda s: {'net': below('module.', s), 'acc': 95.1, 'epoch': 3},
        lambda s: {'model': {'state_dict': below('module.', s)}, 'optimizer': {'state': {}}},
        lambda s: {'weights': s},
        lambda s: {'weights': tree(s)},
        lambda s: {'state_dict': {**below('model.', s), 'criterion.weight': np.ones(3)}},
        lambda s: {'a': {'b': {'c': s}}, 'optimizer': {'exp_avg': s}},
    ],
)
def test_dictionaries_around_the_weights(file: Any, around: Any) -> None:
    """Of any names and depth; an optimizer's are no weights."""
    found = imported.read(file(around(state())))
    assert_same(found.variables, convert.convert(state()).variables)
    assert 'averaged' not in found.metadata


RAW, AVERAGED = state(), {name: value + 1 for name, value in state().items()}
BOTH = {
    'timm': {'state_dict': RAW, 'state_dict_ema': below('module.', AVERAGED)},
    'ema beside': {'model': RAW, 'ema': AVERAGED},
    'Lightning': {'state_dict': {**below('model.', RAW), **below('ema_model.module.', AVERAGED)}},
    'mmengine': {'state_dict': AVERAGED, 'ema_state_dict': below('module.', RAW), 'meta': {}},
    'others': {'state_dict': RAW, 'ema_state_dict': AVERAGED},
}


@pytest.mark.parametrize('case', BOTH)
def test_averaged_or_raw_is_said(file: Any, tmp_path: Path, capsys: Any, case: str) -> None:
    """In the report, in --json and in the card, with the option that chooses the other."""
    path = file(BOTH[case])
    for ema, wanted in (('auto', AVERAGED), ('yes', AVERAGED), ('no', RAW)):
        assert main(['import', str(path), str(tmp_path / ema), '--ema', ema, '--json']) == 0
        *lines, told = capsys.readouterr().out.rstrip().split('\n')
        card, variables = artifact.read(tmp_path / ema)
        np.testing.assert_array_equal(
            variables['params']['head']['bias'], wanted['fc.bias'].astype(np.float32)
        )
        averaged = wanted is AVERAGED
        assert card['averaged'] is json.loads(told)['averaged'] is averaged
        assert lines[-1].endswith('averaged weights' if averaged else 'raw weights')
        assert ('averaged' in card['assumed']) == (ema == 'auto')


def test_averages_alone(file: Any) -> None:
    """torch's AveragedModel is known by its counter; raw weights are not to be had from it."""
    path = file({'n_averaged': np.zeros((), np.int64), **below('module.', state())})
    assert imported.read(path).metadata['averaged'] is True
    with pytest.raises(ValueError, match=r"ema='no', but .* has averaged weights alone"):
        imported.read(path, ema='no')


def test_several_networks_have_to_be_chosen_from(file: Any) -> None:
    """The prefixes that the message names are taken."""
    other = {name: value + 1 for name, value in state().items()}
    one = below('module.encoder_q.', state())
    path = file({'state_dict': {**one, **below('module.encoder_k.', other)}})
    with pytest.raises(
        ValueError, match=r'2 networks: name one of state_dict\.module\.encoder_q, state_dict'
    ):
        imported.read(path)
    for prefix in ('module.encoder_q', 'state_dict.module.encoder_q', 'module.encoder_q.'):
        found = imported.read(path, prefix=prefix)
        assert_same(found.variables, convert.convert(state()).variables)


def test_a_network_without_a_prefix_beside_others(file: Any, tmp_path: Path) -> None:
    """It has no name to choose it by; the message says how to leave the others out."""
    other = {name: value + 1 for name, value in state().items()}
    path = file({**state(), **below('momentum.', other), **below('k.', other)})
    with pytest.raises(ValueError, match=r"3 networks.*--drop '\^\(momentum\|k\)\[\.\]'"):
        imported.read(path)
    import_weights(path, tmp_path / 'out', drop=['^(momentum|k)[.]'])
    assert_same(artifact.read(tmp_path / 'out')[1], convert.convert(state()).variables)


@pytest.mark.parametrize(
    'content',
    [
        {'net': RAW, 'ema': {'decay': 0.9, 'shadow_params': [*AVERAGED.values()]}},
        {**below('model.', RAW), 'model_ema.conv1weight': AVERAGED['conv1.weight']},
    ],
)
def test_averages_that_are_not_read_are_said(file: Any, caplog: Any, content: Any) -> None:
    """torch_ema has a list, latent diffusion's LitEma names without dots."""
    path = file(content)
    found = imported.read(path)
    assert_same(found.variables, convert.convert(RAW).variables)
    assert re.search(r'averaged weights, too \((ema.shadow_params|model_ema.*)\)', caplog.text)
    caplog.clear()
    imported.read(path, ema='no')
    assert caplog.text == ''
    with pytest.raises(ValueError, match=r"ema='yes', but .* has no averaged weights"):
        imported.read(path, ema='yes')


# Heads


PROJECTION = {
    'fc.0.weight': np.ones((8, 8), np.float32), 'fc.0.bias': np.ones(8, np.float32),
    'fc.2.weight': np.ones((5, 8), np.float32), 'fc.2.bias': np.ones(5, np.float32),
}  # fmt: skip
ONE_LOGIT = {'fc.weight': np.ones((1, 8), np.float32), 'fc.bias': np.ones(1, np.float32)}


@pytest.mark.parametrize('head', [PROJECTION, ONE_LOGIT])
def test_a_head_that_is_none_is_left_out_for_a_new_one(
    file: Any, tiny: Any, tmp_path: Path, caplog: Any, head: Any
) -> None:
    """A run with head='new' starts and lists it; import says how; --drop makes a folder of it."""
    path = file({**without_head(state()), **head})
    with pytest.raises(ValueError, match=r"fc(.|\n)*init.head='new'(.|\n)*--drop"):
        import_weights(path, tmp_path / 'out')
    import_weights(path, tmp_path / 'out', drop=[r'^fc\.'])
    card, _ = artifact.read(tmp_path / 'out')
    assert card['imported'] == {'drop': [r'^fc\.']}
    tiny['model'] = {'name': 'resnet18', 'width': 4, 'blocks': (2, 1)}
    tiny['data'] = {'name': 'synthetic', 'size': 8, 'num_classes': 10, 'examples': 40}
    wanted = convert.convert(state()).variables['params']['stem']['conv1']['kernel']
    for source in (path, tmp_path / 'out'):
        tiny['init'] = {'source': str(source), 'head': 'new'}
        params = jcls.build(tiny).init().params
        np.testing.assert_array_equal(params['stem']['conv1']['kernel'], wanted)
        assert params['head']['kernel'].shape == (8, 10)
    with caplog.at_level('INFO'):
        load.read(path, classifier=False)
    assert all(name in caplog.text for name in head)
    with pytest.raises(ValueError, match='has no classifier'):
        jcls.load(tmp_path / 'out')


def test_a_classifier_beside_the_network_is_named(file: Any, tmp_path: Path) -> None:
    """With the renaming that makes it one, which then works."""
    outside = {'classifier.weight': state()['fc.weight'], 'classifier.bias': state()['fc.bias']}
    path = file({**below('backbone.', without_head(state())), **outside})
    with pytest.raises(
        ValueError, match=r"no classifier.*--rename '\^classifier\[\.\]=backbone\.fc\."
    ):
        import_weights(path, tmp_path / 'out')
    import_weights(path, tmp_path / 'out', rename={'^classifier[.]': 'backbone.fc.'})
    assert_same(artifact.read(tmp_path / 'out')[1], convert.convert(state()).variables)


# --rename, --drop


def test_names_are_changed_and_tensors_left_out(file: Any, tmp_path: Path, capsys: Any) -> None:
    """By regular expressions, in this order; the card has what was done."""
    tensors = {name.replace('layer', 'stage'): value for name, value in state().items()}
    path = file({**tensors, 'stage1.0.extra.weight': np.ones(4, np.float32)})
    words = ['--rename', r'stage(\d)=layer\1', '--rename', '^fc=linear', '--drop', 'extra']
    assert main(['import', str(path), str(tmp_path / 'out'), *words, '--json']) == 0
    card, variables = artifact.read(tmp_path / 'out')
    assert_same(variables, convert.convert(state()).variables)
    done = {'rename': {r'stage(\d)': r'layer\1', '^fc': 'linear'}, 'drop': ['extra']}
    assert (
        card['imported'] == json.loads(capsys.readouterr().out.split('\n')[-2])['imported'] == done
    )


@pytest.mark.parametrize(
    ('rename', 'drop', 'message'),
    [
        ({'(': 'x'}, (), r"rename='\(' is no regular expression: missing \)"),
        ({}, ('[',), r"drop='\[' is no regular expression"),
        ({'nothing': 'x'}, (), r"rename='nothing' is in the name of no tensor of .*bn1.weight"),
        ({}, ('nothing',), r"drop='nothing' is in the name of no tensor of .*bn1.weight"),
        ({'bias': 'weight'}, (), r"bn1.bias and bn1.weight of .* would both be 'bn1.weight'"),
        ({'bias': r'\1'}, (), r'cannot replace it: invalid group reference'),
    ],
)
def test_edits_that_are_wrong(
    file: Any, tmp_path: Path, rename: Any, drop: Any, message: str
) -> None:
    """Nothing is ignored, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        import_weights(file(state()), tmp_path / 'out', rename=rename, drop=drop)
    assert not (tmp_path / 'out').exists()


def test_a_renaming_is_a_pair(file: Any, tmp_path: Path, capsys: Any) -> None:
    """A word without = is an error; = may stand in the pattern."""
    path = str(file(state()))
    assert main(['import', path, str(tmp_path / 'out'), '--rename', 'fc']) == 1
    assert 'a pattern and what replaces it' in capsys.readouterr().err
    words = ['--rename', r'^fc(?=\.)=linear']
    assert main(['import', path, str(tmp_path / 'out'), *words]) == 0


def test_edits_are_not_for_folders_of_jcls(file: Any, tmp_path: Path) -> None:
    """Their names are jcls's own."""
    import_weights(file(state()), tmp_path / 'in')
    with pytest.raises(ValueError, match='rename and drop are for files of other systems'):
        imported.read(tmp_path / 'in', edits=Edits({}, ('head',)))


# What a file does not tell


def logits(folder: Path, images: np.ndarray) -> np.ndarray:
    model, variables = jcls.load(folder)
    return np.asarray(model.apply(variables, images, train=False))


def test_zeros_before_the_channels_or_behind() -> None:
    """A shortcut without parameters, by hand: [N, H, W, C] -> [N, H / 2, W / 2, 2 C]."""
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 4)).astype(np.float32)
    for shortcut, before in (('pad', 0), ('pad_both', 2)):
        model = models.create('resnet20', width=4, blocks=(1, 1), shortcut=shortcut)
        block = Block(
            kind='basic', features=8, stride=2, inner=8, groups=1, shortcut=shortcut,
            stride_in_1x1=False, padding='torch', project=False, zero_gamma=True, drop_path=0.0,
            norm=model.norm, materialise_gradient=False,
        )  # fmt: skip
        variables = block.init(jax.random.key(0), x, False)
        found = block.apply(variables, x, False)  # the branch is 0, since its last scale is
        wanted = np.zeros((2, 3, 3, 8), np.float32)
        wanted[..., before : before + 4] = np.maximum(x[:, ::2, ::2], 0)
        np.testing.assert_allclose(found, wanted)


@pytest.mark.parametrize(
    ('name', 'fields', 'asked'),
    [
        ('resnet20', {'shortcut': 'pad_both'}, {'shortcut': 'pad'}),
        ('resnet18', {'stem': 'cifar'}, {'stem': 'cifar_pool'}),
        ('resnet50', {}, {'stride_in_1x1': True}),
        ('resnet50', {}, {'padding': 'same'}),
    ],
)
def test_what_is_assumed_can_be_chosen(
    file: Any, tmp_path: Path, name: str, fields: Any, asked: Any
) -> None:
    """The card lists the value and the option; the choice computes something else."""
    path = file(state('pytorch_cifar', name, **fields))
    import_weights(path, tmp_path / 'assumed')
    import_weights(path, tmp_path / 'chosen', **asked)
    (field, value), *_ = asked.items()
    card, _ = artifact.read(tmp_path / 'assumed')
    assert card['assumed'][field]['option'] == f'--{field}'
    assert card['assumed'][field]['value'] == getattr(models.create(name, **fields), field)
    chosen, _ = artifact.read(tmp_path / 'chosen')
    assert chosen['architecture'][field] == value
    assert field not in chosen['assumed']
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    one, other = logits(tmp_path / 'assumed', images), logits(tmp_path / 'chosen', images)
    assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()
    # A folder that was imported can be imported again with the choice.
    import_weights(tmp_path / 'assumed', tmp_path / 'again', **asked)
    np.testing.assert_array_equal(logits(tmp_path / 'again', images), other)
    with pytest.raises(ValueError, match=f'{field}: known of these weights'):
        import_weights(tmp_path / 'chosen', tmp_path / 'no', **asked)


@pytest.mark.parametrize(
    ('name', 'asked', 'message'),
    [
        ('resnet18', {'shortcut': 'pad'}, "shortcut='pad': the tensors are those of 'conv'"),
        ('resnet18', {'stem': 'cifar_pool'}, "'cifar_pool': the tensors are those of 'imagenet'"),
        ('resnet18', {'stride_in_1x1': True}, 'stride_in_1x1=True: the tensors are those of False'),
        ('resnet50', {'padding': 'valid'}, "padding='valid': .* those of 'torch', 'same'"),
        ('resnet18', {'epsilon': 0.0}, 'epsilon=0.0: a positive number'),
        ('resnet18', {'mean': [0.5]}, r'mean=\[0.5\]: a number for each of 3 channel'),
        ('resnet18', {'mean': [123.7, 116.3, 103.5]}, r'fractions of 255, such as 0.485 for 123.7'),
        ('resnet18', {'std': [0.2, 0.0, 0.2]}, 'positive numbers'),
        ('resnet18', {'interpolation': 'area'}, "unknown interpolation 'area'"),
    ],
)
def test_choices_that_are_none(
    file: Any, tmp_path: Path, name: str, asked: Any, message: str
) -> None:
    """What the tensors tell is not chosen, and a number must be one."""
    with pytest.raises(ValueError, match=message):
        import_weights(file(state(name=name)), tmp_path / 'out', **asked)
    assert not (tmp_path / 'out').exists()


def test_blue_green_red(file: Any, tmp_path: Path) -> None:
    """Such a network takes red, green, blue once it is imported."""
    path = file(state())
    import_weights(path, tmp_path / 'rgb', bgr=False)
    import_weights(path, tmp_path / 'bgr', bgr=True)
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    np.testing.assert_allclose(
        logits(tmp_path / 'bgr', images[..., ::-1]), logits(tmp_path / 'rgb', images), rtol=1e-5
    )
    for folder in ('rgb', 'bgr'):
        assert 'bgr' not in artifact.read(tmp_path / folder)[0]['assumed']


def test_everything_said_is_in_the_card(file: Any, tmp_path: Path) -> None:
    """Mean, deviation, epsilon, EXIF and the resize are taken, and not assumed any more."""
    words = {'mean': [0.5, 0.4, 0.3], 'std': [0.2, 0.3, 0.2], 'epsilon': 1e-3, 'exif': True,
             'interpolation': 'bicubic', 'antialias': False}  # fmt: skip
    import_weights(file(state()), tmp_path / 'out', **words)
    card, _ = artifact.read(tmp_path / 'out')
    assert (card['mean'], card['std'], card['exif']) == (words['mean'], words['std'], True)
    assert card['norm'] == {'epsilon': 1e-3}
    resize = {'name': 'resize', 'size': 256, 'interpolation': 'bicubic', 'antialias': False}
    assert card['preprocess'][0] == resize
    built = {'strides', 'pool', 'blur', 'activation'}
    assert card['assumed'].keys() == {'classes', 'preprocess', 'bgr', 'padding'} | built


def test_networks_for_small_images_see_them_as_they_are(file: Any) -> None:
    """32 pixels, if nothing else is known."""
    metadata = imported.read(file(state('pytorch_cifar', 'resnet20', shortcut='pad_both'))).metadata
    assert metadata['image_shape'] == [32, 32, 3]
    assert [step['size'] for step in metadata['preprocess']] == [32, 32]


def test_an_exported_folder_tells_what_its_tensors_do_not(tmp_path: Path, file: Any) -> None:
    """model.json beside the tensors has the choices."""
    import_weights(file(state(name='resnet20')), tmp_path / 'in', shortcut='pad_both')
    jcls.export(tmp_path / 'in', tmp_path / 'out', format='torchvision')
    model, _ = jcls.load(tmp_path / 'out')
    assert model.shortcut == 'pad_both'


@pytest.mark.parametrize('format', ['torchvision', 'timm'])
def test_what_readers_would_compute_otherwise_is_not_exported(
    tmp_path: Path, file: Any, format: str
) -> None:
    """A torchvision network strides in its 3x3 convolutions, whatever the file meant."""
    import_weights(file(state(name='resnet50')), tmp_path / 'in', stride_in_1x1=True)
    with pytest.raises(ValueError, match='cannot hold stride_in_1x1=True'):
        jcls.export(tmp_path / 'in', tmp_path / 'out', format=format)


def test_the_config_may_say_it_for_a_file(tiny: Any, file: Any) -> None:
    """A run that starts from a bare file has what its config says where the file says nothing."""
    path = file(state('pytorch_cifar', 'resnet20', shortcut='pad_both'))
    tiny['data'] = {'name': 'synthetic', 'size': 8, 'num_classes': 10, 'examples': 40}
    tiny['init'] = {'source': str(path), 'head': 'new'}
    tiny['model'] = {'name': 'resnet20', 'width': 4, 'blocks': (2, 1)}
    with pytest.raises(ValueError, match='shortcut: pad_both in the source, pad in the model'):
        jcls.build(tiny).init()
    tiny['model'] |= {'shortcut': 'pad_both', 'padding': 'same'}
    jcls.build(tiny).init()
    assert flatten_dict(jcls.build(tiny).init().params)


@pytest.mark.parametrize(
    ('config', 'strides'), [({}, False), ({'downsample_in_bottleneck': True}, True)]
)
def test_a_folder_of_transformers(tmp_path: Path, config: Any, strides: bool) -> None:
    """Its config.json has the names of the classes, and tells where bottlenecks stride."""
    artifact.save_tensors(tmp_path / 'model.safetensors', state('transformers', 'resnet50'))
    labels = {'id2label': {'0': 'a', '1': 'b', '2': 'c'}, 'model_type': 'resnet'}
    (tmp_path / 'config.json').write_text(json.dumps({**labels, **config}))
    metadata = imported.read(tmp_path).metadata
    assert metadata['classes'] == ['a', 'b', 'c']
    assert metadata['architecture'].get('stride_in_1x1', False) == strides
    assert not metadata['assumed'].keys() & {'classes', 'stride_in_1x1', 'padding', 'epsilon'}
    (tmp_path / 'config.json').write_text(json.dumps({**labels, 'hidden_act': 'gelu'}))
    with pytest.raises(ValueError, match="no ResNet of jcls is built with hidden_act='gelu'"):
        imported.read(tmp_path)


@pytest.mark.parametrize('stem', ['imagenet', 'cifar'])
def test_how_a_network_is_built_is_assumed(
    file: Any, tmp_path: Path, capsys: Any, stem: str
) -> None:
    """Strides, pools, filters, activations: no tensors tell, and jcls has no others."""
    path = file(state(stem=stem))
    assert main(['import', str(path), str(tmp_path / 'out')]) == 0
    said = capsys.readouterr().out
    first = 1 if stem == 'cifar' else 2
    assert f'strides = {first} in the stem, 1 in the first stage, 2 in each later one' in said
    assert 'blur = False  (jcls has no other: ' in said
    assert ('pool = ' in said) == (stem == 'imagenet')
    card, _ = artifact.read(tmp_path / 'out')
    assert card['assumed']['activation'] == {'value': 'relu', 'option': None}


def test_a_card_of_before_lists_names_alone(tmp_path: Path, file: Any) -> None:
    """It is read, revised and written anew; the values were not kept."""
    import_weights(file(state(name='resnet50')), tmp_path / 'in')
    path = tmp_path / 'in' / 'model.json'
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, 'assumed': ['classes', 'mean', 'stride_in_1x1']}))
    import_weights(tmp_path / 'in', tmp_path / 'out', stride_in_1x1=True, classes=list('abc'))
    again, _ = artifact.read(tmp_path / 'out')
    assert again['assumed'].keys() == {'mean'}
    assert again['architecture']['stride_in_1x1'] is True

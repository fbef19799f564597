"""Other systems' weights: the same numbers come out, and what does not fit is named."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.traverse_util import flatten_dict

import jcls
from helpers import golden_path
from jcls import models
from jcls.main import main
from jcls.tools.import_ import import_weights, read_classes
from jcls.weights import artifact, imported, load
from jcls.weights.foreign import convert, files, hub, layouts
from jcls.weights.foreign.recognise import recognise
from jcls.weights.metadata import display_names, imagenet, preprocess, torchvision_metadata

GOLDEN = golden_path('weights')
LABELS = (0, 2, 4, 6)  # of make_weights.py
NETS = {  # file, layout, preset, width, blocks
    'tv_bottleneck.pth': ('torch', 'resnet50', 4, (1, 2, 1, 1)),
    'tv_basic.pth': ('torch', 'resnet18', 4, (2, 1, 1, 1)),
    'tv_resnext.pth': ('torch', 'resnext50_32x4d', 16, (1, 1)),
    'tv_wide.pth': ('torch', 'wide_resnet50_2', 2, (1, 1, 1, 1)),
    'timm_d_bottleneck': ('torch', 'resnet50d', 4, (1, 1, 1, 1)),
    'timm_d_basic': ('torch', 'resnet18d', 4, (1, 1, 1, 1)),
    'mm_plain.pth': ('mmpretrain', 'resnet18', 4, (1, 1, 1, 1)),
    'mm_v1d.pth': ('mmpretrain', 'resnet50d', 2, (1, 1, 1, 1)),
    'paddle_basic.pdparams': ('paddle', 'resnet18', 2, (1, 1, 1, 1)),
    'paddle_bottleneck.pdparams': ('paddle', 'resnet50', 2, (1, 1, 1, 1)),
    'paddle_vd.pdparams': ('paddle', 'resnet50d', 2, (1, 1, 1, 1)),
}


def images(size: int, count: int) -> np.ndarray:
    """The images of make_weights.py, [count, size, size, 3]."""
    blocks = -(-size // 8)
    raw = np.random.PCG64(1000 * size + count).random_raw
    coarse = raw(count * 3 * blocks * blocks) >> 56
    coarse = coarse.reshape(count, 3, blocks, blocks).repeat(8, 2).repeat(8, 3)
    fine = (raw(count * 3 * size * size) >> 56).reshape(count, 3, size, size)
    levels = coarse[:, :, :size, :size].astype(np.float32) + fine.astype(np.float32)
    return ((levels - 256) / 64).transpose(0, 2, 3, 1)


def built(model: models.ResNet) -> dict[str, Any]:
    """The fields that the parameters depend on."""
    names = ('block', 'blocks', 'width', 'stem', 'shortcut', 'groups', 'inner_ratio',
             'project_first', 'num_classes')  # fmt: skip
    return {name: getattr(model, name) for name in names}


def apart(found: Any, wanted: Any) -> float:
    """The largest difference over the largest entry."""
    return float(np.abs(np.asarray(found) - wanted).max() / np.abs(wanted).max())


@pytest.fixture(scope='module')
def numbers(golden: Any) -> Any:
    return golden('weights/weights.npz')


@pytest.mark.parametrize('file', NETS)
def test_logits_are_the_peers(file: str, numbers: Any) -> None:
    """Read from the peer's own file, a network gives the peer's logits, at an odd size, too."""
    _, preset, width, blocks = NETS[file]
    model, variables = jcls.load(GOLDEN / file)
    wanted = models.create(preset, width=width, blocks=blocks, num_classes=7)
    first = file == 'paddle_basic.pdparams'
    assert built(model) == {**built(wanted), 'project_first': first}
    for size in (64, 75):
        logits = model.apply(variables, images(size, 2), train=False)
        assert apart(logits, numbers[f'{file.split(".")[0]}/logits{size}']) < 1e-5


@pytest.mark.parametrize('file', [file for file in NETS if file.startswith('tv')])
def test_a_training_step_is_the_peers(file: str, numbers: Any) -> None:
    """Loss, running statistics and gradients of one training step, from the peer's own file.

    Of tv_wide.pth, helpers.compiler.QUICK compiles the activations of the stem twice, with other
    roundings: a gradient of max pooling that asks for equality is wrong there.
    """
    net = file.split('.')[0]
    model, variables = jcls.load(GOLDEN / file)

    def loss_of(params: Any) -> Any:
        logits, changed = model.apply(
            {**variables, 'params': params}, images(64, 4), train=True, mutable=['batch_stats']
        )
        labels = jnp.asarray(LABELS)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), changed

    (loss, changed), gradients = jax.jit(jax.value_and_grad(loss_of, has_aux=True))(
        variables['params']
    )
    assert loss == pytest.approx(numbers[f'{net}/loss'], rel=1e-5)
    found = flatten_dict({'params': gradients, **changed}, sep='/')
    compared = 0
    for path, name in layouts.tensors(model, layouts.TORCH).items():
        kind = 'stats' if path.startswith('batch_stats') else 'grads'
        if f'{net}/{kind}/{name}' in numbers:
            wanted = layouts.to_own(numbers[f'{net}/{kind}/{name}'], layouts.TORCH)
            assert apart(found[path], wanted) < 2e-4, path
            compared += 1
    assert compared > 24


def test_every_tensor_is_accounted_for() -> None:
    """Loaded, skipped and missing: every tensor of the file is in one of them."""
    weights = imported.read(GOLDEN / 'tv_basic.pth')
    raw = files.read(GOLDEN / 'tv_basic.pth').tensors
    assert {row.name for row in (*weights.report.loaded, *weights.report.skipped)} == set(raw)
    assert all(row.name.endswith('num_batches_tracked') for row in weights.report.skipped)
    assert weights.report.missing == []
    assert {row.own for row in weights.report.loaded} == set(
        flatten_dict(weights.variables, sep='/')
    )


def shapes_in(layout: layouts.Layout, model: models.ResNet) -> dict[str, tuple[int, ...]]:
    """The shapes that the model's tensors have in a layout."""
    own = flatten_dict(convert.shapes_of(model), sep='/')
    return {
        name: layouts.to_foreign(np.broadcast_to(np.float32(0), own[path].shape), layout).shape
        for path, name in layouts.tensors(model, layout).items()
    }


@pytest.mark.parametrize('name', models.MODELS)
def test_every_preset_is_recognised_in_every_layout(name: str) -> None:
    """From names and shapes alone, in whatever system it was saved."""
    for system, layout in layouts.LAYOUTS.items():
        if system == 'paddle' and name in CIFAR:
            continue  # its stages cannot be told without shortcuts; PaddleClas has no such nets
        model = models.create(name, num_classes=11)
        if model.stem == 'deep' and 'deep' not in layout.stems:
            continue
        if system == 'pytorch_cifar' and name in CIFAR:  # akamaster's, whose zeros lie otherwise
            model = models.create(name, num_classes=11, shortcut='pad_both')
        if system == 'paddle' and model.block == 'basic':
            model = models.create(name, num_classes=11, project_first=True)
        if system == 'paddle_older' and model.stem == 'deep' and model.groups == 1:
            continue  # there these names are ResNet_vc's, see below
        found, section = recognise(shapes_in(layout, model))
        assert found is layout
        assert built(models.create(**section)) == built(model)


CIFAR = [name for name, preset in models.PRESETS.items() if preset['shortcut'] == 'pad']


def test_paddles_own_networks() -> None:
    """ResNet200_vd is deeper in other stages, ResNet_vc has the stem of "vd" alone."""
    model = models.create('resnet200d', blocks=(3, 12, 48, 3))
    _, section = recognise(shapes_in(layouts.PADDLE, model))
    assert built(models.create(**section)) == built(model)
    model = models.create('resnet50', stem='deep')
    _, section = recognise(shapes_in(layouts.PADDLE_OLDER, model))
    assert built(models.create(**section)) == built(model)


def changed(**changes: Any) -> dict[str, np.ndarray]:
    """tv_basic with tensors replaced, added, or (None) removed; __ stands for a dot."""
    tensors = dict(files.read(GOLDEN / 'tv_basic.pth').tensors)
    for name, value in changes.items():
        tensors[name.replace('__', '.')] = value
    return {name: value for name, value in tensors.items() if value is not None}


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'layer1__0__se__fc__weight': np.zeros((4, 1))},
            r'nearest is resnet18 with blocks=\(2, 1, 1, 1\), width=4, but:\n'
            r'  - layer1.0.se.fc.weight \(4, 1\): resnet18 has no such tensor',
        ),
        ({'bn1__running_var': None}, r'\+ bn1.running_var, for batch_stats/stem/norm1/var \(4,\)'),
        (
            {'layer2__0__conv1__weight': np.zeros((8, 4, 5, 5), np.float32)},
            r'! layer2.0.conv1.weight: \(5, 5, 4, 8\), but params/stage2_block1/conv1/kernel is',
        ),
        ({'fc__bias': np.zeros(7, np.int64)}, r'! fc.bias: numbers of type int64'),
        ({'conv1__weight': None}, r'not the weights of a ResNet.*the first tensors are bn1'),
        ({'layer1__0__conv1__weight': None}, r'it has no layer1.0.conv1.weight'),
        ({'layer1__0__conv2__weight': None}, r'it has no layer1.0.conv2.weight'),  # as ResNeSt's
        ({'conv1__6__weight': np.zeros((4, 2, 3, 3))}, r'it has no conv1.0.weight'),
        ({'layer1__0__conv2__weight': np.zeros(4)}, r'layer1.0.conv2.weight has the shape \(4,\)'),
    ],
)
def test_what_is_no_resnet_of_jcls_names_the_nearest(changes: Any, message: str) -> None:
    """One tensor more, less, or of another shape or type is named, and so is the nearest preset."""
    with pytest.raises(ValueError, match=re.compile(message, re.DOTALL)):
        convert.convert(changed(**changes))


def test_other_stems_and_groups_are_refused() -> None:
    """timm's tiered stem and a ResNeXt that is no preset are no network of jcls."""
    shapes = shapes_in(layouts.TORCH, models.create('resnet50d'))
    tiered = shapes | {'conv1.0.weight': (24, 3, 3, 3), 'conv1.3.weight': (32, 24, 3, 3)}
    with pytest.raises(ValueError, match='its deep stem is 24, 32, 64 channels wide'):
        recognise(tiered)
    grouped = {
        name: (s[0], s[1] // 4, 3, 3) if '.conv2.' in name else s
        for name, s in shapes_in(layouts.TORCH, models.create('resnet50')).items()
    }
    with pytest.raises(ValueError, match=r'the nearest, .*groups=4'):
        recognise(grouped)


def test_names_of_wrappers_are_removed() -> None:
    """DistributedDataParallel's and torch.compile's prefixes, as timm removes them."""
    plain = convert.convert(changed())
    for prefix in ('module.', '_orig_mod.', 'module._orig_mod.'):
        wrapped = convert.convert({prefix + name: value for name, value in changed().items()})
        jax.tree.map(np.testing.assert_array_equal, wrapped.variables, plain.variables)


def test_half_precision_becomes_float32() -> None:
    """bfloat16 and float16 are taken as they are, in parameter precision."""
    for dtype in (jnp.bfloat16, np.float16):
        halves = {k: v.astype(dtype) for k, v in changed().items() if v.dtype == np.float32}
        for leaf in jax.tree.leaves(convert.convert(halves).variables):
            assert leaf.dtype == np.float32


# What is known beside the weights


def test_torchvisions_own_files_are_known_by_their_hash() -> None:
    """Preprocessing and published accuracy, which are not in the file."""
    known = torchvision_metadata('resnet50-11ad3fa6.pth')
    assert known['published'] == {'top1': 0.80858, 'top5': 0.95434}
    assert known['preprocess'] == preprocess(232, 224)
    assert torchvision_metadata('resnet50-0676ba61.pth')['preprocess'] == preprocess(256, 224)
    assert torchvision_metadata('mine.pth') == {}


def test_a_file_that_merely_has_torchvisions_name_is_not_its(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is published is of the file with the hash, which finetuned weights have no more."""
    path = tmp_path / 'resnet18-f37072fd.pth'
    shutil.copy(GOLDEN / 'tv_basic.pth', path)
    metadata, _ = load.read(path)
    assert 'published' not in metadata
    assert {'classes', 'mean', 'std', 'preprocess'} <= metadata['assumed'].keys()
    assert 'its SHA-256 begins with' in caplog.text


@pytest.mark.parametrize('name', models.MODELS)
def test_every_preset_is_a_plain_name(name: str) -> None:
    """What jcls export writes for timm can be read again."""
    assert re.fullmatch(hub.PLAIN, name)


@pytest.mark.parametrize(
    ('changes', 'refused'),
    [
        ({'architecture': 'resnet50.a1_in1k'}, None),
        ({'architecture': 'gluon_resnet50_v1d'}, None),
        ({'architecture': 'resnext50d_32x4d'}, None),
        ({'architecture': 'tv_resnet34'}, None),
        ({'architecture': 'resnetaa50'}, 'is of resnetaa50, which is no ResNet of jcls'),
        ({'architecture': 'resnetblur18'}, 'resnetblur18'),
        ({'architecture': 'ecaresnetlight'}, 'ecaresnetlight'),
        ({'architecture': 'seresnet18'}, 'seresnet18'),
        ({'architecture': 'resnet50_gn'}, 'resnet50_gn'),
        ({'architecture': 'resnetv2_50'}, 'resnetv2_50'),
        ({'model_args': {'in_chans': 3, 'drop_rate': 0.1, 'output_stride': 32}}, None),
        ({'model_args': {'aa_layer': 'avg'}}, "no ResNet of jcls is built with aa_layer='avg'"),
        ({'model_args': {'output_stride': 8, 'act_layer': 'silu'}}, "output_stride=8, act_layer='"),
        ({'global_pool': 'catavgmax'}, "global_pool='catavgmax'"),
        ({'model_args': 3}, 'does not describe a ResNet of timm'),
    ],
)
def test_what_timm_says_is_another_network_is_refused(
    tmp_path: Path, changes: Any, refused: str | None
) -> None:
    """Some have the tensors of a ResNet and compute something else: config.json tells."""
    shutil.copytree(GOLDEN / 'timm_d_basic', tmp_path / 'in')
    config = json.loads((tmp_path / 'in' / 'config.json').read_text())
    (tmp_path / 'in' / 'config.json').write_text(json.dumps({**config, **changes}))
    if refused is None:
        assert files.read(tmp_path / 'in').metadata['mean'] == config['pretrained_cfg']['mean']
    else:
        with pytest.raises(ValueError, match=f'config.json.*{refused}'):
            files.read(tmp_path / 'in')


def test_a_backbone_has_no_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The names that mmpretrain keeps are of a classifier that may not be there; a user's are an
    error then."""
    tensors = {name: v for name, v in changed().items() if not name.startswith('fc.')}
    monkeypatch.setattr(
        files, 'read', lambda *_, **__: files.Foreign(tensors, {'classes': ['a', 'b']})
    )
    assert imported.read(GOLDEN / 'tv_basic.pth').metadata['classes'] == []
    with pytest.raises(ValueError, match=r'2 class names, but the classifier of .* has 0'):
        imported.read(GOLDEN / 'tv_basic.pth', known={'classes': ['a', 'b']})


def test_weights_for_grey_images_are_read(tmp_path: Path) -> None:
    """The first kernel tells the channels; the usual mean and deviation are averaged for them."""
    grey = changed(conv1__weight=changed()['conv1.weight'][:, :1])
    artifact.save_tensors(tmp_path / 'grey.safetensors', grey)
    metadata, variables = load.read(tmp_path / 'grey.safetensors')
    assert variables['params']['stem']['conv1']['kernel'].shape == (7, 7, 1, 4)
    assert metadata['image_shape'] == [224, 224, 1]
    assert (metadata['mean'], metadata['std']) == ([pytest.approx(0.449)], [pytest.approx(0.226)])


def test_timms_config_is_read() -> None:
    """Mean, deviation, size and interpolation stand beside timm's weights."""
    metadata, _ = load.read(GOLDEN / 'timm_d_basic')
    settings = json.loads((GOLDEN / 'timm_d_basic' / 'config.json').read_text())['pretrained_cfg']
    assert metadata['mean'] == settings['mean']
    size, crop = settings['input_size'][-1], settings['crop_pct']
    assert metadata['preprocess'] == preprocess(int(size / crop), size, settings['interpolation'])


def test_class_names() -> None:
    """mmpretrain's are in the file; 1000 without names are ImageNet's, shown as words."""
    assert load.read(GOLDEN / 'mm_v1d.pth')[0]['classes'] == [f'class {i}' for i in range(7)]
    assert [*imagenet()][:2] == ['n01440764', 'n01443537']
    assert len(set(imagenet().values())) == 1000
    assert display_names(['n01440764', 'mine']) == ['tench', 'mine']


@pytest.mark.parametrize('content', ['cat\r\n dog\n\nZürich', '["cat", "dog", "Zürich"]'])
@pytest.mark.parametrize('mark', ['', '\ufeff'])
def test_a_file_of_class_names(tmp_path: Path, content: str, mark: str) -> None:
    """Lines or JSON, also with the byte-order mark that Windows writes."""
    (tmp_path / 'names').write_bytes((mark + content).encode())
    assert read_classes(str(tmp_path / 'names')) == ['cat', 'dog', 'Zürich']


def test_classes_with_one_name_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """ImageNet's own words have 'crane' and 'maillot' twice, so they are taken."""
    names = ['crane', 'ox', 'maillot', 'crane', 'maillot', 'a', 'b']
    import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'out', classes=names)
    assert 'have the same name, and answers do not tell them apart: crane, maillot' in caplog.text
    caplog.clear()
    import_weights(tmp_path / 'out', tmp_path / 'other', classes=list('abcdefg'))
    assert caplog.text == ''
    import_weights(tmp_path / 'other', tmp_path / 'again', classes=names)
    assert 'crane, maillot' in caplog.text
    assert artifact.read(tmp_path / 'again')[0]['classes'] == names


# Folders of jcls import


def test_an_imported_folder_is_the_same_model(tmp_path: Path) -> None:
    """Bit for bit, and with its metadata."""
    report = import_weights(GOLDEN / 'timm_d_basic', tmp_path / 'out', classes=list('abcdefg'))
    model, variables = jcls.load(tmp_path / 'out')
    wanted, theirs = jcls.load(GOLDEN / 'timm_d_basic')
    assert len(report.loaded) == len(flatten_dict(variables, sep='/'))
    assert built(model) == built(wanted)
    jax.tree.map(np.testing.assert_array_equal, variables, theirs)
    metadata = json.loads((tmp_path / 'out' / 'model.json').read_text())
    assert metadata['classes'] == list('abcdefg')
    assert metadata['assumed'] == {}


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'ema': 'yes'}, "ema='yes', but .* holds one set"),
        ({'prefix': 'backbone'}, "prefix='backbone': nothing of .* it has params of head, stage1_"),
    ],
)
def test_nothing_asked_of_an_imported_folder_is_ignored(
    tmp_path: Path, arguments: Any, message: str
) -> None:
    """It has no averages and no prefixes, and says so."""
    import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'out')
    with pytest.raises(ValueError, match=message):
        load.read(tmp_path / 'out', **arguments)


def test_an_imported_folder_is_imported_again(tmp_path: Path, capsys: Any) -> None:
    """Unchanged but for what is asked; model.json follows."""
    import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'grey', channels=1)
    grey, _ = artifact.read(tmp_path / 'grey')
    for folder in ('grey', 'run'):  # what a run exports has no 'assumed'
        metadata = {
            key: value for key, value in grey.items() if folder == 'grey' or key != 'assumed'
        }
        (tmp_path / 'grey' / 'model.json').write_text(json.dumps(metadata))
        assert main(['import', str(tmp_path / 'grey'), str(tmp_path / folder / '2')]) == 0
        assert 'Error' not in capsys.readouterr().out
        again, variables = artifact.read(tmp_path / folder / '2')
        assert {**again, 'assumed': []} == {**grey, 'assumed': []}
        assert variables['params']['stem']['conv1']['kernel'].shape == (7, 7, 1, 4)
    import_weights(tmp_path / 'grey', tmp_path / 'out', resize=48, crop=40, classes=list('abcdefg'))
    changed_card, _ = artifact.read(tmp_path / 'out')
    assert changed_card['image_shape'] == [40, 40, 1]
    assert changed_card['classes'] == list('abcdefg')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'classes': ['a', 'b']}, '2 class names, but the classifier of .* has 7'),
        ({'resize': -3, 'crop': 2}, 'resize=-3, crop=2: .*size=-3: at least 1'),
        ({'resize': 3, 'crop': 2, 'interpolation': 'lanczos'}, "unknown interpolation 'lanczos'"),
        ({'channels': 3}, r'channels=3: these weights take images of 1 channel\(s\)'),
    ],
)
def test_what_is_no_change_of_an_imported_folder(
    tmp_path: Path, arguments: Any, message: str
) -> None:
    """It is refused as of a file, and nothing is written."""
    import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'in', channels=1)
    with pytest.raises(ValueError, match=message):
        import_weights(tmp_path / 'in', tmp_path / 'a' / 'b', **arguments)
    assert [path.name for path in tmp_path.iterdir()] == ['in']


@pytest.mark.parametrize('channels', [1, 4, 6])
def test_other_channels(tmp_path: Path, channels: int) -> None:
    """Of one channel, a grey image gives what it gave in colour; others repeat, by 3 / channels."""
    import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'out', channels=channels)
    model, variables = jcls.load(tmp_path / 'out')
    colour = jcls.load(GOLDEN / 'tv_basic.pth')[1]
    kernel = np.asarray(colour['params']['stem']['conv1']['kernel'])
    found = np.asarray(variables['params']['stem']['conv1']['kernel'])
    if channels == 1:
        grey = images(64, 2)[..., :1]
        wanted = model.apply(colour, grey.repeat(3, -1), train=False)
        assert apart(model.apply(variables, grey, train=False), np.asarray(wanted)) < 1e-5
    else:
        for i in range(channels):
            np.testing.assert_allclose(found[:, :, i], kernel[:, :, i % 3] * 3 / channels)
    assert len(load.read(tmp_path / 'out')[0]['mean']) == channels


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is there is left alone; one that fails half-way does not appear."""
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine').touch()
    with pytest.raises(ValueError, match='exists and is not empty'):
        import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'full')
    monkeypatch.setattr(artifact, 'save_tensors', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'new')
    with pytest.raises(ZeroDivisionError):
        import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'a' / 'b' / 'new')
    assert [path.name for path in tmp_path.iterdir()] == ['full']


def test_where_the_folder_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """~ is the home, for what is printed, too; a folder that is there is refused before all."""
    monkeypatch.setenv('HOME', str(tmp_path))
    assert main(['import', str(GOLDEN / 'tv_basic.pth'), '~/in']) == 0
    assert main(['export', '~/in', '~/out']) == 0
    assert (tmp_path / 'out' / 'model.json').exists()
    monkeypatch.setattr(imported, 'fetch', lambda *_: pytest.fail('it was fetched'))
    for refused in (import_weights, jcls.export):
        with pytest.raises(ValueError, match='out exists and is not empty'):
            refused('https://example.org/x.pth', tmp_path / 'out')


@pytest.mark.parametrize(
    ('damage', 'message'),
    [
        (lambda folder: (folder / 'model.json').unlink(), 'model.json cannot be read'),
        (lambda folder: (folder / 'model.json').write_text('{}'), 'does not describe'),
        (lambda folder: (folder / 'model.json').write_text('{'), 'model.json is damaged'),
        (lambda f: (f / artifact.WEIGHTS).write_bytes(b'1234'), 'weights.safetensors cannot be'),
    ],
)
def test_a_damaged_folder(tmp_path: Path, damage: Any, message: str) -> None:
    """Says which file."""
    import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'out')
    damage(tmp_path / 'out')
    with pytest.raises(ValueError, match=message):
        jcls.load(tmp_path / 'out')


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'norm': None}, 'it lacks norm'),
        ({'norm': {'eps': 1}}, 'eps'),
        ({'classes': ['a']}, '1 class names, but num_classes is 7'),
        ({'mean': [0.5]}, 'mean, std and image_shape have different channels'),
        ({'image_shape': []}, 'mean, std and image_shape have different channels'),
        ({'preprocess': [3]}, 'preprocess is no list of operations'),
        ({'architecture': {'name': 'resnet', 'num_classes': 7}}, "unknown model 'resnet'"),
        ({'architecture': {'name': 'resnet18', 'num_classes': 7, 'depth': 1}}, 'depth'),
    ],
)
def test_a_card_that_lacks_something(tmp_path: Path, changes: Any, message: str) -> None:
    """model.json is named, with what is wrong; for the finetuning config, too."""
    import_weights(GOLDEN / 'tv_basic.pth', tmp_path / 'out')
    path = tmp_path / 'out' / 'model.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    for use in (load.read, imported.sections):
        with pytest.raises(ValueError, match=f'{path} does not describe a model: .*{message}'):
            use(tmp_path / 'out')
    path.write_text('[1, 2]')
    with pytest.raises(ValueError, match=f'{path} is damaged: it is no JSON object'):
        imported.sections(tmp_path / 'out')


@pytest.mark.parametrize(
    ('path', 'arguments', 'message'),
    [
        ('nowhere.pth', {}, 'no such file or folder'),
        ('tv_basic.pth', {'classes': ['a']}, '1 class names, but the classifier of .* has 7'),
        ('tv_basic.pth', {'resize': 256}, 'resize and crop go together'),
        ('tv_basic.pth', {'channels': 0}, 'channels=0: at least 1'),
        ('tv_basic.pth', {'prefix': 'encoder'}, "prefix='encoder': nothing in .* it has bn1, "),
        ('tv_basic.pth', {'ema': 'yes'}, "ema='yes', but .* has no averaged weights"),
        ('weights.npz', {}, 'weights.npz'),
    ],
)
def test_what_cannot_be_imported(tmp_path: Path, path: str, arguments: Any, message: str) -> None:
    """Every mistake has its message, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        import_weights(GOLDEN / path, tmp_path / 'out', **arguments)
    assert not (tmp_path / 'out').exists()


# To start a run from


GREY = {'name': 'synthetic', 'size': 8, 'channels': 1, 'num_classes': 10, 'examples': 40,
        'mean': (0.5,), 'std': (0.5,)}  # fmt: skip


def test_a_run_starts_from_them(tiny: Any) -> None:
    """init.source takes other systems' files, adapts the first convolution and makes a new head."""
    tiny['model'] = {'name': 'resnet18', 'width': 4, 'blocks': (2, 1, 1, 1)}
    tiny['init'] = {'source': str(GOLDEN / 'tv_basic.pth'), 'head': 'new'}
    tiny['data'] = GREY
    found = flatten_dict(jcls.build(tiny).init().params, sep='/')
    wanted = flatten_dict(jcls.load(GOLDEN / 'tv_basic.pth')[1]['params'], sep='/')
    for path, leaf in found.items():
        if path == 'stem/conv1/kernel':
            wanted[path] = convert.adapt_channels(np.asarray(wanted[path]), 1)
        if not path.startswith('head/'):
            np.testing.assert_array_equal(leaf, wanted[path])
    assert found['head/kernel'].shape == (32, 10)


def test_another_normalisation_is_a_warning(tiny: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The source's mean and deviation are those of its images, and were learned with."""
    tiny['model'] = {'name': 'resnet18', 'width': 4, 'blocks': (2, 1, 1, 1)}
    tiny['init'] = {'source': str(GOLDEN / 'tv_basic.pth'), 'head': 'new'}
    colour = {**GREY, 'channels': 3, 'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}
    for mean, warned in (((0.5, 0.5, 0.5), True), (colour['mean'], False)):
        caplog.clear()
        jcls.build({**tiny, 'data': {**colour, 'mean': mean}}).check_sources(start=True)
        assert ('normalised with mean (0.485, 0.456, 0.406)' in caplog.text) == warned


@pytest.mark.parametrize(
    ('model', 'init', 'message'),
    [
        ({}, {'head': 'keep'}, "config.init.head='keep', but the classifier"),
        ({'blocks': (1, 1, 1, 1)}, {}, r'! blocks: \(2, 1, 1, 1\) in the source'),
        ({}, {'prefix': 'backbone'}, "config.init: prefix='backbone': nothing in"),
        ({}, {'step': '3'}, "step='3', but .* holds one set of weights"),
    ],
)
def test_what_a_run_cannot_start_from(tiny: Any, model: Any, init: Any, message: str) -> None:
    """The same messages as of a workdir."""
    tiny['model'] = {'name': 'resnet18', 'width': 4, 'blocks': (2, 1, 1, 1), **model}
    tiny['init'] = {'source': str(GOLDEN / 'tv_basic.pth'), 'head': 'new', **init}
    with pytest.raises(ValueError, match=message):
        jcls.build(tiny).init()


def test_a_backbone_alone(tiny: Any, tmp_path: Path) -> None:
    """Without a classifier a run can start, and predict and import say what is missing."""
    from safetensors.numpy import save_file

    tensors = {k: v for k, v in changed().items() if not k.startswith('fc.')}
    path = tmp_path / 'backbone.safetensors'
    save_file({f'encoder.{name}': np.ascontiguousarray(v) for name, v in tensors.items()}, path)
    tiny['model'] = {'name': 'resnet18', 'width': 4, 'blocks': (2, 1, 1, 1)}
    tiny['init'] = {'source': str(path), 'prefix': 'encoder', 'head': 'new'}
    assert jcls.build(tiny).init().params['head']['kernel'].shape == (32, 10)
    with pytest.raises(ValueError, match=r"has no classifier; .*config.init.head='new'"):
        import_weights(path, tmp_path / 'out', prefix='encoder')


def test_a_teacher_may_be_another_systems(tiny: Any, tmp_path: Path) -> None:
    """Distillation takes imported weights as it takes a workdir's."""
    digits = [str(i) for i in range(10)]
    shutil.copytree(GOLDEN / 'timm_d_basic', tmp_path / 'teacher')
    tensors = files.read(tmp_path / 'teacher').tensors
    tensors['fc.weight'], tensors['fc.bias'] = np.ones((10, 32)), np.ones(10)
    artifact.save_tensors(tmp_path / 'teacher' / 'model.safetensors', tensors)
    import_weights(tmp_path / 'teacher', tmp_path / 'out', channels=1, classes=digits)
    tiny['data'] = GREY
    tiny['distill'] = {'name': 'soft', 'teacher': str(tmp_path / 'out')}
    batch = next(jcls.build(tiny).train_batches())
    assert batch['teacher'].shape == (8, 10)

"""`jcls export`: other systems get the same tensors, and programs that compute the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from PIL import Image

import jcls
from helpers import golden_path
from jcls import models
from jcls.host.tensorflow import tf
from jcls.main import main
from jcls.tools import export
from jcls.tools.export import program
from jcls.tools.import_ import import_weights
from jcls.weights import artifact, imported
from jcls.weights.foreign import convert, files, layouts

GOLDEN = golden_path('weights')
CLASSES = 7


def photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth, with some noise; uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return (smooth + rng.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported network of 7 classes that looks at 64 pixels."""
    out = tmp_path_factory.mktemp('weights') / 'out'
    import_weights(GOLDEN / 'tv_basic.pth', out, resize=72, crop=64)
    return out


@pytest.mark.parametrize(
    ('file', 'layout'),
    [
        ('tv_resnext.pth', layouts.TORCH),
        ('timm_d_bottleneck', layouts.TORCH),
        ('mm_v1d.pth', layouts.MMPRETRAIN),
        ('paddle_basic.pdparams', layouts.PADDLE),
    ],
)
def test_the_peers_tensors_come_back_bit_for_bit(file: str, layout: layouts.Layout) -> None:
    """Import and export give every tensor of the source with its name, shape and bits."""
    raw = files.read(GOLDEN / file).tensors
    model, variables = jcls.load(GOLDEN / file)
    found = convert.state_dict(model, variables, layout)
    kept = {name for name in raw if not name.endswith('num_batches_tracked')}
    assert set(found) == kept
    for name in kept:
        assert found[name].dtype == raw[name].dtype
        np.testing.assert_array_equal(found[name], raw[name])


@pytest.mark.parametrize('format', ['jcls', 'torchvision'])
def test_an_exported_folder_comes_back_bit_for_bit(
    weights: Path, tmp_path: Path, format: str
) -> None:
    """What was exported can be loaded again: the same bits, and model.json beside them."""
    jcls.export(weights, tmp_path / 'out', format=format)
    jax.tree.map(
        np.testing.assert_array_equal, jcls.load(tmp_path / 'out')[1], jcls.load(weights)[1]
    )
    cards = [json.loads((f / 'model.json').read_text()) for f in (weights, tmp_path / 'out')]
    assert cards[0] == cards[1]


def test_timms_folder(tmp_path: Path) -> None:
    """config.json has what timm asks for; the resize that it computes is model.json's."""
    model = models.create('resnet18d', num_classes=2)
    variables = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype), convert.shapes_of(model)
    )
    metadata = {
        'architecture': {'name': 'resnet18d', 'num_classes': 2},
        'norm': {},
        'image_shape': [224, 224, 3],
        'classes': ['cat', 'dog'],
        'mean': [0.5, 0.4, 0.3],
        'std': [0.2, 0.2, 0.2],
        'preprocess': [
            {'name': 'resize', 'size': 235, 'interpolation': 'bicubic'},
            {'name': 'center_crop', 'size': 224},
        ],
    }
    artifact.write(tmp_path / 'in', metadata, variables)
    jcls.export(tmp_path / 'in', tmp_path / 'out', format='timm')
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    settings = config['pretrained_cfg']
    assert (config['architecture'], config['num_classes']) == ('resnet18d', 2)
    assert config['label_names'] == ['cat', 'dog']
    assert settings['first_conv'] == 'conv1.0'
    assert settings['interpolation'] == 'bicubic'
    assert int(224 / settings['crop_pct']) == 235
    (tmp_path / 'out' / 'model.json').unlink()
    from jcls.weights import load

    again, found = load.read(tmp_path / 'out')
    assert {key: again[key] for key in ('mean', 'std', 'classes', 'preprocess')} == {
        key: metadata[key] for key in ('mean', 'std', 'classes', 'preprocess')
    }
    assert set(flatten_dict(found, sep='/')) == set(flatten_dict(variables, sep='/'))


def small_card(**changes: Any) -> dict[str, Any]:
    """A model.json of a network that timm and torchvision have."""
    return {
        'jcls': '0',
        'architecture': {'name': 'resnet18', 'num_classes': 2},
        'norm': {},
        'image_shape': [32, 32, 3],
        'classes': ['cat', 'dog'],
        'mean': [0.5, 0.4, 0.3],
        'std': [0.2, 0.2, 0.2],
        'exif': True,
        'preprocess': [{'name': 'resize', 'size': 44}, {'name': 'center_crop', 'size': 40}],
        **changes,
    }


@pytest.fixture(scope='module')
def zeros() -> Any:
    """The variables of that network."""
    shapes = convert.shapes_of(models.create('resnet18', num_classes=2))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)


def test_timm_is_told_the_size_of_evaluation() -> None:
    """Whatever image_shape says, of older runs that of training."""
    config = export.timm_config(models.create('resnet18'), small_card())
    assert config['pretrained_cfg']['input_size'] == [3, 40, 40]
    assert int(40 / config['pretrained_cfg']['crop_pct']) == 44


@pytest.mark.parametrize('format', ['torchvision', 'timm'])
def test_model_json_beside_others_tensors_is_the_card(
    zeros: Any, tmp_path: Path, format: str
) -> None:
    """Classes, preprocessing and EXIF are known again, to predict, import and start from; one that
    is of another network is refused."""
    metadata = small_card()
    artifact.write(tmp_path / 'in', metadata, zeros)
    jcls.export(tmp_path / 'in', tmp_path / 'out', format=format)
    found = imported.read(tmp_path / 'out').metadata
    assert {key: found[key] for key in metadata} == metadata
    import_weights(tmp_path / 'out', tmp_path / 'again', classes=['a', 'b'])
    found, _ = artifact.read(tmp_path / 'again')
    assert {key: found[key] for key in metadata} == {**metadata, 'classes': ['a', 'b']}
    assert imported.sections(tmp_path / 'out')['model']['name'] == 'resnet18'
    other = {**metadata, 'architecture': {**metadata['architecture'], 'blocks': [1, 1, 1, 1]}}
    (tmp_path / 'out' / 'model.json').write_text(json.dumps(other))
    with pytest.raises(
        ValueError, match=r'another network .* blocks is \(2, 2, 2, 2\), not \(1, 1'
    ):
        imported.read(tmp_path / 'out')


@pytest.mark.parametrize(
    ('format', 'changes', 'message'),
    [
        ('torchvision', {'norm': {'epsilon': 1e-3}}, 'cannot hold config.norm.epsilon=0.001'),
        ('timm', {'norm': {'epsilon': 1e-3}}, 'cannot hold config.norm.epsilon=0.001'),
        ('timm', {'preprocess': []}, 'by nothing; timm.* can hold a resize and a center_crop'),
        ('timm', {'preprocess': [{'name': 'center_crop', 'size': 9}]}, 'by center_crop; timm'),
        ('stablehlo', {'preprocess': []}, 'by nothing; StableHLO can hold a resize'),
        ('savedmodel', {}, 'a SavedModel cannot turn images upright'),
    ],
)
def test_what_a_format_cannot_hold(
    zeros: Any, tmp_path: Path, format: str, changes: Any, message: str
) -> None:
    """It is said, and no folder stays behind, nor its parents."""
    artifact.write(tmp_path / 'in', small_card(**changes), zeros)
    with pytest.raises(ValueError, match=message):
        jcls.export(tmp_path / 'in', tmp_path / 'a' / 'b', format=format)
    assert [path.name for path in tmp_path.iterdir()] == ['in']


def test_an_exported_checkpoint_says_which_it_is(tmp_path: Path, tiny: Any) -> None:
    """model.json has the step and the metrics of these weights, not of the run's last ones."""
    tiny |= {'ema': {'name': 'timm', 'decay': 0.5}, 'duration': '6 steps'}
    tiny['evaluate'] |= {'every': '4 steps'}
    jcls.train(tiny, tmp_path / 'run', summary=False)
    last = json.loads((tmp_path / 'run' / 'model.json').read_text())
    cards = {}
    for step, ema in ((4, 'auto'), (6, 'no')):
        out = tmp_path / f'{step}'
        jcls.export(tmp_path / 'run', out, step=step, ema=ema)
        cards[step] = json.loads((out / 'model.json').read_text())
        assert (cards[step]['step'], cards[step]['averaged']) == (step, ema == 'auto')
    assert cards[6]['metrics']['eval/loss'] == last['metrics']['eval/loss']
    assert cards[4]['metrics']['eval/loss'] != last['metrics']['eval/loss']


@pytest.mark.parametrize('size', [*range(224, 257, 8), 235, 236, 288, 320])
def test_timm_computes_the_resize_from_a_quotient(size: int) -> None:
    """int(crop / crop_pct) is the size that was meant, whatever the rounding."""
    metadata = {
        'architecture': {'name': 'resnet18'},
        'image_shape': [224, 224, 3],
        'classes': [],
        'mean': [0, 0, 0],
        'std': [1, 1, 1],
        'preprocess': [{'name': 'resize', 'size': size}, {'name': 'center_crop', 'size': 224}],
    }
    config = export.timm_config(models.create('resnet18'), metadata)
    assert int(224 / config['pretrained_cfg']['crop_pct']) == size


# Programs


@pytest.mark.parametrize('method', ['bilinear', 'bicubic'])
@pytest.mark.parametrize('shape', [(90, 131), (131, 120), (64, 64), (40, 300)])
def test_the_exported_resize_is_pillows(shape: tuple[int, int], method: str) -> None:
    """Resize and central crop in JAX: Pillow's and torchvision's, but for rare roundings."""
    image = photo(*shape)
    height, width = shape
    short = min(shape)
    after = (64 * width // short, 64 * height // short)
    filters = {'bilinear': Image.Resampling.BILINEAR, 'bicubic': Image.Resampling.BICUBIC}
    resized = Image.fromarray(image).resize(after, filters[method])
    left, top = (round((side - 56) / 2) for side in after)
    wanted = np.asarray(resized.crop((left, top, left + 56, top + 56))).astype(int)
    found = np.asarray(program.resize_then_crop(jnp.asarray(image)[None], 64, 56, method))[0]
    assert np.abs(found - wanted).max() <= 1
    assert (found != wanted).mean() < 0.02


def test_a_crop_larger_than_the_image_has_black_around() -> None:
    """As torchvision pads."""
    found = program.resize_then_crop(jnp.asarray(photo(32, 32))[None], 32, 40, 'bilinear')
    np.testing.assert_array_equal(found[0, 4:36, 4:36], photo(32, 32))
    assert not found[0, :4].any()
    assert not found[0, :, 36:].any()


def test_stablehlo_predicts(weights: Path, tmp_path: Path) -> None:
    """Without jcls or Flax: pixels of images of any size to the logits behind jcls predict."""
    jcls.export(weights, tmp_path / 'out', format='stablehlo')
    blob = (tmp_path / 'out' / 'model.stablehlo').read_bytes()
    exported = jax.export.deserialize(bytearray(blob))
    assert {'cpu', 'cuda', 'tpu'} == set(exported.platforms)
    for shape in ((130, 177), (177, 130), (72, 72)):
        Image.fromarray(photo(*shape)).save(tmp_path / 'image.png')
        found = np.asarray(jax.nn.softmax(exported.call(np.stack([photo(*shape)] * 2))))
        assert found.shape == (2, CLASSES)
        assert by_name(weights, tmp_path / 'image.png') == pytest.approx(found[1], abs=1e-3)


def test_a_saved_model_predicts(weights: Path, tmp_path: Path) -> None:
    """TensorFlow alone: from JPEG and PNG files, or from pixels, to the same probabilities."""
    jcls.export(weights, tmp_path / 'out', format='savedmodel')
    assert (tmp_path / 'out' / 'model.json').exists()
    signatures = tf.saved_model.load(str(tmp_path / 'out')).signatures
    files = [tmp_path / 'a.jpg', tmp_path / 'b.png']
    for file, shape in zip(files, ((130, 177), (90, 72)), strict=True):
        Image.fromarray(photo(*shape)).save(file)
    contents = tf.constant([file.read_bytes() for file in files])
    found = signatures['serving_default'](images=contents)
    for file, probabilities in zip(files, found['probabilities'].numpy(), strict=True):
        assert by_name(weights, file) == pytest.approx(probabilities, abs=1e-5)
    np.testing.assert_allclose(
        tf.nn.softmax(found['logits']), found['probabilities'], rtol=1e-5, atol=1e-7
    )
    crop = photo(64, 64)
    Image.fromarray(photo(72, 72)).save(tmp_path / 'c.png')
    centre = photo(72, 72)[4:68, 4:68]
    pixels = signatures['pixels'](pixels=tf.constant(np.stack([crop, centre])))['probabilities']
    assert by_name(weights, tmp_path / 'c.png') == pytest.approx(pixels.numpy()[1], abs=1e-5)


def by_name(weights: Path, file: Path) -> np.ndarray:
    """The probabilities of `jcls predict` in the order of the classes."""
    found = jcls.predict(weights, [file], top=CLASSES)[0]['classes']
    table = {entry['name']: entry['probability'] for entry in found}
    return np.array([table[str(i)] for i in range(CLASSES)])


@pytest.mark.parametrize(
    ('file', 'format', 'message'),
    [
        ('timm_d_basic', 'torchvision', 'torchvision has no resnet18d'),
        ('tv_basic.pth', 'timm', 'timm has no resnet18 with another blocks, width'),
        ('tv_basic.pth', 'onnx', "unknown format 'onnx'"),
        ('nowhere', 'jcls', 'no such file or folder'),
    ],
)
def test_what_cannot_be_exported(tmp_path: Path, file: str, format: str, message: str) -> None:
    """Every mistake has its message, and nothing is written."""
    with pytest.raises(ValueError, match=message):
        jcls.export(GOLDEN / file, tmp_path / 'out', format=format)
    assert list(tmp_path.iterdir()) == []


def test_the_commands(tmp_path: Path, capsys: Any) -> None:
    """import and export print their tables and end with {loaded, skipped, missing}."""
    assert main(['import', str(GOLDEN / 'tv_basic.pth'), str(tmp_path / 'in'), '--json']) == 0
    lines = capsys.readouterr().out.rstrip().split('\n')
    found = json.loads(lines[-1])
    assert {'loaded', 'skipped', 'missing', 'assumed'} <= set(found)
    assert found['assumed']['mean'] == {'value': [0.485, 0.456, 0.406], 'option': '--mean'}
    assert found['loaded'][0] == {
        'own': 'params/stem/conv1/kernel', 'name': 'conv1.weight', 'shape': [4, 3, 7, 7],
    }  # fmt: skip
    assert 'resnet18 blocks=[2, 1, 1, 1] width=4, 7 classes' in lines[-2]
    assert '  std = 0.229, 0.224, 0.225  (--std: their standard deviation)' in lines
    assert any('stage2_block1/shortcut_conv' in line for line in lines)
    words = ['export', str(tmp_path / 'in'), str(tmp_path / 'out'), '--format', 'torchvision']
    assert main([*words, '--json']) == 0
    lines = capsys.readouterr().out.rstrip().split('\n')
    assert len(json.loads(lines[-1])['loaded']) == len(found['loaded'])
    assert lines[-2].endswith('model.json, model.safetensors')
    assert main(words) == 1
    assert 'exists and is not empty' in capsys.readouterr().err

"""A folder's config.json and preprocessor_config.json: what they say is used, or refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers import golden_path
from helpers.foreign import state
from jcls.tools.import_ import import_weights
from jcls.weights import artifact, imported
from jcls.weights.metadata import preprocess

TIMM = golden_path('weights') / 'timm_d_basic'
NAN = float('nan')


def timm(folder: Path, **settings: Any) -> Path:
    """A folder of timm with other settings."""
    shutil.copytree(TIMM, folder, dirs_exist_ok=True)
    config = json.loads((folder / 'config.json').read_text())
    config['pretrained_cfg'] |= settings
    (folder / 'config.json').write_text(json.dumps(config))
    return folder


def transformers(folder: Path, **fields: Any) -> Path:
    """A folder of transformers with these fields of its image processor."""
    artifact.save_tensors(folder / 'model.safetensors', state('transformers', 'resnet50'))
    labels = {'id2label': {'0': 'a', '1': 'b', '2': 'c'}, 'model_type': 'resnet'}
    (folder / 'config.json').write_text(json.dumps(labels))
    (folder / 'preprocessor_config.json').write_text(json.dumps(fields))
    return folder


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'std': [0, 0, 0]}, 'std=[0, 0, 0]: positive numbers of at most 1'),
        ({'std': [0.2, NAN, 0.2]}, 'std=[0.2, nan, 0.2]: positive numbers'),
        ({'std': [58.4, 57.1, 57.4]}, 'such as 0.229 for 58.4'),
        ({'mean': [123.7, 116.3, 103.5]}, 'mean=[123.7, 116.3, 103.5]: numbers from 0 to 1'),
        ({'mean': [-0.5, 0.5, 0.5]}, 'mean=[-0.5, 0.5, 0.5]: numbers from 0 to 1'),
        ({'mean': [NAN] * 3}, 'mean=[nan, nan, nan]: numbers from 0 to 1'),
        ({'mean': [0.5]}, 'mean and std have different channels'),
        ({'mean': 'imagenet'}, "mean='imagenet': numbers"),
        ({'interpolation': 'lanczos'}, "interpolation='lanczos': 'bilinear' or 'bicubic'"),
        ({'input_size': [3, -1, -1]}, 'input_size=-1: a whole number of pixels, at least 1'),
        ({'input_size': [3, 64, 96]}, 'input_size=[3, 64, 96]: of a square'),
        ({'crop_pct': 0}, 'crop_pct=0: a number above 0, at most 1'),
        ({'crop_pct': None}, 'crop_pct=None: a number above 0'),
    ],
)
def test_what_cannot_be_of_images_is_refused(tmp_path: Path, settings: Any, message: str) -> None:
    """The file and the field are named, with what is allowed."""
    folder = timm(tmp_path / 'in', **settings)
    with pytest.raises(ValueError, match=f'config.json.*{re.escape(message)}'):
        imported.read(folder)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ('[]', 'it is no JSON object'),
        ('{}', "it lacks 'mean'"),
        ('<html>', 'import the weights from another folder'),
        ('{"model_type": "vit"}', 'is of vit, which is no ResNet of jcls'),
    ],
)
def test_a_config_of_something_else(tmp_path: Path, content: str, message: str) -> None:
    folder = timm(tmp_path / 'in')
    (folder / 'config.json').write_text(content)
    with pytest.raises(ValueError, match=f'config.json.*{message}'):
        imported.read(folder)


def test_the_file_alone_is_of_its_folder(tmp_path: Path) -> None:
    """A network that its tensors do not tell apart is refused by the file's name, too."""
    folder = timm(tmp_path / 'in')
    assert (
        imported.read(folder / 'model.safetensors').metadata['mean']
        == (imported.read(folder).metadata['mean'])
    )
    config = json.loads((folder / 'config.json').read_text())
    (folder / 'config.json').write_text(json.dumps({**config, 'architecture': 'resnetblur18'}))
    for path in (folder, folder / 'model.safetensors'):
        with pytest.raises(ValueError, match='is of resnetblur18, which is no ResNet'):
            imported.read(path)
    (folder / 'model.safetensors').rename(folder / 'mine.safetensors')  # of something else
    imported.read(folder / 'mine.safetensors')


def test_squashed_images_are_like_cropped_ones(tmp_path: Path) -> None:
    """Of timm's sizes and interpolation, but still assumed."""
    metadata = imported.read(timm(tmp_path / 'in', crop_mode='squash')).metadata
    usual = imported.read(TIMM).metadata
    assert metadata['preprocess'] == usual['preprocess']
    assert metadata['image_shape'] == usual['image_shape']
    assert metadata['assumed']['preprocess']['value'] == metadata['preprocess']


HALF = {'image_mean': [0.5] * 3, 'image_std': [0.25] * 3}
CONVNEXT = {'image_processor_type': 'ConvNextImageProcessor', 'resample': 3}


@pytest.mark.parametrize(
    ('fields', 'steps', 'known'),
    [
        ({**CONVNEXT, 'size': 224}, preprocess(256, 224, 'bicubic'), True),
        (
            {**CONVNEXT, 'size': {'shortest_edge': 64}, 'crop_pct': 0.5},
            preprocess(128, 64, 'bicubic'),
            True,
        ),
        ({**CONVNEXT, 'size': {'shortest_edge': 384}}, preprocess(384, 384, 'bicubic'), False),
        ({'size': {'height': 96, 'width': 96}, 'resample': 2}, preprocess(96, 96), False),
        (
            {'size': {'shortest_edge': 50}, 'do_center_crop': True, 'crop_size': {'height': 40}},
            preprocess(50, 40),
            True,
        ),
        ({'size': 224, 'do_resize': False}, preprocess(256, 224), False),
    ],
)
def test_transformers_image_processors(
    tmp_path: Path, fields: Any, steps: Any, known: bool
) -> None:
    """Those that crop are known; of those that squash only the size is taken."""
    metadata = imported.read(transformers(tmp_path, **HALF, **fields)).metadata
    assert (metadata['mean'], metadata['std']) == ([0.5] * 3, [0.25] * 3)
    assert metadata['preprocess'] == steps
    assert metadata['image_shape'][:2] == [steps[1]['size']] * 2
    assert ('preprocess' not in metadata['assumed']) == known
    assert ('interpolation' in metadata['assumed']) == ('resample' not in fields)
    assert not metadata['assumed'].keys() & {'mean', 'std', 'antialias'}


def test_images_that_are_not_normalised(tmp_path: Path) -> None:
    metadata = imported.read(transformers(tmp_path, do_normalize=False)).metadata
    assert (metadata['mean'], metadata['std']) == ([0.0] * 3, [1.0] * 3)


@pytest.mark.parametrize(
    ('fields', 'message'),
    [
        ({'image_std': [0, 1, 1]}, 'std=[0, 1, 1]: positive numbers'),
        ({'size': 0}, 'size=0: a whole number of pixels'),
        ({'size': 224, 'resample': 1}, "interpolation='lanczos': 'bilinear' or 'bicubic'"),
        ({'size': 224, 'crop_pct': 2}, 'crop_pct=2: a number above 0'),
        ({'do_rescale': False}, 'rescale_factor=1: 1 / 255'),
    ],
)
def test_image_processors_that_cannot_be(tmp_path: Path, fields: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f'preprocessor_config.json.*{re.escape(message)}'):
        imported.read(transformers(tmp_path, **fields))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'std': [0.2, 0.0, 0.2]}, 'std=[0.2, 0.0, 0.2]: positive numbers'),
        ({'mean': [123.7, 116.3, 103.5]}, 'mean=[123.7, 116.3, 103.5]: numbers from 0 to 1'),
        ({'preprocess': preprocess(256, 0)}, 'size of center_crop=0: a whole number of pixels'),
        ({'preprocess': preprocess(256, 224, 'area')}, "interpolation='area': 'bilinear' or"),
        ({'image_shape': [-1, -1, 3]}, 'image_shape=-1: a whole number'),
    ],
)
def test_a_card_is_checked_when_it_is_read(tmp_path: Path, changes: Any, message: str) -> None:
    """One of before, or one that was changed by hand."""
    import_weights(TIMM, tmp_path / 'out')
    path = tmp_path / 'out' / 'model.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=f'model.json does not .*{re.escape(message)}'):
        artifact.read(tmp_path / 'out')

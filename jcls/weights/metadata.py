"""The content of model.json: architecture, classes, preprocessing and origin of weights."""

from __future__ import annotations

import importlib.metadata
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jcls import models
from jcls.models.batch_norm import batch_norm
from jcls.weights import assumed
from jcls.weights.prepared import require_moments, require_size, require_steps
from jcls.workdir.files import read_json

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's, as fractions of 255
IMAGENET_CLASSES = 1000
EPSILON = 1e-5  # in normalisation layers of torchvision, timm, mmpretrain and PaddleClas
FIELDS = {  # what every model.json has
    'architecture': dict, 'norm': dict, 'image_shape': list, 'classes': list, 'mean': list,
    'std': list, 'preprocess': list,
}  # fmt: skip


def of_run(
    config: Mapping[str, Any],
    *,
    classes: Sequence[str],
    image_shape: tuple[int, int, int],
    train_examples: int,
) -> dict[str, Any]:
    """The content of model.json for weights that a run trains.

    Args:
      config: the complete config of the run.
      classes: names of the classes, in the order of the labels.
      image_shape: (H, W, C) of an image as it is evaluated.
      train_examples: number of training images.
    """
    return {
        'jcls': importlib.metadata.version('jcls'),
        'recipe': config['recipe'],
        'architecture': {**config['model'], 'num_classes': len(classes)},
        'norm': config['norm'],
        'image_shape': image_shape,
        'classes': classes,
        'train_examples': train_examples,
        'mean': config['data']['mean'],
        'std': config['data']['std'],
        'exif': config['data']['exif'],
        'preprocess': config['evaluate']['preprocess'],
    }


def of_source(
    section: Mapping[str, Any],
    known: Mapping[str, Any],
    source: str,
    *,
    channels: int = 3,
    untold: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of model.json for weights that jcls did not train.

    Usual values stand in for what is not `known`, and 'assumed' lists them: ImageNet's classes if
    there are 1000, its mean and standard deviation, the shorter side to 256, the central 224; for
    networks that begin with a 3x3 convolution without a pool, 32 and 32.

    Args:
      section: the ``model`` section.
      known: see `revised`; and 'likely', usual values for these weights that are only assumed.
      source: where the weights came from.
      untold: fields of the section that are assumed, with their values.
      channels: number of channels of an image. Unless it is 3, the mean and the deviation for
        colour are averaged.

    Raises:
      ValueError: if there are more or fewer class names than classes.
    """
    count = section['num_classes'] or 0  # 0: a backbone alone
    built = models.create(**{**section, 'num_classes': count if count > 1 else None})
    small = (32, 32) if built.stem == 'cifar' else (256, 224)
    usual: dict[str, Any] = {
        'classes': [*imagenet()] if count == IMAGENET_CLASSES else [*map(str, range(count))],
        'mean': MEAN,
        'std': STD,
        'preprocess': preprocess(*small),
        'exif': False,
        **known.get('likely', {}),
    }
    hidden = {'interpolation': 'bilinear', 'antialias': True, 'bgr': False, 'epsilon': EPSILON}
    guessed = {**usual, **hidden, **assumed.of_every_file(built.stem), **(untold or {})}
    guessed['classes'] = "ImageNet's" if count == IMAGENET_CLASSES else f'0 to {count - 1}'
    if not count:
        del guessed['classes']
    side = usual['preprocess'][-1]['size']
    base = {
        'jcls': importlib.metadata.version('jcls'),
        'recipe': source,
        'source': source,
        'architecture': dict(section),
        'norm': {},
        'image_shape': [side, side, channels],
        **usual,
        'assumed': assumed.entries(guessed),
    }
    told = {key: value for key, value in known.items() if key != 'likely'}
    return of_channels(revised(base, told, source), channels)


def revised(metadata: Mapping[str, Any], known: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The `metadata` with what is `known` instead of what it has.

    Args:
      metadata: the content of a model.json.
      known: any fields of it; and 'resize', fields of the resize in 'preprocess' to change; and
        'settled', names of what is not assumed any more, see `jcls.weights.assumed`.
      source: where the weights came from.

    Raises:
      ValueError: if there are more or fewer class names than classes.
    """
    count = metadata['architecture'].get('num_classes') or 0
    if len(known.get('classes', metadata['classes'])) != count:
        raise ValueError(
            f'{len(known["classes"])} class names, but the classifier of {source} has {count}'
        )
    known = dict(known)
    resize, settled = known.pop('resize', {}), {*known, *known.pop('settled', ())}
    settled |= resize.keys() | ({'epsilon'} if 'norm' in known else set())
    changed = {**metadata, **known}
    changed['preprocess'] = [
        {**step, **resize} if step['name'] == 'resize' else step for step in changed['preprocess']
    ]
    listed = assumed.of_card(metadata)
    changed['assumed'] = {what: entry for what, entry in listed.items() if what not in settled}
    crops = [step['size'] for step in changed['preprocess'] if step['name'] == 'center_crop']
    if 'preprocess' in known and crops:
        changed['image_shape'] = [crops[-1], crops[-1], metadata['image_shape'][2]]
    return changed


def of_channels(metadata: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """The `metadata` for images of this many channels, with averaged mean and deviation."""
    shape = [*metadata['image_shape'][:2], channels]
    same = {len(metadata['mean']), len(metadata['std'])} == {channels}
    listed = assumed.of_card(metadata)
    moments = {
        key: list(metadata[key]) if same else [sum(metadata[key]) / len(metadata[key])] * channels
        for key in ('mean', 'std')
    }
    told = {
        what: {**listed[what], 'value': value} for what, value in moments.items() if what in listed
    }
    return {**metadata, **moments, 'image_shape': shape, 'assumed': {**listed, **told}}


def read_model_json(path: Path) -> dict[str, Any]:
    """The content of a model.json.

    Raises:
      ValueError: if it cannot be read or lacks something; the error names the file.
    """
    if not path.is_file():
        raise ValueError(f'{path} cannot be read: there is no such file')
    return check_model_json(read_json(path), path)


def check_model_json(metadata: Any, path: str | Path) -> dict[str, Any]:
    """The `metadata` of `path`; a ValueError if something that weights need is missing."""
    if not isinstance(metadata, dict):
        raise ValueError(f'{path} does not describe a model: it is no JSON object')
    lacking = [key for key, kind in FIELDS.items() if not isinstance(metadata.get(key), kind)]
    if lacking:
        raise ValueError(f'{path} does not describe a model: it lacks {", ".join(lacking)}')
    wrong = None
    classes = metadata['architecture'].get('num_classes') or 0
    if len(metadata['classes']) != classes:
        wrong = f'{len(metadata["classes"])} class names, but num_classes is {classes}'
    elif not [len(metadata['mean'])] == [len(metadata['std'])] == metadata['image_shape'][2:]:
        wrong = 'mean, std and image_shape have different channels'
    try:
        model_of(metadata)
        require_moments({key: metadata[key] for key in ('mean', 'std')})
        require_steps(metadata['preprocess'])
        for size in metadata['image_shape']:
            require_size(size, 'image_shape')
    except (TypeError, ValueError) as error:  # TypeError: fields of another version
        wrong = wrong or str(error)
    if wrong:
        raise ValueError(f'{path} does not describe a model: {wrong}')
    return metadata


def model_of(metadata: Mapping[str, Any], dtype: str = 'float32') -> models.ResNet:
    """The model that the metadata describe, with activations of `dtype`."""
    section = {**metadata['architecture'], 'dtype': dtype}
    if section.get('blocks'):
        section['blocks'] = tuple(section['blocks'])
    return models.create(**section, norm=batch_norm(**metadata['norm']))


def epsilon(metadata: Mapping[str, Any]) -> float:
    """The epsilon of the normalisation layers."""
    return metadata['norm'].get('epsilon', EPSILON)


def resize_and_crop(metadata: Mapping[str, Any], what: str) -> tuple[int, int, str]:
    """(size, crop, interpolation) of a preprocessing that is a resize and then a center_crop.

    Raises:
      ValueError: if the preprocessing is another one, which `what` cannot store.
    """
    steps = metadata['preprocess']
    names = [step['name'] for step in steps]
    if names != ['resize', 'center_crop'] or not steps[0].get('antialias', True):
        raise ValueError(
            f'model.json prepares images by {", ".join(s["name"] for s in steps) or "nothing"}; '
            f'{what} can hold a resize and a center_crop after it, with antialiasing'
        )
    return steps[0]['size'], steps[1]['size'], steps[0].get('interpolation', 'bilinear')


def imagenet() -> dict[str, str]:
    """{WordNet id: name} of the 1,000 ImageNet classes, in their order."""
    return json.loads((resources.files('jcls.weights') / 'imagenet.json').read_text('utf-8'))


def display_names(classes: Sequence[str]) -> list[str]:
    """Class names to read: words for WordNet ids of ImageNet, other names as they are."""
    words = imagenet()
    return [words.get(name, name) for name in classes]


def preprocess(size: int, crop: int, interpolation: str = 'bilinear') -> list[dict[str, Any]]:
    """The usual preprocessing: the shorter side resized to `size`, then a central crop."""
    resize = {'name': 'resize', 'size': size, 'interpolation': interpolation}
    return [resize, {'name': 'center_crop', 'size': crop}]


def torchvision_metadata(name: str) -> dict[str, Any]:
    """The metadata that torchvision (0.29) gives for its own weights, by the file's name."""
    named = re.fullmatch(r'(\w+)-([0-9a-f]{8})\.pth', name)
    if named is None or named[2] not in TORCHVISION:
        return {}
    version, size, top1, top5 = TORCHVISION[named[2]]
    return {
        'recipe': f'torchvision {named[1]} IMAGENET1K_V{version}',
        'classes': [*imagenet()],
        'mean': list(MEAN),
        'std': list(STD),
        'settled': tuple(assumed.OPTIONS),
        'preprocess': preprocess(size, 224),
        'published': {'top1': top1, 'top5': top5},
    }


# Hash: (version, resize, top-1, top-5).
TORCHVISION = {
    'f37072fd': (1, 256, 0.69758, 0.89078),
    'b627a593': (1, 256, 0.73314, 0.91420),
    '0676ba61': (1, 256, 0.76130, 0.92862),
    '11ad3fa6': (2, 232, 0.80858, 0.95434),
    '63fe2227': (1, 256, 0.77374, 0.93546),
    'cd907fc2': (2, 232, 0.81886, 0.95780),
    '394f9c45': (1, 256, 0.78312, 0.94046),
    'f82ba261': (2, 232, 0.82284, 0.96002),
    '7cdf4587': (1, 256, 0.77618, 0.93698),
    '1a0047aa': (2, 232, 0.81198, 0.95340),
    '8ba56ff5': (1, 256, 0.79312, 0.94526),
    '110c445d': (2, 232, 0.82834, 0.96228),
    '173b62eb': (1, 232, 0.83246, 0.96454),
    '95faca4d': (1, 256, 0.78468, 0.94086),
    '9ba9bcbe': (2, 232, 0.81602, 0.95758),
    '32ee1156': (1, 256, 0.78848, 0.94284),
    'd733dc28': (2, 232, 0.82510, 0.96020),
}

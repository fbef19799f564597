"""What model.json says of weights that jcls did not train: classes, preprocessing, origin."""

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
from jcls.workdir.files import read_json

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as fractions of 255
IMAGENET_CLASSES = 1000
EPSILON = 1e-5  # of the normalisation layers of torchvision, timm, mmpretrain and PaddleClas
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
      config: of the run, complete.
      classes: names, in the order of the labels.
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


def card(
    section: Mapping[str, Any], facts: Mapping[str, Any], source: str, *, channels: int = 3
) -> dict[str, Any]:
    """The content of model.json.

    What `facts` do not say is assumed to be as usual: ImageNet's classes if there are 1000, its
    mean and standard deviation, the shorter side to 256, the central 224. 'assumed' names these.

    Args:
      section: the ``model`` section.
      facts: any of 'classes', 'mean', 'std', 'preprocess', 'recipe', 'published'.
      source: where the weights came from.
      channels: of the images; for other than colour, a mean and deviation for it are averaged.

    Raises:
      ValueError: if there are more or fewer class names than classes.
    """
    count = section['num_classes'] or 0  # 0: a backbone alone
    usual = {
        'classes': [*imagenet()] if count == IMAGENET_CLASSES else [*map(str, range(count))],
        'mean': MEAN,
        'std': STD,
        'preprocess': preprocess(256, 224),
    }
    base = {
        'jcls': importlib.metadata.version('jcls'),
        'recipe': source,
        'source': source,
        'architecture': dict(section),
        'norm': {},
        'image_shape': [224, 224, channels],
        **usual,
        'exif': False,
        'assumed': [*usual],
    }
    return of_channels(revised(base, facts, source), channels)


def revised(card: Mapping[str, Any], facts: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The `card` with what is known better.

    Raises:
      ValueError: if there are more or fewer class names than classes.
    """
    count = card['architecture'].get('num_classes') or 0
    if len(facts.get('classes', card['classes'])) != count:
        raise ValueError(
            f'{len(facts["classes"])} class names, but the classifier of {source} has {count}'
        )
    changed = {**card, **facts, 'assumed': [k for k in card.get('assumed', ()) if k not in facts]}
    crops = [step['size'] for step in changed['preprocess'] if step['name'] == 'center_crop']
    if 'preprocess' in facts and crops:
        changed['image_shape'] = [crops[-1], crops[-1], card['image_shape'][2]]
    return changed


def of_channels(card: Mapping[str, Any], channels: int) -> dict[str, Any]:
    """The `card` for images of so many channels: mean and deviation are averaged."""
    shape = [*card['image_shape'][:2], channels]
    same = {len(card['mean']), len(card['std'])} == {channels}
    moments = {
        key: list(card[key]) if same else [sum(card[key]) / len(card[key])] * channels
        for key in ('mean', 'std')
    }
    return {**card, **moments, 'image_shape': shape}


def read_card(path: Path) -> dict[str, Any]:
    """The content of a model.json.

    Raises:
      ValueError: that names it, if it cannot be read or lacks something.
    """
    if not path.is_file():
        raise ValueError(f'{path} cannot be read: there is no such file')
    return check_card(read_json(path), path)


def check_card(card: Any, path: str | Path) -> dict[str, Any]:
    """The `card`, found in `path`, if it says what is needed to use weights; else a ValueError."""
    if not isinstance(card, dict):
        raise ValueError(f'{path} does not describe a model: it is no JSON object')
    lacking = [key for key, kind in FIELDS.items() if not isinstance(card.get(key), kind)]
    if lacking:
        raise ValueError(f'{path} does not describe a model: it lacks {", ".join(lacking)}')
    wrong = None
    classes = card['architecture'].get('num_classes') or 0
    if len(card['classes']) != classes:
        wrong = f'{len(card["classes"])} class names, but num_classes is {classes}'
    elif not [len(card['mean'])] == [len(card['std'])] == card['image_shape'][2:]:
        wrong = 'mean, std and image_shape have different channels'
    elif not all(isinstance(step, dict) and 'name' in step for step in card['preprocess']):
        wrong = 'preprocess is no list of operations'
    try:
        model_of(card)
    except (TypeError, ValueError) as error:  # TypeError: fields of another version
        wrong = str(error)
    if wrong:
        raise ValueError(f'{path} does not describe a model: {wrong}')
    return card


def model_of(card: Mapping[str, Any], dtype: str = 'float32') -> models.ResNet:
    """The model that a card describes, with activations of `dtype`."""
    section = {**card['architecture'], 'dtype': dtype}
    if section.get('blocks'):
        section['blocks'] = tuple(section['blocks'])
    return models.create(**section, norm=batch_norm(**card['norm']))


def epsilon(card: Mapping[str, Any]) -> float:
    """What the normalisation layers add to the variance."""
    return card['norm'].get('epsilon', EPSILON)


def resize_and_crop(card: Mapping[str, Any], what: str) -> tuple[int, int, str]:
    """(size, crop, interpolation) of a preprocessing that is a resize and a center_crop after it.

    Raises:
      ValueError: if it is another one: `what` cannot hold it.
    """
    steps = card['preprocess']
    if [step['name'] for step in steps] != ['resize', 'center_crop']:
        raise ValueError(
            f'model.json prepares images by {", ".join(s["name"] for s in steps) or "nothing"}; '
            f'{what} can hold a resize and a center_crop after it'
        )
    return steps[0]['size'], steps[1]['size'], steps[0].get('interpolation', 'bilinear')


def imagenet() -> dict[str, str]:
    """{WordNet id: name} of the 1,000 ImageNet classes, in their order."""
    return json.loads((resources.files('jcls.weights') / 'imagenet.json').read_text('utf-8'))


def display_names(classes: Sequence[str]) -> list[str]:
    """Class names for people: WordNet ids of ImageNet as words, others as they are."""
    words = imagenet()
    return [words.get(name, name) for name in classes]


def preprocess(size: int, crop: int, interpolation: str = 'bilinear') -> list[dict[str, Any]]:
    """The usual evaluation: shorter side to `size`, central crop."""
    resize = {'name': 'resize', 'size': size, 'interpolation': interpolation}
    return [resize, {'name': 'center_crop', 'size': crop}]


def torchvision_facts(name: str) -> dict[str, Any]:
    """What torchvision says of its own weights (0.29), by the file's name."""
    found = re.fullmatch(r'(\w+)-([0-9a-f]{8})\.pth', name)
    if found is None or found[2] not in TORCHVISION:
        return {}
    version, size, top1, top5 = TORCHVISION[found[2]]
    return {
        'recipe': f'torchvision {found[1]} IMAGENET1K_V{version}',
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

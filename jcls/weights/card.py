"""What model.json says of weights that jcls did not train: classes, preprocessing, origin."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import Any

import jcls

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as fractions of 255
IMAGENET_CLASSES = 1000


def card(section: Mapping[str, Any], facts: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The content of model.json.

    What `facts` do not say is assumed to be as usual: ImageNet's classes if there are 1000, its
    mean and standard deviation, the shorter side to 256, the central 224. 'assumed' names these.

    Args:
      section: the ``model`` section.
      facts: any of 'classes', 'mean', 'std', 'preprocess', 'recipe', 'published'.
      source: where the weights came from.

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
    if len(facts.get('classes', usual['classes'])) != count:
        raise ValueError(
            f'{len(facts["classes"])} class names, but the classifier of {source} has {count}'
        )
    known = {**usual, **facts}
    crops = [step['size'] for step in known['preprocess'] if step['name'] == 'center_crop']
    side = crops[-1] if crops else 224
    return {
        'jcls': jcls.__version__,
        'recipe': known.get('recipe', source),
        'source': source,
        'architecture': dict(section),
        'norm': {},
        'image_shape': [side, side, len(known['mean'])],
        'classes': list(known['classes']),
        'mean': list(known['mean']),
        'std': list(known['std']),
        'exif': False,
        'preprocess': known['preprocess'],
        'assumed': [key for key in usual if key not in facts],
        **({'published': known['published']} if 'published' in known else {}),
    }


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

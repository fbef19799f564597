"""mmpretrain's finetuning tutorial: an ImageNet ResNet-50 on CIFAR-10 at 224 px.

mmpretrain 1.2, "How to fine-tune with custom dataset". Composed of parts as the tutorial inherits
its four bases: model, data, schedule, runtime.

    python -m jcls.main --config configs/finetune_cifar10.py:source=SRC --workdir runs/cifar \\
        --config.data.dir=DIR

SRC are weights of a ResNet-50, such as mmpretrain's file; DIR holds train/<class>/* and
val/<class>/*, or take --config.data.name=tfds --config.data.dataset=cifar10 --config.data.dir=None.
The tutorial publishes no accuracy.

Stem and two stages frozen; a crop of 32 with 4 pixels of padding, flips, then 224 px; SGD with
momentum, lr 0.01, coupled decay 1e-4 of all parameters, divided by 10 after 15 epochs; 128 images
in a batch. The tutorial replaces the milestones of its base alone, so 200 epochs remain.

Deviations: the new classifier starts as torch's linear layer does, not from N(0, 0.01).
"""

from typing import Any

from ml_collections import ConfigDict

from jcls.config import parse_arg


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'source=SRC,epochs=20'."""
    args = parse_arg(arg, source='', epochs=200)
    parts = (model(args.source), data(), schedule(args.epochs), runtime())
    return ConfigDict({key: value for part in parts for key, value in part.items()})


def model(source: str) -> dict[str, Any]:
    """ResNet-50 with a new classifier; ``frozen_stages=2``."""
    init = {'source': source, 'head': 'new', 'freeze': 2} if source else {}
    return {'model': {'name': 'resnet50'}, 'init': init}


def data() -> dict[str, Any]:
    """CIFAR-10, enlarged."""
    return {
        'batch_size': 128,
        'data': {
            'name': 'folder',
            'dir': '~/cifar10',
            'mean': (125.307 / 255, 122.961 / 255, 113.8575 / 255),
            'std': (51.5865 / 255, 50.847 / 255, 51.255 / 255),
        },
        'augment': (
            {'name': 'pad_and_crop', 'size': 32, 'padding': 4},
            {'name': 'flip'},
            {'name': 'resize', 'size': 224},
        ),
    }


def schedule(epochs: int) -> dict[str, Any]:
    """SGD, one step down."""
    return {
        'duration': f'{epochs} epochs',
        'optimizer': {
            'lr': 0.01,
            'reference_batch': 128,
            'weight_decay': 1e-4,
            'decay': 'coupled',
            'decay_groups': (('.*', 1.0),),
        },
        'schedule': {'name': 'multi_step', 'milestones': ('15 epochs',)},
    }


def runtime() -> dict[str, Any]:
    """Evaluation, without a crop, and what the published sizes are."""
    preprocess = ({'name': 'resize', 'size': 224}, {'name': 'center_crop', 'size': 224})
    return {
        'evaluate': {'preprocess': preprocess},
        'reference': {'examples': 50_000, 'classes': 10},
    }

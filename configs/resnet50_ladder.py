"""From torchvision's first ResNet-50 to its new one, one change at a time.

The eleven rungs of torchvision's blog post "How to train state-of-the-art models using
TorchVision's latest primitives"; each has all changes up to its own.

    python -m jcls.main --config configs/resnet50_ladder.py:rung=cutmix --workdir runs/cutmix \\
        --config.data.dir=DIR

Published top-1: baseline 76.130, lr 76.494, trivial_augment 76.806, long 78.606, erasing 78.796,
smoothing 79.114, mixup 79.232, cutmix 79.510, decay 80.036, fixres 80.196, ema 80.450, resize
80.674.

Throughout as torchvision: coupled decay, BatchNorm over what was one GPU's share (32, later 128),
the learning rate held for each epoch. `resize` is resnet50_v2.py:like=torchvision.

Deviations: bfloat16; mixed images are rounded to 8 bits; erasing paints the mean colour, 0 after
normalisation.
"""

from collections.abc import Callable

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg


def lr(config: ConfigDict) -> None:
    """Eight shares of 128, lr 0.5, warm-up and cosine."""
    config.batch_size, config.norm.batch_size = 1024, 128
    config.optimizer.lr, config.optimizer.reference_batch = 0.5, 1024
    config.schedule = ConfigDict(
        {'name': 'cosine', 'warmup': '5 epochs', 'warmup_start': 0.01, 'every': '1 epoch'}
    )


def trivial_augment(config: ConfigDict) -> None:
    """TrivialAugmentWide."""
    config.augment += (
        ConfigDict({'name': 'trivial_augment', 'interpolation': 'bilinear', 'fill': 0}),
    )


def long(config: ConfigDict) -> None:
    """600 epochs."""
    config.duration = '600 epochs'


def erasing(config: ConfigDict) -> None:
    """Of every tenth image."""
    config.augment += (ConfigDict({'name': 'random_erasing', 'probability': 0.1}),)


def smoothing(config: ConfigDict) -> None:
    """Of labels, by 0.1."""
    config.loss = ConfigDict({'label_smoothing': 0.1})


def mixup(config: ConfigDict) -> None:
    """Beta(0.2, 0.2), drawn for each share of 128."""
    config.mix = ConfigDict({'mixup': 0.2, 'batch_size': 128})


def cutmix(config: ConfigDict) -> None:
    """Beta(1, 1), half of the time instead of Mixup."""
    config.mix.cutmix = 1.0


def decay(config: ConfigDict) -> None:
    """2e-5, and none of norm parameters."""
    config.optimizer.weight_decay = 2e-5
    config.optimizer.decay_groups = ((r'.*norm\d*/(scale|bias)', 0.0), ('.*', 1.0))


def fixres(config: ConfigDict) -> None:
    """Train at 176 px, evaluate at 224."""
    config.augment[0].size = 176


def ema(config: ConfigDict) -> None:
    """An average of the weights, every 32 steps."""
    config.ema = ConfigDict({'name': 'torchvision', 'decay': 0.99998, 'every': 32})
    config.checkpoint = ConfigDict({'best': 'eval_ema/top1'})


def resize(config: ConfigDict) -> None:
    """Evaluate at 232 -> 224 px."""
    config.evaluate.preprocess[0].size = 232


RUNGS: dict[Callable[[ConfigDict], None], float] = {
    lr: 0.76494,
    trivial_augment: 0.76806,
    long: 0.78606,
    erasing: 0.78796,
    smoothing: 0.79114,
    mixup: 0.79232,
    cutmix: 0.79510,
    decay: 0.80036,
    fixres: 0.80196,
    ema: 0.80450,
    resize: 0.80674,
}


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'rung=cutmix,arch=resnet50'."""
    args = parse_arg(arg, rung='resize', arch='resnet50')
    names = ['baseline', *(rung.__name__ for rung in RUNGS)]
    if args.rung not in names:
        raise ValueError(f'config argument rung={args.rung!r}: one of {", ".join(names)}')
    config = inherit(__file__, 'resnet50_v1.py', f'arch={args.arch}')
    config.norm = ConfigDict({'batch_size': 32})
    config.reference.source = "torchvision's new recipe, step by step"
    for rung, top1 in list(RUNGS.items())[: names.index(args.rung)]:
        rung(config)
        config.reference.top1 = top1
    if args.arch != 'resnet50':
        config.reference.top1 = None
    return config

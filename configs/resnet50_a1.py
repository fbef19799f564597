"""ResNet-50 by the A1 procedure of "ResNet strikes back": 600 epochs.

Wightman et al. 2021 (2110.00476), trained with timm.

    python -m jcls.main --config configs/resnet50_a1.py --workdir runs/a1 --config.data.dir=DIR
    ... --config configs/resnet50_a1.py:arch=resnet101

LAMB at 5e-3 with decay 0.01, binary cross-entropy of targets smoothed by 0.1, RandAugment
m7-mstd0.5-inc1, Mixup 0.2 or CutMix 1.0, drop path 0.05, three copies of an image in a batch. The
published command lines show no target threshold for A1, with which smoothing would be moot.

Published: 80.4 top-1; 80.12 by mmpretrain's reproduction.

Deviations: cross-replica BatchNorm; bfloat16; mixed images are rounded to 8 bits, as timm's loader
does.
"""

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'arch=resnet101'."""
    args = parse_arg(arg, arch='resnet50')
    config = inherit(__file__, 'rsb.py')
    config.model.name = args.arch
    config.duration = '600 epochs'
    config.data.repeats = 3
    config.model.drop_path = 0.05
    config.mix.mixup = 0.2
    config.loss.label_smoothing = 0.1
    config.optimizer.weight_decay = 0.01
    config.reference.top1 = 0.804 if args.arch == 'resnet50' else None
    return config

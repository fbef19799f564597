"""ResNet-50 by the A2 procedure of "ResNet strikes back": 300 epochs.

Wightman et al. 2021 (2110.00476), trained with timm.

    python -m jcls.main --config configs/resnet50_a2.py --workdir runs/a2 --config.data.dir=DIR
    ... --config configs/resnet50_a2.py:arch=resnet101

LAMB at 5e-3 with decay 0.02, binary cross-entropy of targets above 0.2, RandAugment
m7-mstd0.5-inc1, Mixup 0.1 or CutMix 1.0, drop path 0.05, three copies of an image in a batch. The
batch of 2048 was 4 x 512: mixing is drawn for each 512.

Published: 79.8 top-1; 79.55 by mmpretrain's reproduction.

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
    config.duration = '300 epochs'
    config.data.repeats = 3
    config.model.drop_path = 0.05
    config.loss.threshold = 0.2
    config.reference.top1 = 0.798 if args.arch == 'resnet50' else None
    return config

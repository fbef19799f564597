"""ResNet-50 by the A3 procedure of "ResNet strikes back": 100 epochs at 160 px.

Wightman et al. 2021 (2110.00476), trained with timm.

    python -m jcls.main --config configs/resnet50_a3.py --workdir runs/a3 --config.data.dir=DIR
    ... --config configs/resnet50_a3.py:arch=resnet101

LAMB at 8e-3 with decay 0.02, binary cross-entropy, RandAugment m6-mstd0.5-inc1, Mixup 0.1 or
CutMix 1.0; trained at 160 px, evaluated at 224.

Published: 78.1 top-1; 78.30 (at 224 px) by mmpretrain's reproduction.

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
    config.duration = '100 epochs'
    config.augment[0].size = 160
    config.augment[2].magnitude = 6.0
    config.optimizer.lr = 8e-3
    config.schedule.warmup_start = 0.0125  # 1e-4 of 8e-3
    config.reference.top1 = 0.781 if args.arch == 'resnet50' else None
    return config

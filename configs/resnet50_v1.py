"""ResNet-50, 90 epochs: the baseline that every recipe is compared with.

He et al. 2015 (1512.03385) as torchvision's references/classification trains it: batch 256, lr 0.1,
divided by 10 every 30 epochs, coupled decay 1e-4 of all parameters.

    python -m jcls.main --config configs/resnet50_v1.py --workdir runs/v1 --config.data.dir=DIR
    ... --config configs/resnet50_v1.py:arch=resnet18
    ... --config configs/resnet50_v1.py:schedule=cosine,batch=1024

Published by torchvision (IMAGENET1K_V1): 76.130 top-1; ResNet-18 69.758, 34 73.314, 101 77.374,
152 78.312. With schedule=cosine: Goyal et al. 2017 (1706.02677) with 5 epochs of warm-up and the
cosine of He et al. 2018 (1812.01187), for which the resolution study has 76.548.

Deviations: cross-replica BatchNorm where torchvision normalises over each GPU's 32 images; bfloat16
(--config.model.dtype=float32).
"""

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg

TOP1 = {
    'resnet18': 0.69758,
    'resnet34': 0.73314,
    'resnet50': 0.76130,
    'resnet101': 0.77374,
    'resnet152': 0.78312,
}
SCHEDULES = {
    'step': {'name': 'step', 'interval': '30 epochs', 'gamma': 0.1, 'every': '1 epoch'},
    'cosine': {'name': 'cosine', 'warmup': '5 epochs'},
}


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'arch=resnet101,res=224,epochs=90,batch=256,schedule=step'."""
    args = parse_arg(arg, arch='resnet50', res=224, epochs=90, batch=256, schedule='step')
    if args.schedule not in SCHEDULES:
        raise ValueError(f'config argument schedule={args.schedule!r}: one of {(*SCHEDULES,)}')
    config = inherit(__file__, 'base.py')
    config.batch_size = args.batch
    config.duration = f'{args.epochs} epochs'
    config.model.name = args.arch
    config.augment[0].size = args.res
    config.optimizer = ConfigDict(
        {'lr': 0.1, 'weight_decay': 1e-4, 'decay': 'coupled', 'decay_groups': (('.*', 1.0),)}
    )
    config.schedule = ConfigDict(SCHEDULES[args.schedule])
    if (args.res, args.epochs, args.batch, args.schedule) == (224, 90, 256, 'step'):
        config.reference.top1 = TOP1.get(args.arch)
        config.reference.source = 'torchvision, IMAGENET1K_V1'
    return config

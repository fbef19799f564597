"""ResNet-50, 90 epochs: the baseline that every recipe is compared with.

Goyal et al. 2017 (1706.02677) with the cosine schedule of He et al. 2018 (1812.01187).

    python -m jcls.main --config configs/resnet50_v1.py --workdir runs/v1 --config.data.dir=DIR
    ... --config configs/resnet50_v1.py:arch=resnet18,batch=1024

Published: 76.13 top-1 for the step-wise schedule (torchvision, IMAGENET1K_V1); the cosine's 76.5 to
77 is reported for the same 90 epochs (76.548 in the resolution study's 224 px row).

Deviations: the weight decay 1e-4 is coupled, as there, but spares norm parameters.
"""

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'arch=resnet101,res=224,epochs=90,batch=1024'."""
    args = parse_arg(arg, arch='resnet50', res=224, epochs=90, batch=1024)
    config = inherit(__file__, 'base.py')
    config.batch_size = args.batch
    config.duration = f'{args.epochs} epochs'
    config.model.name = args.arch
    config.augment[0].size = args.res
    config.optimizer = ConfigDict({'lr': 0.1, 'weight_decay': 1e-4, 'decay': 'coupled'})
    config.schedule = ConfigDict({'name': 'cosine', 'warmup': '5 epochs'})
    config.checkpoint = ConfigDict({'best': 'eval/top1'})
    return config

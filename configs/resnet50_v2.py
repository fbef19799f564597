"""ResNet-50 by torchvision's new recipe: long training, TrivialAugment, erasing, Mixup and CutMix.

torchvision's blog post "How to train state-of-the-art models using TorchVision's latest primitives"
and its references/classification.

    python -m jcls.main --config configs/resnet50_v2.py --workdir runs/v2 --config.data.dir=DIR
    ... --config configs/resnet50_v2.py:arch=resnet101
    ... --config configs/resnet50_v2.py:like=torchvision,repeats=4

Published: 80.674 top-1, of the averaged weights; ResNet-101 81.728, ResNet-152 82.042,
ResNeXt50-32x4d 81.116. With repeats=4 (copies of an image in one batch, torchvision's later
default): 80.858, 81.886, 82.284, 81.198. ResNet-18 and 34 were never published with it.

Batch 1024, lr 0.5, cosine with 5 epochs of linear warm-up from 0.01 of the peak, label smoothing
0.1, TrivialAugment, random erasing 0.1, Mixup 0.2 or CutMix 1.0 drawn for each 128 examples,
training crops of 176 px, evaluation at 232 -> 224 px, an average of the weights every 32 steps.

Deviations: cross-replica BatchNorm instead of groups of 128; decay 2e-4 decoupled, which acts like
the published 2e-5 coupled (2e-5 / (1 - 0.9)); the learning rate moves every step, not every epoch.
like=torchvision undoes these three. With it, too, activations are bfloat16, mixed images are
rounded to 8 bits, and erasing paints the mean colour, 0 after normalisation.
"""

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg

TOP1 = {
    ('resnet50', 1): 0.80674,
    ('resnet101', 1): 0.81728,
    ('resnet152', 1): 0.82042,
    ('resnext50_32x4d', 1): 0.81116,
    ('resnet50', 4): 0.80858,
    ('resnet101', 4): 0.81886,
    ('resnet152', 4): 0.82284,
    ('resnext50_32x4d', 4): 0.81198,
}


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'arch=resnet101,res=176,epochs=600,repeats=4,like=torchvision'."""
    args = parse_arg(arg, arch='resnet50', res=176, epochs=600, repeats=1, like='jcls')
    if args.like not in ('jcls', 'torchvision'):
        raise ValueError(f"config argument like={args.like!r}: 'jcls' or 'torchvision'")
    config = inherit(__file__, 'base.py')
    config.batch_size = 1024
    config.duration = f'{args.epochs} epochs'
    config.model.name = args.arch
    config.data.repeats = args.repeats
    config.augment[0].size = args.res
    config.augment = (
        *config.augment,
        ConfigDict({'name': 'trivial_augment', 'interpolation': 'bilinear', 'fill': 0}),
        ConfigDict({'name': 'random_erasing', 'probability': 0.1}),
    )
    config.mix = ConfigDict({'mixup': 0.2, 'cutmix': 1.0, 'batch_size': 128})
    config.evaluate.preprocess[0].size = 232
    config.loss = ConfigDict({'label_smoothing': 0.1})
    config.optimizer = ConfigDict({'lr': 0.5, 'reference_batch': 1024, 'weight_decay': 2e-4})
    config.schedule = ConfigDict({'name': 'cosine', 'warmup': '5 epochs', 'warmup_start': 0.01})
    config.ema = ConfigDict({'name': 'torchvision', 'decay': 0.99998, 'every': 32})
    config.checkpoint = ConfigDict({'best': 'eval_ema/top1'})
    if args.like == 'torchvision':
        config.norm = ConfigDict({'batch_size': 128})
        config.optimizer.decay, config.optimizer.weight_decay = 'coupled', 2e-5
        config.schedule.every = '1 epoch'
    if (args.arch, args.repeats) in TOP1 and (args.res, args.epochs) == (176, 600):
        config.reference.top1 = TOP1[args.arch, args.repeats]
        config.reference.source = "torchvision's new recipe"
    return config

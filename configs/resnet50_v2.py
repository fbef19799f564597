"""ResNet-50 by torchvision's new recipe: long training, TrivialAugment, erasing, Mixup and CutMix.

torchvision's blog post "How to train state-of-the-art models using TorchVision's latest primitives"
and its references/classification.

    python -m jcls.main --config configs/resnet50_v2.py --workdir runs/v2 --config.data.dir=DIR
    ... --config configs/resnet50_v2.py:arch=resnet101

Published for the full recipe: 80.674 top-1.

In this config: batch 1024, lr 0.5, cosine with 5 epochs of linear warm-up from 0.01 of the peak,
label smoothing 0.1, TrivialAugment, random erasing 0.1, Mixup 0.2 or CutMix 1.0 drawn for each 128
examples, training crops of 176 px, evaluation at 232 -> 224 px, decay 2e-5 coupled = 2e-4 decoupled
(2e-5 / (1 - 0.9)), norm parameters spared.

Deviations: without the recipe's weight EMA, so its 80.674 is not to be expected; the table of rungs
puts the rest near 80.2. Cross-replica BatchNorm instead of groups of 128; the learning rate moves
every step, not every epoch; mixed images are rounded to 8 bits, and erasing paints the mean colour.
"""

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'arch=resnet101,res=176,epochs=600'."""
    args = parse_arg(arg, arch='resnet50', res=176, epochs=600)
    config = inherit(__file__, 'base.py')
    config.batch_size = 1024
    config.duration = f'{args.epochs} epochs'
    config.model.name = args.arch
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
    return config

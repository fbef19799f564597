"""ResNet-50-vd ("D") with the bag of tricks, 300 epochs.

He et al. 2018 (1812.01187, "Bag of Tricks"): deep stem, average pooling in shortcuts, zero-gamma,
no decay of biases and norm parameters, 5 epochs of warm-up, cosine, label smoothing 0.1, Mixup 0.2;
with colour jitter of brightness, contrast and saturation, none of hue.

    python -m jcls.main --config configs/resnet50_vd.py --workdir runs/vd --config.data.dir=DIR
    ... --config configs/resnet50_vd.py:arch=resnet101d

Published: 78.25 top-1 for R50-vd with augmentation, Mixup, cosine and smoothing in 300 epochs
(FlyEgle/imageclassification); He et al. have 79.15 for ResNet-50-D with cosine, smoothing and Mixup
in 200 epochs, where they also distil: 79.29.

Deviations: cross-replica BatchNorm; bfloat16; mixed images are rounded to 8 bits; no PCA lighting.
"""

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'arch=resnet101d,epochs=300'."""
    args = parse_arg(arg, arch='resnet50d', epochs=300)
    config = inherit(__file__, 'base.py')
    config.batch_size = 1024
    config.duration = f'{args.epochs} epochs'
    config.model.name = args.arch
    config.model.zero_gamma = True
    config.augment = (
        *config.augment,
        ConfigDict({'name': 'color_jitter', 'brightness': 0.4, 'contrast': 0.4, 'saturation': 0.4}),
    )
    config.mix = ConfigDict({'mixup': 0.2})
    config.loss = ConfigDict({'label_smoothing': 0.1})
    config.optimizer = ConfigDict(
        {
            'lr': 0.1,
            'weight_decay': 1e-4,
            'decay': 'coupled',
            'decay_groups': ((r'.*norm\d*/(scale|bias)', 0.0), ('head/bias', 0.0), ('.*', 1.0)),
        }
    )
    config.schedule = ConfigDict({'name': 'cosine', 'warmup': '5 epochs'})
    if (args.arch, args.epochs) == ('resnet50d', 300):
        config.reference.top1 = 0.7825
        config.reference.source = 'FlyEgle/imageclassification'
    return config

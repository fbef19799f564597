"""The CIFAR ResNets of He et al. 2015 (1512.03385, section 4.2), 20 to 110 layers.

    python -m jcls.main --config configs/cifar_resnet.py:depth=20 --workdir runs/cifar \\
        --config.data.dir=DIR

DIR holds train/<class>/* and val/<class>/*. Published top-1 on the 50,000 training images of
CIFAR-10, 64,000 steps (164 epochs): 91.25 (20), 92.49 (32), 92.83 (44), 93.03 (56), 93.57 (110).

Batch 128, lr 0.1 divided by 10 at half and at three quarters of the run, coupled decay 1e-4 of all
parameters, 4 pixels of padding, flips; 110 layers start at a tenth of the rate for 400 steps.

Deviations: colours are normalised per channel, where the paper subtracts a mean image.
"""

from ml_collections import ConfigDict

from jcls.config import parse_arg

TOP1 = {20: 0.9125, 32: 0.9249, 44: 0.9283, 56: 0.9303, 110: 0.9357}


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'depth=56,epochs=164'."""
    args = parse_arg(arg, depth=20, epochs=164)
    if args.depth not in TOP1:
        raise ValueError(f'config argument depth={args.depth}: one of {(*TOP1,)}')
    return ConfigDict(
        {
            'batch_size': 128,
            'duration': f'{args.epochs} epochs',
            'data': {
                'name': 'folder',
                'dir': '~/cifar10',
                'mean': (0.4914, 0.4822, 0.4465),
                'std': (0.2470, 0.2435, 0.2616),
            },
            'augment': ({'name': 'pad_and_crop', 'size': 32, 'padding': 4}, {'name': 'flip'}),
            'model': {'name': f'resnet{args.depth}'},
            'optimizer': {
                'lr': 0.1,
                'reference_batch': 128,
                'weight_decay': 1e-4,
                'decay': 'coupled',
                'decay_groups': (('.*', 1.0),),
            },
            'schedule': {
                'name': 'multi_step',
                'milestones': ('0.5 run', '0.75 run'),
                'warmup': '400 steps' if args.depth == 110 else '0 steps',
                'warmup_shape': 'constant',
                'warmup_start': 0.1,
                'after_warmup': False,
            },
            'evaluate': {'preprocess': ({'name': 'center_crop', 'size': 32},)},
            'reference': {
                'top1': TOP1[args.depth] if args.epochs == 164 else None,
                'source': 'He et al. 2015',
                'examples': 50_000,
                'classes': 10,
            },
        }
    )

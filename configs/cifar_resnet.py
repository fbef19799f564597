"""The CIFAR ResNets of He et al. 2015 (1512.03385, section 4.2), 20 to 110 layers.

    python -m jcls.main --config configs/cifar_resnet.py:depth=20 --workdir runs/cifar \\
        --config.data.dir=DIR

DIR holds train/<class>/* and val/<class>/*. Published top-1 on the 50,000 training images of
CIFAR-10, 164 epochs: 91.25 (20), 92.49 (32), 92.83 (44), 93.03 (56), 93.57 (110).

Deviations: cosine schedule instead of three steps; decay 5e-4 (there 1e-4) coupled; norm parameters
are spared.
"""

from ml_collections import ConfigDict

from jcls.config import parse_arg

DEPTHS = (20, 32, 44, 56, 110)


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'depth=56,epochs=164'."""
    args = parse_arg(arg, depth=20, epochs=164)
    if args.depth not in DEPTHS:
        raise ValueError(f'config argument depth={args.depth}: one of {DEPTHS}')
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
                'weight_decay': 5e-4,
                'decay': 'coupled',
            },
            'schedule': {'name': 'cosine'},
            'evaluate': {'preprocess': ({'name': 'center_crop', 'size': 32},)},
        }
    )

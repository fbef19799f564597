"""ResNet-50, 100 epochs: the ImageNet example of Flax, which JAX users know.

google/flax, examples/imagenet: SGD with Nesterov momentum, lr 0.1 per 256, 5 epochs of linear
warm-up and a cosine over the rest, L2 1e-4 in the loss for kernels, zero-gamma.

    python -m jcls.main --config configs/flax_example.py --workdir runs/flax --config.data.dir=DIR

Published: 76.37 top-1 on a TPU v3-8 at batch 1024; 76.54 (v3-32), 76.72 (8 V100 at batch 512).

Deviations: cross-replica BatchNorm; crops are torchvision's (uniform area), not those of
tf.image.sample_distorted_bounding_box (uniform height); evaluation resizes to 256 and takes the
centre 224, antialiased, and counts every image; explicit padding, initial weights and the unbiased
running variance as in torch.
"""

from ml_collections import ConfigDict

from jcls.config import inherit, parse_arg


def get_config(arg: str = '') -> ConfigDict:
    """The config; arg is e.g. 'batch=1024'."""
    args = parse_arg(arg, batch=1024)
    config = inherit(__file__, 'base.py')
    config.batch_size = args.batch
    config.duration = '100 epochs'
    config.model.zero_gamma = True
    config.optimizer = ConfigDict(
        {
            'lr': 0.1,
            'nesterov': True,
            'weight_decay': 1e-4,
            'decay': 'coupled',
            'decay_groups': (('.*/kernel', 1.0), ('.*', 0.0)),
        }
    )
    config.schedule = ConfigDict({'name': 'cosine', 'warmup': '5 epochs'})
    config.reference.top1 = 0.7637 if args.batch == 1024 else None
    config.reference.source = 'google/flax, examples/imagenet, TPU v3-8'
    return config

"""A small ResNet on scikit-learn's handwritten digits: real images, no download, a minute on a CPU.

    python -m jcls.main --config configs/quickstart.py --workdir runs/quickstart

Expected: top-1 of at least 0.97 on the 360 held-out digits.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        {
            'batch_size': 64,
            'duration': '30 epochs',
            'data': {'name': 'digits', 'mean': (0.3,) * 3, 'std': (0.37,) * 3},
            'augment': ({'name': 'pad_and_crop', 'size': 8, 'padding': 1},),
            'model': {'name': 'resnet20'},
            'optimizer': {'lr': 0.1, 'reference_batch': 64, 'weight_decay': 5e-4},
            'schedule': {'name': 'cosine', 'warmup': '2 epochs'},
            'evaluate': {'every': '5 epochs', 'preprocess': ()},
            'checkpoint': {'every': '10 epochs'},
            'log': {'every': '22 steps'},
        }
    )

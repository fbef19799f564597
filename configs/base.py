"""What the ImageNet recipes share: a folder of class folders, 224 px crops, centre-crop evaluation.

Not a recipe of its own: `inherit` it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The config."""
    return ConfigDict(
        {
            'batch_size': 256,
            'data': {'name': 'folder', 'dir': '~/imagenet'},  # train/<class>/*, val/<class>/*
            'augment': ({'name': 'random_resized_crop', 'size': 224}, {'name': 'flip'}),
            'model': {'name': 'resnet50', 'dtype': 'bfloat16'},
            'evaluate': {
                'preprocess': (
                    {'name': 'resize', 'size': 256},
                    {'name': 'center_crop', 'size': 224},
                ),
            },
            'reference': {'examples': 1_281_167, 'classes': 1000},  # ImageNet-1k
        }
    )

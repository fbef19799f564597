"""What A1, A2 and A3 of "ResNet strikes back" share. Not a recipe of its own: `inherit` it.

Wightman et al. 2021 (2110.00476), trained with timm.
"""

from ml_collections import ConfigDict

from jcls.config import inherit


def get_config() -> ConfigDict:
    """The config, of A2 but for what the three do not have in common."""
    config = inherit(__file__, 'base.py')
    config.batch_size = 2048
    config.model.zero_gamma = True
    config.augment[0].interpolation = 'bicubic'
    config.augment = (
        *config.augment,
        ConfigDict({'name': 'rand_augment_timm', 'magnitude': 7.0, 'interpolation': 'bicubic'}),
    )
    config.mix = ConfigDict({'mixup': 0.1, 'cutmix': 1.0, 'partner': 'flip', 'batch_size': 512})
    config.loss = ConfigDict({'name': 'binary'})
    config.optimizer = ConfigDict(
        {
            'name': 'lamb',
            'lr': 5e-3,
            'reference_batch': 2048,
            'scaling': 'sqrt',
            'weight_decay': 0.02,
            'decay_groups': ((r'.*norm\d*/(scale|bias)', 0.0), ('head/bias', 0.0), ('.*', 1.0)),
        }
    )
    config.schedule = ConfigDict(
        {
            'name': 'cosine',
            'warmup': '5 epochs',
            'warmup_start': 0.02,  # 1e-4 of 5e-3
            'after_warmup': False,
            'every': '1 epoch',
        }
    )
    config.evaluate.preprocess[0].size = 235  # floor(224 / 0.95)
    config.evaluate.preprocess[0].interpolation = 'bicubic'
    config.reference.source = 'ResNet strikes back, 2110.00476'
    return config

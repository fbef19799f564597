"""AutoAugment: two operations that follow each other, drawn from the 25 pairs that a search found.

Cubuk et al. 2018 (1805.09501). The tables and their magnitudes are torchvision's (v0.29). In timm
and in the paper a bin becomes another magnitude.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jcls.config.parts import choose
from jcls.data.augment.operation import Fill, Operation, pick
from jcls.data.augment.policies import TORCHVISION, lookup, planned, searched_space
from jcls.data.augment.policy_ops import INDEX, Step
from jcls.host.tensorflow import tf

BINS = 10


def auto_augment(
    *, policy: str = 'imagenet', interpolation: str = 'bilinear', fill: Fill = 0
) -> Operation:
    """One of 25 sub-policies; each of its two operations is applied with its own probability.

    Args:
      policy: 'imagenet' or 'cifar', the data that the policy was searched on.
      interpolation: interpolation of geometric operations.
      fill: colour of the places that they leave empty.
    """
    table = choose(POLICIES, policy, 'policy')

    names, shares, levels = zip(*(operation for pair in table for operation in pair), strict=True)
    numbers = [TORCHVISION.index(name) for name in names]
    columns = np.array(numbers, np.int32), np.array(shares, np.float32), np.array(levels, np.int32)

    def plan(u: Any, height: int, width: int) -> Step:
        chosen, sign = pick(u[0], len(table)), pick(u[1:3], 2)
        operation, share, level = (tf.gather(c.reshape(-1, 2), chosen) for c in columns)
        which, value = lookup(searched_space(height, width, BINS), sign, operation, level)
        applied = tf.where(u[3:5] < share, which, INDEX['identity'])
        return Step(applied, value, u[5:] < 0.5)

    return planned('auto_augment', 7, plan, interpolation, fill)


# (operation, probability, bin of its magnitude in 0..9); operations without magnitude have bin 0.
IMAGENET = (
    (('posterize', 0.4, 8), ('rotate', 0.6, 9)),
    (('solarize', 0.6, 5), ('autocontrast', 0.6, 0)),
    (('equalize', 0.8, 0), ('equalize', 0.6, 0)),
    (('posterize', 0.6, 7), ('posterize', 0.6, 6)),
    (('equalize', 0.4, 0), ('solarize', 0.2, 4)),
    (('equalize', 0.4, 0), ('rotate', 0.8, 8)),
    (('solarize', 0.6, 3), ('equalize', 0.6, 0)),
    (('posterize', 0.8, 5), ('equalize', 1.0, 0)),
    (('rotate', 0.2, 3), ('solarize', 0.6, 8)),
    (('equalize', 0.6, 0), ('posterize', 0.4, 6)),
    (('rotate', 0.8, 8), ('color', 0.4, 0)),
    (('rotate', 0.4, 9), ('equalize', 0.6, 0)),
    (('equalize', 0.0, 0), ('equalize', 0.8, 0)),
    (('invert', 0.6, 0), ('equalize', 1.0, 0)),
    (('color', 0.6, 4), ('contrast', 1.0, 8)),
    (('rotate', 0.8, 8), ('color', 1.0, 2)),
    (('color', 0.8, 8), ('solarize', 0.8, 7)),
    (('sharpness', 0.4, 7), ('invert', 0.6, 0)),
    (('shear_x', 0.6, 5), ('equalize', 1.0, 0)),
    (('color', 0.4, 0), ('equalize', 0.6, 0)),
    (('equalize', 0.4, 0), ('solarize', 0.2, 4)),
    (('solarize', 0.6, 5), ('autocontrast', 0.6, 0)),
    (('invert', 0.6, 0), ('equalize', 1.0, 0)),
    (('color', 0.6, 4), ('contrast', 1.0, 8)),
    (('equalize', 0.8, 0), ('equalize', 0.6, 0)),
)  # fmt: skip
CIFAR = (
    (('invert', 0.1, 0), ('contrast', 0.2, 6)),
    (('rotate', 0.7, 2), ('translate_x', 0.3, 9)),
    (('sharpness', 0.8, 1), ('sharpness', 0.9, 3)),
    (('shear_y', 0.5, 8), ('translate_y', 0.7, 9)),
    (('autocontrast', 0.5, 0), ('equalize', 0.9, 0)),
    (('shear_y', 0.2, 7), ('posterize', 0.3, 7)),
    (('color', 0.4, 3), ('brightness', 0.6, 7)),
    (('sharpness', 0.3, 9), ('brightness', 0.7, 9)),
    (('equalize', 0.6, 0), ('equalize', 0.5, 0)),
    (('contrast', 0.6, 7), ('sharpness', 0.6, 5)),
    (('color', 0.7, 7), ('translate_x', 0.5, 8)),
    (('equalize', 0.3, 0), ('autocontrast', 0.4, 0)),
    (('translate_y', 0.4, 3), ('sharpness', 0.2, 6)),
    (('brightness', 0.9, 6), ('color', 0.2, 8)),
    (('solarize', 0.5, 2), ('invert', 0.0, 0)),
    (('equalize', 0.2, 0), ('autocontrast', 0.6, 0)),
    (('equalize', 0.2, 0), ('equalize', 0.6, 0)),
    (('color', 0.9, 9), ('equalize', 0.6, 0)),
    (('autocontrast', 0.8, 0), ('solarize', 0.2, 8)),
    (('brightness', 0.1, 3), ('color', 0.7, 0)),
    (('solarize', 0.4, 5), ('autocontrast', 0.9, 0)),
    (('translate_y', 0.9, 9), ('translate_y', 0.7, 9)),
    (('autocontrast', 0.9, 0), ('solarize', 0.8, 3)),
    (('equalize', 0.8, 0), ('invert', 0.1, 0)),
    (('translate_y', 0.7, 9), ('autocontrast', 0.9, 0)),
)  # fmt: skip
POLICIES = {'imagenet': IMAGENET, 'cifar': CIFAR}

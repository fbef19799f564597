"""Make the golden files that the tests of the policies and of random erasing compare against.

Writes `erasing.npz` next to this script: `boxes_<H>x<W>`, int16 [10000, 4], boxes (top, left,
height, width) that torchvision's `RandomErasing.get_params` draws for an image of that height and
width, with an area of 2 % to 33 % and a ratio of 0.3 to 3.3; where it erases nothing, the height
and width are 0.

Writes `policies.json`: what torchvision and timm hand to Pillow. A value is in the unit of
`jcls.data.augment.policy_ops.NAMES`, read off the arguments of Pillow's functions; an operation
without a magnitude has 0. Values come in pairs [of the negative sign, of the positive sign], equal
where an operation has no sign. Sizes are written '<height>x<width>'.

* `trivial_augment`: {operation: [31 pairs]} of `TrivialAugmentWide`
* `rand_augment`: {size: {operation: [31 pairs]}} of `RandAugment`
* `auto_augment`: {policy: {size: [25 sub-policies, each two of [operation, probability, pair]]}} of
  `AutoAugment`
* `rand_augment_timm`: {size: {operation: [11 pairs]}}: the levels 0 to 10 of timm's
  ``rand-m<level>-mstd0-inc1``, of which every operation is made to be applied

Made with Python 3.11, torch 2.14.1, torchvision 0.29.1, timm 1.0.31, Pillow 13.0.0 and NumPy
2.4.6, by

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 pillow==13.0.0 numpy==2.4.6
    python tests/golden/make_policies.py
"""

import contextlib
import json
import re
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image, ImageEnhance, ImageOps
from timm.data import auto_augment as timm
from torchvision.transforms import InterpolationMode, RandomErasing, autoaugment

HERE = Path(__file__).resolve().parent
SIZES = ((224, 192), (33, 331))  # height, width
ERASED_SIZES = ((224, 224), (200, 6))
# What a timm name ends with, and our name of the same operation.
ENDINGS = re.compile('(Increasing|Rel)$')


def our_name(name):
    """'ShearX' -> 'shear_x', 'AutoContrast' -> 'autocontrast'."""
    name = ENDINGS.sub('', name).replace('AutoContrast', 'Autocontrast')
    return re.sub(r'(?<=[a-z])(?=[A-Z])', '_', name).lower()


@contextlib.contextmanager
def pillow_calls():
    """The values with which Pillow's functions are called, while none of them does anything."""
    values = []

    def affine(image, size, method, matrix, *args, **kwargs):
        del args, kwargs
        assert size == image.size
        assert method == Image.Transform.AFFINE
        a, b, c, d, e, f = matrix
        assert abs(a - 1) < 1e-9
        assert abs(e - 1) < 1e-9
        assert sum(abs(entry) > 1e-9 for entry in (b, c, d, f)) <= 1, matrix
        values.append(b + c + d + f)  # of which at most one is not 0
        return image

    def first(image, value, *args, **kwargs):
        del args, kwargs
        values.append(value)
        return image

    def none(image, *args, **kwargs):
        del args, kwargs
        values.append(0)
        return image

    def table(image, lut, *args, **kwargs):
        del args, kwargs
        added = lut[0]
        assert lut[:256] == [min(255, i + added) if i < 128 else i for i in range(256)]
        values.append(added)
        return image

    def enhance(self, factor):
        values.append(factor)
        return self.image

    with contextlib.ExitStack() as stack:
        for owner, name, function in (
            (Image.Image, 'transform', affine),
            (Image.Image, 'rotate', first),
            (Image.Image, 'point', table),
            (ImageOps, 'posterize', first),
            (ImageOps, 'solarize', first),
            (ImageOps, 'autocontrast', none),
            (ImageOps, 'equalize', none),
            (ImageOps, 'invert', none),
            (ImageEnhance.Brightness, 'enhance', enhance),
            (ImageEnhance.Contrast, 'enhance', enhance),
            (ImageEnhance.Color, 'enhance', enhance),
            (ImageEnhance.Sharpness, 'enhance', enhance),
        ):
            stack.enter_context(mock.patch.object(owner, name, function))
        yield values


def torchvision_value(name, magnitude, size):
    """What Pillow gets for an operation of torchvision at this magnitude."""
    if name == 'Identity':
        return 0
    image = Image.new('RGB', size[::-1])
    with pillow_calls() as values:
        autoaugment._apply_op(image, name, magnitude, InterpolationMode.BILINEAR, None)
    (value,) = values
    return round(float(value), 9)


def torchvision_pairs(space, size):
    """{operation: pairs} of an augmentation space of torchvision."""
    found = {}
    for name, (magnitudes, signed) in space.items():
        listed = magnitudes.reshape(-1).tolist()
        found[our_name(name)] = [
            [torchvision_value(name, sign * m, size) for sign in ((-1, 1) if signed else (1, 1))]
            for m in listed
        ]
    return found


def torchvision_policy(policy, size):
    """The sub-policies of a policy of torchvision."""
    augment = autoaugment.AutoAugment(policy)
    space = augment._augmentation_space(10, size)
    rows = []
    for sub_policy in augment.policies:
        rows.append([])
        for name, probability, level in sub_policy:
            magnitudes, signed = space[name]
            magnitude = 0.0 if level is None else magnitudes[level].item()
            signs = (-1, 1) if signed else (1, 1)
            pair = [torchvision_value(name, sign * magnitude, size) for sign in signs]
            rows[-1].append([our_name(name), probability, pair])
    return rows


def timm_pairs(size):
    """{operation: pairs} of timm's increasing RandAugment, for each whole level."""
    image = Image.new('RGB', size[::-1])
    found = {}
    for level in range(11):
        augment = timm.rand_augment_transform(f'rand-m{level}-p1-mstd0-inc1', {})
        for operation in augment.ops:
            pair = []
            for number in (0.9, 0.1):  # a number above 0.5 makes the magnitude negative
                fixed = mock.patch.object(timm.random, 'random', lambda n=number: n)
                with fixed, pillow_calls() as values:
                    operation(image)
                pair.append(round(float(values[0]), 9))
            found.setdefault(our_name(operation.name), []).append(pair)
    return found


def erased_boxes(height, width, count=10_000):
    """Boxes of random erasing."""
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    boxes = []
    for _ in range(count):
        box = RandomErasing.get_params(image, (0.02, 0.33), (0.3, 3.3), [0.0])[:4]
        boxes.append((0, 0, 0, 0) if box[2:] == (height, width) else box)
    return np.array(boxes, np.int16)


def dumped(tree, indent=''):
    """JSON with a line for each list."""
    if not isinstance(tree, dict):
        return json.dumps(tree)
    inner = indent + ' '
    items = [f'{inner}{json.dumps(key)}: {dumped(item, inner)}' for key, item in tree.items()]
    return '{\n' + ',\n'.join(items) + f'\n{indent}}}'


def main():
    """Write the files."""
    boxes = {f'boxes_{h}x{w}': erased_boxes(h, w) for h, w in ERASED_SIZES}
    np.savez_compressed(HERE / 'erasing.npz', **boxes)
    policies = {'imagenet': 'IMAGENET', 'cifar': 'CIFAR10'}
    text = {f'{height}x{width}': (height, width) for height, width in SIZES}
    golden = {
        'trivial_augment': torchvision_pairs(
            autoaugment.TrivialAugmentWide()._augmentation_space(31), SIZES[0]
        ),
        'rand_augment': {
            name: torchvision_pairs(autoaugment.RandAugment()._augmentation_space(31, size), size)
            for name, size in text.items()
        },
        'auto_augment': {
            ours: {
                name: torchvision_policy(autoaugment.AutoAugmentPolicy[theirs], size)
                for name, size in text.items()
            }
            for ours, theirs in policies.items()
        },
        'rand_augment_timm': {name: timm_pairs(size) for name, size in text.items()},
    }
    (HERE / 'policies.json').write_text(dumped(golden) + '\n')


if __name__ == '__main__':
    main()

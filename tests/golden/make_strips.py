"""Make strips.npz: what torchvision makes of images a few pixels wide. Needs torchvision 0.29.1.

Each array is named HEIGHT_WIDTH_SIZE_CROP_KIND; the test makes the same images of noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import transforms

arrays = {}
for height, width, size, crop in (
    (2, 2100, 256, 32), (2100, 2, 256, 32), (3, 7777, 256, 40), (9000, 5, 200, 31),
    (1, 3001, 36, 32),
):  # fmt: skip
    noise = np.random.default_rng(height * 10_007 + width).integers(
        0, 256, (height, width, 3), np.uint8
    )
    for kind in ('bilinear', 'bicubic'):
        chain = transforms.Compose(
            [
                transforms.Resize(size, interpolation=transforms.InterpolationMode(kind)),
                transforms.CenterCrop(crop),
            ]
        )
        name = f'{height}_{width}_{size}_{crop}_{kind}'
        arrays[name] = np.asarray(chain(Image.fromarray(noise)))
np.savez_compressed(Path(__file__).with_name('strips.npz'), **arrays)

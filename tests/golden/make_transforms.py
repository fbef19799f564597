"""Make the golden file that the tests of the geometric transforms compare against.

Writes `transforms.npz` next to this script, all of it by torchvision's transforms on PIL images:

* `resize_table` int32 [M, 5]: rows of (height, width, size, out_height, out_width), as
  `Resize(size)` makes it
* `center_crop_table` int32 [M, 5]: rows of (height, width, crop, top, left), as `CenterCrop(crop)`
  picks it
* `rrc_<H>x<W>` int16 [20000, 4]: boxes (top, left, height, width) that
  `RandomResizedCrop.get_params` draws for an image of that height and width, with an area of 8% to
  100% and a ratio of 3/4 to 4/3
* `eval_source` uint8 [375, 500, 3]: a synthetic photograph
* `eval_image` uint8 [224, 224, 3]: `eval_source` after `Resize(232)` and `CenterCrop(224)`
* `crop_box` int32 [4]: a fixed box (top, left, height, width)
* `crop_image` uint8 [176, 176, 3]: that box of `eval_source`, resized by `resized_crop`

All resizing is bilinear and antialiased.

Made with Python 3.11, torch 2.14.1, torchvision 0.29.1, Pillow 13.0.0 and NumPy 2.4.6, by

    pip install torch==2.14.1 torchvision==0.29.1 pillow==13.0.0 numpy==2.4.6
    python tests/golden/make_transforms.py
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms
from torchvision.transforms import InterpolationMode, functional

HERE = Path(__file__).resolve().parent

SIZES = (8, 33, 224, 232, 235, 256)
# Pairs of a short and a long side; the table has each both ways round.
RESIZE_SIDES = (
    (375, 500),
    (333, 500),
    (480, 640),
    (224, 224),
    (231, 233),
    (1, 3),
    (7, 11),
    (63, 997),
)
# How many more pairs, for each size, to take from `inexact_sides`.
INEXACT_PAIRS = 2

CROPS = (8, 33, 32, 224)
# How much larger than the crop the image is, in height and in width.
CROP_MARGINS = (
    (0, 0),
    (0, 1),
    (1, 2),
    (2, 3),
    (3, 1),
    (4, 5),
    (5, 7),
    (6, 9),
    (8, 85),
    (11, 13),
    (32, 32),
    (151, 276),
)

RRC_EXTENTS = ((375, 500), (500, 375), (60, 600), (32, 32))
RRC_DRAWS = 20_000
RRC_SCALE = [0.08, 1.0]
RRC_RATIO = [3 / 4, 4 / 3]

CROP_BOX = (37, 81, 210, 260)  # top, left, height, width
CROP_SIZE = 176


def inexact_sides(size: int) -> list[tuple[int, int]]:
    """Pairs of sides that tell size * long / short from size * (long / short).

    The first is an integer there; the second is a little less, so truncating it is off by one.
    """
    pairs = [
        (short, long)
        for short in range(3, 400)
        for long in range(short + 1, 2 * short)
        if int(size * long / short) != int(size * (long / short))
    ]
    return pairs[:: max(1, len(pairs) // INEXACT_PAIRS)][:INEXACT_PAIRS]


def resize_table() -> np.ndarray:
    triples = [(*sides, size) for size in SIZES for sides in (*RESIZE_SIDES, *inexact_sides(size))]
    rows = []
    for short, long, size in triples:
        for height, width in sorted({(short, long), (long, short)}):
            resized = transforms.Resize(size)(Image.new('L', (width, height)))
            rows.append((height, width, size, resized.height, resized.width))
    return np.array(rows, np.int32)


def center_crop_table() -> np.ndarray:
    """Find where each crop starts, from an image whose pixels are their own flat index."""
    rows = []
    for crop in CROPS:
        for margins in CROP_MARGINS:
            height, width = crop + margins[0], crop + margins[1]
            index = np.arange(height * width, dtype=np.int32).reshape(height, width)
            cropped = np.asarray(transforms.CenterCrop(crop)(Image.fromarray(index)))
            top, left = divmod(int(cropped[0, 0]), width)
            if not np.array_equal(cropped, index[top : top + crop, left : left + crop]):
                raise RuntimeError(f'not a plain crop of {crop} from {height} x {width}')
            rows.append((height, width, crop, top, left))
    return np.array(rows, np.int32)


def random_resized_crops(height: int, width: int) -> np.ndarray:
    torch.manual_seed(0)
    image = Image.new('L', (width, height))
    boxes = [
        transforms.RandomResizedCrop.get_params(image, RRC_SCALE, RRC_RATIO)
        for _ in range(RRC_DRAWS)
    ]
    return np.array(boxes, np.int16)


def synthetic_photograph() -> np.ndarray:
    """A sky, a field, a few hard-edged shapes, a fine grating and some noise."""
    height, width = 375, 500
    y, x = np.mgrid[:height, :width].astype(np.float64)
    horizon = 210 + 18 * np.sin(x / 70)
    sky = np.stack([70 + 0.5 * y, 120 + 0.4 * y, 235 - 0.15 * y + 0.02 * x], -1)
    field = np.stack([150 - 0.25 * y, 170 - 0.2 * y + 0.05 * x, 60 + 0.1 * y], -1)
    image = np.where((y > horizon)[..., None], field, sky)

    sun = np.hypot(y - 70, x - 390)
    image += 60 * np.exp(-((sun / 60) ** 2))[..., None]
    image[sun < 28] = (255, 240, 170)
    image[(y > 130) & (y < 290) & (x > 100) & (x < 210)] = (150, 60, 45)
    image[(y > 60) & (y < 130) & (abs(x - 155) < 0.9 * (y - 60))] = (60, 30, 40)
    image[(y > 180) & (y < 230) & (x > 120) & (x < 150)] = (245, 245, 220)
    grating = np.sign(np.sin(0.02 * np.maximum(x - 250, 0) ** 1.5 + 0.3 * y))
    image += np.where((y > 300) & (x > 250), 40 * grating, 0)[..., None]

    noise = np.random.default_rng(0).normal(0, 3, image.shape)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def image_arrays() -> dict[str, np.ndarray]:
    source = synthetic_photograph()
    image = Image.fromarray(source)
    evaluate = transforms.Compose(
        [
            transforms.Resize(232, interpolation=InterpolationMode.BILINEAR, antialias=True),
            transforms.CenterCrop(224),
        ]
    )
    crop = functional.resized_crop(
        image,
        *CROP_BOX,
        size=[CROP_SIZE, CROP_SIZE],
        interpolation=InterpolationMode.BILINEAR,
        antialias=True,
    )
    return {
        'eval_source': source,
        'eval_image': np.asarray(evaluate(image)),
        'crop_box': np.array(CROP_BOX, np.int32),
        'crop_image': np.asarray(crop),
    }


def main() -> None:
    torch.set_num_threads(1)
    arrays = {'resize_table': resize_table(), 'center_crop_table': center_crop_table()}
    for height, width in RRC_EXTENTS:
        arrays[f'rrc_{height}x{width}'] = random_resized_crops(height, width)
    arrays |= image_arrays()
    path = HERE / 'transforms.npz'
    np.savez_compressed(path, **arrays)
    for name, array in arrays.items():
        print(f'{name}: {array.dtype} {array.shape}')
    print(f'{path.name}: {path.stat().st_size} bytes')


if __name__ == '__main__':
    main()

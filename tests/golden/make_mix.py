"""Make the golden file that the tests of Mixup and CutMix compare against.

Writes `mix.npz` next to this script, by torchvision's `v2.MixUp` and `v2.CutMix`, timm's
`FastCollateMixup` and torch's `CrossEntropyLoss`. They are given their lambdas (multiples of 2**-24
in [0, 1), so that float32 and float64 agree) and the centres of their boxes; N boxes, K draws, B
images of H x W:

* `boxes_in` float64 [N, 5]: height, width, lambda, row and column of the centre
* `tv_boxes` int32 [N, 4], `tv_lam` float64 [N]: (top, left, bottom, right) and the lambda of the
  area that is left; `timm_boxes`, `timm_lam`: the same
* `images` uint8 [B, H, W, 3], `labels` int64 [B], in `CLASSES` classes
* `tv_mixup_lam` float32 [K], `tv_mixup_images` float32 [K, B, H, W, 3] not rounded,
  `tv_mixup_targets` float32 [K, B, CLASSES]
* `tv_cutmix_in` float64 [K, 3]: lambda, row, column; `tv_cutmix_images` uint8, `tv_cutmix_targets`
* `timm_<mode>_lam` float32 [K, D] (1: not mixed), `timm_<mode>_cut` bool, `timm_<mode>_centre`
  int32 [K, D, 2] for `mode` batch, pair and elem with D = 1, B / 2 and B draws;
  `timm_<mode>_images` uint8, `timm_<mode>_targets`, `timm_<mode>_smooth_targets` (smoothing 0.1)
* `logits` float64 [B, CLASSES], `cross_entropy` float64 [2]: of `tv_mixup_targets[0]`, without
  and with a label smoothing of 0.1
* `cutmix_<alpha>` uint8 [4000, 4]: boxes that torchvision draws itself for an image of 96 x 64

Made with Python 3.11, torch 2.14.1, torchvision 0.29.1, timm 1.0.31 and NumPy 2.4.6, by

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.4.6
    python tests/golden/make_mix.py
"""

from pathlib import Path
from unittest import mock

import numpy as np
import torch
from timm.data import mixup as timm_mixup
from torchvision.transforms import v2

HERE = Path(__file__).resolve().parent

CLASSES = 5
SMOOTHING = 0.1
EXTENTS = ((8, 12), (11, 7), (32, 32), (176, 176), (224, 160))
HEIGHT, WIDTH, BATCH, DRAWS = EXTENTS[0][0], EXTENTS[0][1], 6, 3
DISTRIBUTION_EXTENT = (96, 64)
ALPHAS = (0.2, 1.0)

Arrays = dict[str, np.ndarray]


class Given:
    """Stands for torch's Beta distribution."""

    def __init__(self, lam: float) -> None:
        self.lam = lam

    def sample(self, _: tuple[()] = ()) -> torch.Tensor:
        return torch.tensor(self.lam, dtype=torch.float64)


def lambdas(random: np.random.Generator, count: int) -> np.ndarray:
    """Multiples of 2**-24 in [0, 1), half of them near one."""
    uniform = random.random(count)
    uniform[::2] = 1 - uniform[::2] ** 3
    return exact(uniform)


def exact(uniform: np.ndarray) -> np.ndarray:
    """Rounded down to such a multiple."""
    return np.floor(np.clip(uniform, 0, 1 - 2**-24) * 2**24) / 2**24


def tv_cutmix(lam: float, row: int, column: int) -> v2.CutMix:
    """A CutMix of torchvision's that draws this; it asks for the column first."""
    transform = v2.CutMix(alpha=1.0, num_classes=CLASSES)
    transform._dist = Given(lam)
    centre = [torch.tensor([column]), torch.tensor([row])]
    make_params = transform.make_params

    def given(inputs: list[torch.Tensor]) -> dict[str, object]:
        with mock.patch('torch.randint', side_effect=centre):
            return make_params(inputs)

    transform.make_params = given
    return transform


def make_boxes(random: np.random.Generator) -> Arrays:
    """Boxes of both, for images of several sizes; with lambda 0 and the four corners."""
    rows, tv, timm = [], [], []
    for height, width in EXTENTS:
        lam = lambdas(random, 60)
        lam[:3] = 0
        row, column = random.integers(0, height, 60), random.integers(0, width, 60)
        row[3:7], column[3:7] = (0, 0, height - 1, height - 1), (0, width - 1, 0, width - 1)
        for values in zip(lam.tolist(), row.tolist(), column.tolist(), strict=True):
            image = torch.zeros(1, 3, height, width)
            drawn = tv_cutmix(*values).make_params([image])
            left, top, right, bottom = drawn['box']
            rows.append((height, width, *values))
            tv.append((top, left, bottom, right, drawn['lam_adjusted']))
            with mock.patch('numpy.random.randint', side_effect=values[1:]):
                box, area = timm_mixup.cutmix_bbox_and_lam(image.shape, values[0])
            timm.append((box[0], box[2], box[1], box[3], area))
    tv, timm = np.array(tv), np.array(timm)
    return {
        'boxes_in': np.array(rows, np.float64),
        'tv_boxes': tv[:, :4].astype(np.int32),
        'tv_lam': tv[:, 4],
        'timm_boxes': timm[:, :4].astype(np.int32),
        'timm_lam': timm[:, 4],
    }


def make_tv(random: np.random.Generator, images: np.ndarray, labels: np.ndarray) -> Arrays:
    """What torchvision makes of the images, with one draw for all of them."""
    lam, cut_lam = lambdas(random, DRAWS), exact(random.uniform(0, 0.9, DRAWS))
    centre = random.integers(0, (HEIGHT, WIDTH), (DRAWS, 2))
    pixels, classes = torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(labels)
    mixed, cut = [], []
    for i in range(DRAWS):
        mixup = v2.MixUp(alpha=1.0, num_classes=CLASSES)
        mixup._dist = Given(lam[i])
        mixed.append(mixup(pixels.float(), classes))
        cut.append(tv_cutmix(cut_lam[i], *centre[i].tolist())(pixels, classes))

    def stack(pairs: list[tuple[torch.Tensor, torch.Tensor]], name: str) -> Arrays:
        pictures, targets = (torch.stack(part) for part in zip(*pairs, strict=True))
        pictures = pictures.permute(0, 1, 3, 4, 2).numpy()
        return {f'{name}_images': pictures, f'{name}_targets': targets.numpy()}

    logits = torch.from_numpy(random.normal(size=(BATCH, CLASSES)))
    losses = [
        torch.nn.CrossEntropyLoss(label_smoothing=amount)(logits, mixed[0][1].double())
        for amount in (0.0, SMOOTHING)
    ]
    return {
        'tv_mixup_lam': lam.astype(np.float32),
        'tv_cutmix_in': np.concatenate([cut_lam[:, None], centre], axis=1),
        **stack(mixed, 'tv_mixup'),
        **stack(cut, 'tv_cutmix'),
        'logits': logits.numpy(),
        'cross_entropy': torch.stack(losses).numpy(),
    }


def even_lambdas(random: np.random.Generator, count: int) -> np.ndarray:
    """Lambdas of boxes with even sides, which are torchvision's boxes as well."""
    lam = lambdas(random, 1000)
    sides = np.stack([np.sqrt(1 - lam) * side for side in (HEIGHT, WIDTH)])
    even = (np.floor(sides) % 2 == 0) & (np.abs(sides - np.round(sides)) > 1e-3)
    return lam[even.all(0) & (sides.min(0) > 2)][:count]


def make_timm(
    random: np.random.Generator, mode: str, images: np.ndarray, labels: np.ndarray
) -> Arrays:
    """What timm's collation makes of the images, `DRAWS` times."""
    draws = {'batch': 1, 'pair': BATCH // 2, 'elem': BATCH}[mode]
    lam = even_lambdas(random, DRAWS * draws).reshape(DRAWS, draws).astype(np.float32)
    cut = random.permutation(np.arange(DRAWS * draws) % 2 == 0).reshape(DRAWS, draws)
    if draws > 1:
        lam[:, random.integers(draws)] = 1
    centre = random.integers(0, (HEIGHT, WIDTH), (DRAWS, draws, 2)).astype(np.int32)
    found: dict[str, list[np.ndarray]] = {'images': [], 'targets': [], 'smooth_targets': []}
    for i in range(DRAWS):
        for smoothing in (0.0, SMOOTHING):
            mixup = timm_mixup.FastCollateMixup(
                mixup_alpha=1.0, cutmix_alpha=1.0, mode=mode,
                label_smoothing=smoothing, num_classes=CLASSES,
            )  # fmt: skip
            mixup._params_per_batch = lambda: (float(lam[i, 0]), bool(cut[i, 0]))  # noqa: B023
            mixup._params_per_elem = lambda _: (lam[i].copy(), cut[i])  # noqa: B023
            places = centre[i][cut[i] & (lam[i] < 1)].ravel().tolist()
            batch = [
                (image.transpose(2, 0, 1).copy(), int(label))
                for image, label in zip(images, labels, strict=True)
            ]
            with mock.patch('numpy.random.randint', side_effect=places) as asked:
                mixed, target = mixup(batch)
            assert asked.call_count == len(places)
            found['smooth_targets' if smoothing else 'targets'].append(target.float().numpy())
        found['images'].append(mixed.permute(0, 2, 3, 1).numpy())
    named = {'lam': lam, 'cut': cut, 'centre': centre, **found}
    return {f'timm_{mode}_{name}': np.stack(list(value)) for name, value in named.items()}


def make_distributions() -> Arrays:
    """Boxes that torchvision draws by itself."""
    found = {}
    for alpha in ALPHAS:
        torch.manual_seed(0)
        transform = v2.CutMix(alpha=alpha, num_classes=CLASSES)
        image = torch.zeros(1, 3, *DISTRIBUTION_EXTENT)
        boxes = [transform.make_params([image])['box'] for _ in range(4000)]
        found[f'cutmix_{alpha}'] = np.array(boxes, np.uint8)[:, [1, 0, 3, 2]]
    return found


def main() -> None:
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (BATCH, HEIGHT, WIDTH, 3), np.uint8)
    labels = np.array([0, 1, 2, 3, 4, 1])
    arrays = {
        **make_boxes(random),
        'images': images,
        'labels': labels,
        **make_tv(random, images, labels),
    }
    for mode in ('batch', 'pair', 'elem'):
        arrays |= make_timm(random, mode, images, labels)
    np.savez_compressed(HERE / 'mix.npz', **arrays, **make_distributions())


if __name__ == '__main__':
    main()

"""Make the golden file of whole trainings that the train step is compared with.

Writes `trajectory.npz` next to this script: four trainings of `STEPS` steps of a narrow torchvision
ResNet of bottlenecks, in float64, by torch's autograd, BatchNorm, SGD, cross-entropy and schedulers
alone. They share the initial weights, the batches and the settings below, and differ in how a step
sees its batch: see `VARIANTS`.

Keys of `trajectory.npz`, by torch's names and in torch's layouts:

* `weights/<key>` float32: what all start from, running statistics included
* `images` uint8 [POOL, H, W, 3], `rows` int64 [STEPS, BATCH]: step s trains on images[rows[s]]
* `label`, `label2` int32, `lam` float32 [STEPS, BATCH]: lam of `label`, 1 - lam of `label2`
* `rate` float64 [STEPS]: the learning rate that torch's schedulers gave to each step
* `<variant>/loss`, `<variant>/gradient_norm`, `<variant>/top1` float64 [STEPS]: the mean loss, the
  global norm of the gradient before weight decay, and the share of examples whose largest logit is
  at their largest target, before each update
* `<variant>/end/<key>` float64: after the last step every running statistic, and every parameter
  with at most `SMALL` elements
* `<variant>/parameter_norm` float64: of all parameters together after the last step

Made with Python 3.11, torch 2.14.1, torchvision 0.29.1, timm 1.0.31 (which `make_models.py`
imports) and NumPy 2.4.6, by

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.4.6
    python tests/golden/make_trajectory.py
"""

import copy
from typing import NamedTuple

import numpy as np
import torch
from make_models import HERE, NarrowResNet, randomise, relative_error, state_arrays
from torch import Tensor, nn, optim
from torch.nn import functional
from torchvision.models.resnet import Bottleneck
from torchvision.ops._utils import split_normalization_params

LAYERS = (1, 2, 1, 1)  # a second block in a stage: a shortcut that is the identity
CLASSES, POOL, EXTENT = 5, 80, 32
STEPS, BATCH, WARMUP = 30, 16, 4
PEAK, WARMUP_START, MOMENTUM, WEIGHT_DECAY, SMOOTHING = 0.02, 0.1, 0.9, 1e-3, 0.1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SMALL = 1280

Arrays = dict[str, np.ndarray]


class Variant(NamedTuple):
    """How a step sees its batch."""

    parts: tuple[slice, ...] = (slice(None),)  # passes over the network, each of so many rows
    replicas: bool = False  # each pass starts from the step's statistics; theirs are averaged
    frozen: tuple[str, ...] = ()  # modules without gradient, in evaluation mode


VARIANTS = {
    'plain': Variant(),
    # Two micro-batches, one after the other: the second moves the statistics that the first left.
    'accumulate': Variant(parts=(slice(0, None, 2), slice(1, None, 2))),
    # What DistributedDataParallel computes on two devices without SyncBatchNorm, but that it keeps
    # the first device's statistics: here they are averaged.
    'replicas': Variant(parts=(slice(0, 8), slice(8, 16)), replicas=True),
    'frozen': Variant(frozen=('conv1', 'bn1', 'layer1')),
}


def create_network() -> nn.Module:
    net = NarrowResNet(Bottleneck, LAYERS)
    net.fc = nn.Linear(net.fc.in_features, CLASSES)
    randomise(net, torch.Generator().manual_seed(0))
    return net.double()


def create_batches(random: np.random.Generator) -> Arrays:
    """A pattern for each class below noise; every image once in an epoch, half of them mixed."""
    patterns = random.normal(128, 40, (CLASSES, 4, 4, 3)).repeat(EXTENT // 4, 1)
    patterns = patterns.repeat(EXTENT // 4, 2)
    classes = np.arange(POOL) % CLASSES
    noisy = patterns[classes] + random.normal(0, 40, (POOL, EXTENT, EXTENT, 3))
    epochs = -(-STEPS * BATCH // POOL)
    rows = np.concatenate([random.permutation(POOL) for _ in range(epochs)])
    rows = rows[: STEPS * BATCH].reshape(STEPS, BATCH)
    lam = random.random((STEPS, BATCH), np.float32)
    return {
        'images': noisy.clip(0, 255).round().astype(np.uint8),
        'rows': rows,
        'label': classes[rows].astype(np.int32),
        'label2': classes[rows[:, ::-1]].astype(np.int32),
        'lam': np.where(random.random((STEPS, BATCH)) < 0.5, lam, np.float32(1)),
    }


def images_and_targets(batches: Arrays, step: int) -> tuple[Tensor, Tensor]:
    """The normalised images [N, 3, H, W] and target distributions [N, K] of a step."""
    pixels = torch.from_numpy(batches['images'][batches['rows'][step]]).double() / 255
    mean, std = (torch.tensor(moment, dtype=torch.float64) for moment in (MEAN, STD))
    images = (pixels - mean) / std
    label, label2 = (
        functional.one_hot(torch.from_numpy(batches[name][step]).long(), CLASSES).double()
        for name in ('label', 'label2')
    )
    lam = torch.from_numpy(batches['lam'][step]).double()[:, None]
    return images.permute(0, 3, 1, 2), lam * label + (1 - lam) * label2


def freeze(net: nn.Module, names: tuple[str, ...]) -> None:
    """Put the network into training mode, and these modules out of it."""
    net.train()
    for name in names:
        net.get_submodule(name).requires_grad_(False).eval()


def create_optimizer(net: nn.Module) -> tuple[optim.Optimizer, optim.lr_scheduler.LRScheduler]:
    """SGD that decays everything but the norms, and a linear warm-up before a cosine to 0."""
    norms, others = split_normalization_params(net)
    groups = [
        {'params': norms, 'weight_decay': 0.0},
        {'params': others, 'weight_decay': WEIGHT_DECAY},
    ]
    optimizer = optim.SGD(groups, lr=PEAK, momentum=MOMENTUM)
    schedulers = optim.lr_scheduler
    warmup = schedulers.LinearLR(optimizer, start_factor=WARMUP_START, total_iters=WARMUP)
    cosine = schedulers.CosineAnnealingLR(optimizer, T_max=STEPS - WARMUP)
    return optimizer, schedulers.SequentialLR(optimizer, [warmup, cosine], milestones=[WARMUP])


def statistics(net: nn.Module) -> dict[str, Tensor]:
    """The running statistics, not copied."""
    return {key: value for key, value in net.named_buffers() if '.running_' in key}


def forward_and_backward(
    net: nn.Module, images: Tensor, targets: Tensor, variant: Variant
) -> tuple[float, float]:
    """The mean loss and the top-1 accuracy of a batch; the gradients are left in the network."""
    loss, hits, after = 0.0, 0, []
    before = copy.deepcopy(statistics(net))
    for part in variant.parts:
        if variant.replicas:
            net.load_state_dict(before, strict=False)
        logits, expected = net(images[part]), targets[part]
        mean = functional.cross_entropy(logits, expected, label_smoothing=SMOOTHING)
        (mean / len(variant.parts)).backward()
        loss += mean.item() / len(variant.parts)
        hits += int((logits.argmax(1) == expected.argmax(1)).sum())
        after.append(copy.deepcopy(statistics(net)))
    if variant.replicas:
        averages = {key: sum(found[key] for found in after) / len(after) for key in before}
        net.load_state_dict(averages, strict=False)
    return loss, hits / len(images)


def train(net: nn.Module, batches: Arrays, variant: Variant) -> Arrays:
    """The trajectory of `net`, which ends trained; see the module's docstring for the keys."""
    freeze(net, variant.frozen)
    optimizer, scheduler = create_optimizer(net)
    curves: dict[str, list[float]] = {'rate': [], 'loss': [], 'top1': [], 'gradient_norm': []}
    for step in range(STEPS):
        optimizer.zero_grad()
        loss, top1 = forward_and_backward(net, *images_and_targets(batches, step), variant)
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        curves['loss'].append(loss)
        curves['top1'].append(top1)
        curves['gradient_norm'].append(float(nn.utils.get_total_norm(gradients)))
        curves['rate'].append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    end = {
        f'end/{key}': value
        for key, value in state_arrays(net).items()
        if '.running_' in key or value.size <= SMALL
    }
    norm = nn.utils.get_total_norm([p.detach() for p in net.parameters()])
    return {
        **{key: np.array(c) for key, c in curves.items()},
        **end,
        'parameter_norm': norm.numpy(),
    }


def report_noise(found: Arrays, net: nn.Module, batches: Arrays, variant: Variant) -> None:
    """Print how far rounding goes: the same training from weights that are moved by rounding."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(1 + 2**-52 * torch.randint(-1, 2, p.shape, generator=generator).double())
    moved = train(net, batches, variant)
    worst = {
        what: max(
            relative_error(torch.from_numpy(moved[key]), torch.from_numpy(found[key]))
            for key in found
            if key.startswith(what)
        )
        for what in ('loss', 'gradient_norm', 'end/', 'parameter_norm')
    }
    shown = ', '.join(f'{what} {error:.1e}' for what, error in worst.items())
    print(f'  moved by 2**-52: {shown}')


def main() -> None:
    torch.set_num_threads(1)
    initial = create_network()
    batches = create_batches(np.random.default_rng(0))
    arrays = {
        f'weights/{key}': value.astype(np.float32) for key, value in state_arrays(initial).items()
    }
    arrays |= batches
    for name, variant in VARIANTS.items():
        found = train(copy.deepcopy(initial), batches, variant)
        print(name, *(f'{loss:.4f}' for loss in found['loss'][::4]), f'to {found["loss"][-1]:.4f}')
        report_noise(found, copy.deepcopy(initial), batches, variant)
        arrays['rate'] = found.pop('rate')
        arrays |= {f'{name}/{key}': value for key, value in found.items()}
    path = HERE / 'trajectory.npz'
    np.savez_compressed(path, **arrays)
    print(f'{path.name}: {len(arrays)} arrays, {path.stat().st_size} bytes')


if __name__ == '__main__':
    main()

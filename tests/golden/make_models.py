"""Make the golden files that the model tests compare against.

Writes, next to this script:

* `models.npz`: three narrow networks with random weights, built from the peers' own blocks, with
  their logits, training-mode statistics and gradients.
  `tv_bottleneck` and `tv_basic` are torchvision ResNets (v1.5: the stride is on the 3x3
  convolution), `timm_d` is a timm ResNet-D (deep stem, average pooling on the shortcut).
* `parameter_counts.json`: the exact number of parameters of every preset, and where it is from.

Keys of `models.npz`, for each network `<net>` (all float32 but the labels, images in NCHW):

* `<net>/weights/<key>`: the state dict, by torch's names and in torch's layouts
* `<net>/image64`, `<net>/image75`: inputs of 4 x 3 x 64 x 64 and 4 x 3 x 75 x 91
* `<net>/logits64`, `<net>/logits75`: the outputs in evaluation mode
* `<net>/labels`: int64 [4]
* `<net>/train_logits64`: the output for `image64` in training mode
* `<net>/train_stats/<key>`: the running statistics after that one forward pass
* `<net>/train_grads/<key>`: gradients of the mean cross-entropy of `train_logits64`

To keep the file small, the images are multiples of 1/4 and each large weight tensor is a multiple
of a power of two between 1/32 and 1/16 of its largest element. Both are exact in float32, and
every output is computed from the values that are stored. Large gradients are rounded only as they
are stored, by at most 2**-13 = 1.2e-4 of the largest element of their tensor. Compare gradients
relative to that largest element, with a tolerance of 3e-4 or more.

Made with Python 3.11, torch 2.14.1, torchvision 0.29.1, timm 1.0.31 and NumPy 2.4.6, by

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.4.6
    python tests/golden/make_models.py
"""

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import timm.models.resnet as timm_resnet
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet as tv_resnet

HERE = Path(__file__).resolve().parent
NUM_CLASSES = 10
BATCH = 4
STAGE_PLANES = (8, 16, 32, 64)

# Tensors with more elements than this are rounded, to keep the file small. The convolutions of the
# stems have fewer: their outputs must not tie in the max pooling, where the gradient would be
# ambiguous.
LARGE = 1200
WEIGHT_BITS = 5
GRADIENT_BITS = 13
IMAGE_STEP = 1 / 4

Arrays = dict[str, np.ndarray]


class NarrowResNet(tv_resnet.ResNet):
    """A torchvision ResNet with stages of 8, 16, 32 and 64 planes."""

    def __init__(
        self,
        block: type[tv_resnet.BasicBlock] | type[tv_resnet.Bottleneck],
        layers: Sequence[int],
    ) -> None:
        nn.Module.__init__(self)  # the parent's own __init__ would build the full width
        self._norm_layer = nn.BatchNorm2d
        self.dilation = 1
        self.groups = 1
        self.base_width = 64
        self.inplanes = STAGE_PLANES[0]
        self.conv1 = nn.Conv2d(3, self.inplanes, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(self.inplanes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        self.layer1 = self._make_layer(block, STAGE_PLANES[0], layers[0])
        self.layer2 = self._make_layer(block, STAGE_PLANES[1], layers[1], stride=2)
        self.layer3 = self._make_layer(block, STAGE_PLANES[2], layers[2], stride=2)
        self.layer4 = self._make_layer(block, STAGE_PLANES[3], layers[3], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(STAGE_PLANES[3] * block.expansion, NUM_CLASSES)


class CifarBlock(nn.Module):
    """Two 3x3 convolutions and a parameter-free shortcut (option A)."""

    def __init__(self, in_planes: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_planes, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.new_planes = planes - in_planes

    def forward(self, x: Tensor) -> Tensor:
        shortcut = functional.pad(
            x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_planes)
        )
        y = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(y)) + shortcut)


class CifarResNet(nn.Module):
    """The CIFAR-10 network of He et al. 2015, section 4.2, with 6n + 2 layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        blocks_per_stage, remainder = divmod(depth - 2, 6)
        if remainder:
            raise ValueError(f'depth must be 6n + 2, got {depth}')
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        blocks = []
        in_planes = 16
        for planes in (16, 32, 64):
            for index in range(blocks_per_stage):
                stride = 2 if index == 0 and planes != 16 else 1
                blocks.append(CifarBlock(in_planes, planes, stride))
                in_planes = planes
        self.blocks = nn.Sequential(*blocks)
        self.fc = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(functional.relu(self.bn1(self.conv1(x))))
        return self.fc(x.mean(dim=(2, 3)))


def narrow_networks() -> dict[str, nn.Module]:
    """The three networks of `models.npz`, not yet randomised."""
    return {
        'tv_bottleneck': NarrowResNet(tv_resnet.Bottleneck, (2, 1, 1, 2)),
        'tv_basic': NarrowResNet(tv_resnet.BasicBlock, (1, 2, 1, 1)),
        'timm_d': timm_resnet.ResNet(
            timm_resnet.Bottleneck,
            (1, 2, 1, 1),
            num_classes=NUM_CLASSES,
            channels=STAGE_PLANES,
            stem_width=4,
            stem_type='deep',
            avg_down=True,
        ),
    }


def round_large(x: Tensor, bits: int) -> Tensor:
    """Round a large tensor to multiples of 2**-bits of the power of two at or above its maximum."""
    if x.numel() <= LARGE:
        return x
    step = 2.0 ** (math.ceil(math.log2(float(x.abs().max()))) - bits)
    return torch.round(x / step) * step


@torch.no_grad()
def randomise(net: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter and running statistic a random value that is not its usual one."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(
                module.weight, mode='fan_out', nonlinearity='relu', generator=generator
            )
            module.weight.copy_(round_large(module.weight, WEIGHT_BITS))
        elif isinstance(module, nn.BatchNorm2d):
            module.weight.uniform_(0.5, 1.5, generator=generator)
            module.bias.normal_(0, 0.2, generator=generator)
            module.running_mean.normal_(0, 0.2, generator=generator)
            module.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(module, nn.Linear):
            module.weight.normal_(0, module.in_features**-0.5, generator=generator)
            module.weight.copy_(round_large(module.weight, WEIGHT_BITS))
            module.bias.normal_(0, 0.2, generator=generator)


def random_images(height: int, width: int, generator: torch.Generator) -> Tensor:
    images = torch.randn(BATCH, 3, height, width, generator=generator)
    return torch.round(images / IMAGE_STEP) * IMAGE_STEP


def state_arrays(net: nn.Module) -> Arrays:
    """A copy of the state dict, without the counters of batches."""
    return {
        key: value.numpy().copy()
        for key, value in net.state_dict().items()
        if not key.endswith('num_batches_tracked')
    }


def evaluate(net: nn.Module, images: Tensor) -> Tensor:
    net.eval()
    with torch.no_grad():
        return net(images)


def train_once(net: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """One training-mode pass: the logits, and the gradient of every parameter."""
    net.train()
    net.zero_grad()
    logits = net(images)
    functional.cross_entropy(logits, labels).backward()
    return logits.detach(), {key: p.grad for key, p in net.named_parameters()}


def relative_error(value: Tensor, exact: Tensor) -> float:
    """The largest difference, relative to the largest element."""
    return float((value - exact).abs().max() / exact.abs().max())


def report_noise(
    net: nn.Module,
    images: Tensor,
    labels: Tensor,
    logits: Tensor,
    gradients: dict[str, Tensor],
    stored: dict[str, Tensor],
) -> None:
    """Print how far the results are from those of `net` in float64."""
    exact_logits, exact = train_once(net.double(), images.double(), labels)
    computed_error = max(relative_error(gradients[key], exact[key]) for key in exact)
    stored_error = max(relative_error(stored[key], exact[key]) for key in exact)
    print(
        f'  relative differences from float64: logits {relative_error(logits, exact_logits):.1e}, '
        f'gradients {computed_error:.1e}, as stored {stored_error:.1e}'
    )


def golden_network(net: nn.Module, seed: int) -> Arrays:
    generator = torch.Generator().manual_seed(seed)
    randomise(net, generator)
    untrained = copy.deepcopy(net)
    images = {
        'image64': random_images(64, 64, generator),
        'image75': random_images(75, 91, generator),
    }
    labels = torch.randint(NUM_CLASSES, (BATCH,), generator=generator)

    arrays: Arrays = {name: value.numpy() for name, value in images.items()}
    arrays |= {f'weights/{key}': value for key, value in state_arrays(net).items()}
    arrays['labels'] = labels.numpy()
    arrays['logits64'] = evaluate(net, images['image64']).numpy()
    arrays['logits75'] = evaluate(net, images['image75']).numpy()

    logits, gradients = train_once(net, images['image64'], labels)
    arrays['train_logits64'] = logits.numpy()
    arrays |= {
        f'train_stats/{key}': value
        for key, value in state_arrays(net).items()
        if '.running_' in key
    }
    stored = {key: round_large(value, GRADIENT_BITS) for key, value in gradients.items()}
    arrays |= {f'train_grads/{key}': value.numpy() for key, value in stored.items()}
    report_noise(untrained, images['image64'], labels, logits, gradients, stored)
    return arrays


def write_models(path: Path) -> None:
    arrays: Arrays = {}
    for seed, (name, net) in enumerate(narrow_networks().items()):
        print(name)
        arrays |= {f'{name}/{key}': value for key, value in golden_network(net, seed).items()}
    np.savez_compressed(path, **arrays)
    print(f'{path.name}: {len(arrays)} arrays, {path.stat().st_size} bytes')


def count_parameters(build: Callable[[], nn.Module]) -> int:
    with torch.device('meta'):  # shapes only: nothing is allocated
        return sum(parameter.numel() for parameter in build().parameters())


def write_parameter_counts(path: Path) -> None:
    from_torchvision = (
        'resnet18',
        'resnet34',
        'resnet50',
        'resnet101',
        'resnet152',
        'wide_resnet50_2',
        'wide_resnet101_2',
        'resnext50_32x4d',
        'resnext101_32x8d',
        'resnext101_64x4d',
    )
    from_timm = (
        'resnet200',
        'resnet18d',
        'resnet34d',
        'resnet50d',
        'resnet101d',
        'resnet152d',
        'resnet200d',
    )
    counts: dict[str, dict[str, int | str]] = {}
    for name in from_torchvision:
        count = count_parameters(getattr(torchvision.models, name))
        counts[name] = {'count': count, 'from': 'torchvision'}
    for name in from_timm:
        counts[name] = {'count': count_parameters(getattr(timm_resnet, name)), 'from': 'timm'}
    for depth in (20, 32, 44, 56, 110):
        counts[f'resnet{depth}'] = {
            'count': count_parameters(lambda depth=depth: CifarResNet(depth)),
            'from': 'He et al. 2015, section 4.2, option A: CifarResNet in make_models.py',
        }
    path.write_text(json.dumps(counts, indent=2) + '\n')
    print(f'{path.name}: {len(counts)} presets')


def main() -> None:
    torch.set_num_threads(1)
    write_models(HERE / 'models.npz')
    write_parameter_counts(HERE / 'parameter_counts.json')


if __name__ == '__main__':
    main()

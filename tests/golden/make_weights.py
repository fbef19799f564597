"""Make the golden files of the weight import: narrow networks, saved by the peers themselves.

Every network is built from the peer's own classes, gets random weights and random statistics, and
is saved by the peer's own function in the peer's own format. No peer is imitated here.

| network             | its file                            | saved by                    |
| ------------------- | ----------------------------------- | --------------------------- |
| `tv_bottleneck`     | `tv_bottleneck.pth`, zip            | `torch.save` (torchvision)  |
| `tv_basic`          | `tv_basic.pth`, zip                 | `torch.save` (torchvision)  |
| `tv_resnext`        | `tv_resnext.pth`, zip               | `torch.save` (torchvision)  |
| `tv_wide`           | `tv_wide.pth`, the format before 1.6 | `torch.save` (torchvision) |
| `timm_d_bottleneck` | folder: `model.safetensors`, `config.json` | `timm.models.save_for_hf` |
| `timm_d_basic`      | folder: `model.safetensors`, `config.json` | `timm.models.save_for_hf` |
| `mm_plain`          | `mm_plain.pth`: a training checkpoint | mmengine's `Runner`       |
| `mm_v1d`            | `mm_v1d.pth`: as published          | mmengine's `save_checkpoint` |
| `paddle_basic`      | `paddle_basic.pdparams`             | `paddle.save` (PaddleClas)  |
| `paddle_bottleneck` | `paddle_bottleneck.pdparams`        | `paddle.save` (PaddleClas)  |
| `paddle_vd`         | `paddle_vd.pdparams`                | `paddle.save` (PaddleClas)  |

What they are, in jcls's words (7 classes everywhere):

| network             | like preset       | width | blocks     |                             |
| ------------------- | ----------------- | ----- | ---------- | --------------------------- |
| `tv_bottleneck`     | `resnet50`        | 4     | 1, 2, 1, 1 |                             |
| `tv_basic`          | `resnet18`        | 4     | 2, 1, 1, 1 |                             |
| `tv_resnext`        | `resnext50_32x4d` | 16    | 1, 1       | two stages, to be small     |
| `tv_wide`           | `wide_resnet50_2` | 2     | 1, 1, 1, 1 |                             |
| `timm_d_bottleneck` | `resnet50d`       | 4     | 1, 1, 1, 1 |                             |
| `timm_d_basic`      | `resnet18d`       | 4     | 1, 1, 1, 1 |                             |
| `mm_plain`          | `resnet18`        | 4     | 1, 1, 1, 1 |                             |
| `mm_v1d`            | `resnet50d`       | 2     | 1, 1, 1, 1 |                             |
| `paddle_basic`      | `resnet18`        | 2     | 1, 1, 1, 1 | stage 1 has a projection    |
| `paddle_bottleneck` | `resnet50`        | 2     | 1, 1, 1, 1 |                             |
| `paddle_vd`         | `resnet50d`       | 2     | 1, 1, 1, 1 |                             |

`weights.npz` has for each network, computed by the peer from what is in its file:

* `<net>/logits64`, `<net>/logits75`: in evaluation mode, of `images(64, 2)` and `images(75, 2)`

and for those on torch (not Paddle's), after one training-mode pass over `images(64, 4)` with the
labels `LABELS` and the mean cross-entropy:

* `<net>/loss`, `<net>/train_logits`
* `<net>/stats/<key>`: the running statistics after that pass
* `<net>/grads/<key>`: the gradients, by the peer's names and in the peer's layout; of
  `tv_bottleneck` and `tv_basic` all, of `tv_resnext` and `tv_wide` those with at most `SMALL`
  elements, of the others none

Everything is computed in float64 from the float32 weights of the file; statistics and gradients
are stored as float32, the rest as float64. `images` depends on no library's random stream: PCG64's
raw output is fixed, and every pixel is a multiple of 1/64 and so exact in float32. A test copies
that function.

A second run gives the same arrays and the same bytes, but for `tv_wide.pth`, whose storages are
named by their addresses in memory, and `mm_plain.pth`, which has times in it.

Made with Python 3.11, torch 2.14.1, torchvision 0.29.1, timm 1.0.31, safetensors 0.8.0,
mmpretrain 1.2.0, mmengine 0.10.7, mmcv-lite 2.2.0, paddlepaddle 3.3.1, paddleclas 2.6.0 and
NumPy 2.4.6, by

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 safetensors==0.8.0 numpy==2.4.6
    pip install mmengine==0.10.7 mmcv-lite==2.2.0 einops mat4py modelindex importlib-metadata
    pip install paddlepaddle==3.3.1 requests prettytable ujson easydict scikit-learn faiss-cpu \
        visualdl 'setuptools<81'
    pip install --no-deps mmpretrain==1.2.0 paddleclas==2.6.0
    python tests/golden/make_weights.py
"""

from __future__ import annotations

import argparse
import copy
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmpretrain
import numpy as np
import paddle
import timm
import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner, save_checkpoint, weights_to_cpu
from mmpretrain.models import ImageClassifier
from mmpretrain.models.backbones import resnet as mm_resnet
from mmpretrain.structures import DataSample
from paddleclas.ppcls.arch.backbone.legendary_models import resnet as paddle_resnet
from timm.models import save_for_hf
from torch import nn
from torch.nn import functional
from torchvision.models import resnet as tv_resnet

CLASSES = 7
LABELS = (0, 2, 4, 6)
SMALL = 1200  # elements, see above
PADDLE_SHARE = 32  # PaddleClas's widths are divided by this

Arrays = dict[str, np.ndarray]


def images(size: int, count: int) -> np.ndarray:
    """Images [count, 3, size, size] in float32: blocks of 8 x 8 pixels, and noise on every pixel.

    Multiples of 1/64 between -4 and 4.
    """
    blocks = -(-size // 8)
    raw = np.random.PCG64(1000 * size + count).random_raw
    coarse = raw(count * 3 * blocks * blocks) >> 56
    coarse = coarse.reshape(count, 3, blocks, blocks).repeat(8, 2).repeat(8, 3)
    fine = (raw(count * 3 * size * size) >> 56).reshape(count, 3, size, size)
    levels = coarse[:, :, :size, :size].astype(np.float32) + fine.astype(np.float32)
    return (levels - 256) / 64


def random_value(key: str, shape: Sequence[int], rng: np.random.Generator) -> np.ndarray:
    """What the state `key` becomes: something that is not its usual value, in float32."""
    name = key.rsplit('.', 1)[-1]
    if name in ('running_var', '_variance'):
        value = rng.uniform(0.5, 2, shape)
    elif name in ('running_mean', '_mean') or name == 'bias':
        value = rng.normal(0, 0.3, shape)
    elif len(shape) == 1:  # the scale of a normalisation
        value = rng.uniform(0.5, 1.5, shape)
    elif len(shape) == 2:  # the classifier: it has more inputs than outputs
        value = rng.normal(0, max(shape) ** -0.5, shape)
    else:
        value = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
    return value.astype(np.float32)


# torch: torchvision, timm and mmpretrain


class TorchvisionResNet(tv_resnet.ResNet):
    """A torchvision ResNet with stages of `width`, 2 `width`, ... planes; two to four stages."""

    def __init__(
        self,
        block: type[tv_resnet.BasicBlock] | type[tv_resnet.Bottleneck],
        blocks: Sequence[int],
        width: int,
        groups: int = 1,
        width_per_group: int = 64,
    ) -> None:
        nn.Module.__init__(self)  # the parent's own __init__ would build the full width
        self._norm_layer = nn.BatchNorm2d
        self.dilation = 1
        self.groups = groups
        self.base_width = width_per_group
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        for stage in range(4):
            layer: nn.Module = nn.Identity()
            if stage < len(blocks):
                layer = self._make_layer(
                    block, width * 2**stage, blocks[stage], stride=2 if stage else 1
                )
            self.add_module(f'layer{stage + 1}', layer)
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(self.inplanes, CLASSES)


class MmBasic(mm_resnet.ResNet):
    arch_settings = {18: (mm_resnet.BasicBlock, (1, 1, 1, 1))}  # noqa: RUF012


class MmV1d(mm_resnet.ResNetV1d):
    arch_settings = {50: (mm_resnet.Bottleneck, (1, 1, 1, 1))}  # noqa: RUF012


def timm_net(name: str) -> nn.Module:
    narrow = {'layers': (1, 1, 1, 1), 'channels': (4, 8, 16, 32), 'stem_width': 2}
    return timm.create_model(name, num_classes=CLASSES, **narrow)


def mm_net(backbone: nn.Module) -> nn.Module:
    init_default_scope('mmpretrain')
    return ImageClassifier(
        backbone=backbone,
        neck={'type': 'GlobalAveragePooling'},
        head={'type': 'LinearClsHead', 'num_classes': CLASSES, 'in_channels': backbone.feat_dim},
        data_preprocessor={
            'mean': [123.675, 116.28, 103.53],
            'std': [58.395, 57.12, 57.375],
            'to_rgb': True,
        },
    )


def torch_nets() -> dict[str, nn.Module]:
    """The networks on torch, not yet randomised."""
    basic, bottleneck = tv_resnet.BasicBlock, tv_resnet.Bottleneck
    return {
        'tv_bottleneck': TorchvisionResNet(bottleneck, (1, 2, 1, 1), 4),
        'tv_basic': TorchvisionResNet(basic, (2, 1, 1, 1), 4),
        'tv_resnext': TorchvisionResNet(bottleneck, (1, 1), 16, groups=32, width_per_group=4),
        'tv_wide': TorchvisionResNet(bottleneck, (1, 1, 1, 1), 2, width_per_group=128),
        'timm_d_bottleneck': timm_net('resnet50d'),
        'timm_d_basic': timm_net('resnet18d'),
        'mm_plain': mm_net(MmBasic(18, base_channels=4, stem_channels=4)),
        'mm_v1d': mm_net(MmV1d(depth=50, base_channels=2, stem_channels=2)),
    }


def randomise_torch(net: nn.Module, rng: np.random.Generator) -> None:
    for key, value in net.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.from_numpy(random_value(key, value.shape, rng)))


class FewImages(torch.utils.data.Dataset):
    """What mm_plain is trained on, so that its checkpoint is a real one."""

    metainfo = {'classes': tuple(f'class {i}' for i in range(CLASSES))}  # noqa: RUF012

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        pixels = torch.from_numpy(images(64, 4)[index] * 32 + 128).clamp(0, 255)
        label = DataSample().set_gt_label(index)
        return {'inputs': pixels.to(torch.uint8), 'data_samples': label}


def save_mm_training(net: nn.Module, path: Path) -> None:
    """Train for an epoch at learning rate 0 (only the statistics move), and save all mmengine has.

    The runner's own folder of logs is made next to the files, and removed.
    """
    work_dir = path.with_suffix('.work')
    net.is_init = True  # or the runner would draw new weights
    runner = Runner(
        model=net,
        work_dir=str(work_dir),
        train_dataloader={
            'batch_size': 2,
            'num_workers': 0,
            'dataset': FewImages(),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'collate_fn': {'type': 'default_collate'},
        },
        train_cfg={'by_epoch': True, 'max_epochs': 1},
        optim_wrapper={'optimizer': {'type': 'SGD', 'lr': 0.0}},
        param_scheduler={'type': 'MultiStepLR', 'by_epoch': True, 'milestones': [1]},
        default_hooks={'logger': {'type': 'LoggerHook', 'interval': 1}, 'checkpoint': None},
        default_scope='mmpretrain',
        randomness={'seed': 0},
        experiment_name='mm_plain',
        log_level='ERROR',
    )
    runner.train()
    runner.save_checkpoint(str(path.parent), path.name)
    for file in sorted(work_dir.rglob('*'), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    work_dir.rmdir()


def save_torch(name: str, net: nn.Module, folder: Path) -> None:
    path = folder / f'{name}.pth'
    if name.startswith('timm'):
        save_for_hf(net, str(folder / name), safe_serialization=True)
    elif name == 'mm_plain':
        save_mm_training(net, path)
    elif name == 'mm_v1d':
        # What mmpretrain's tools/model_converters/publish_model.py leaves of a checkpoint.
        meta = {'mmpretrain_version': mmpretrain.__version__, 'dataset_meta': FewImages.metainfo}
        save_checkpoint({'meta': meta, 'state_dict': weights_to_cpu(net.state_dict())}, str(path))
    else:
        torch.save(net.state_dict(), path, _use_new_zipfile_serialization=name != 'tv_wide')


def torch_arrays(name: str, net: nn.Module) -> Arrays:
    """The logits of `net`, and what one training-mode pass gives."""
    net = copy.deepcopy(net).double()
    arrays: Arrays = {}
    net.eval()
    for size in (64, 75):
        with torch.no_grad():
            logits = net(torch.from_numpy(images(size, 2)).double())
        arrays[f'logits{size}'] = logits.numpy()
    net.train()
    net.zero_grad()
    logits = net(torch.from_numpy(images(64, len(LABELS))).double())
    loss = functional.cross_entropy(logits, torch.tensor(LABELS))
    loss.backward()
    arrays['train_logits'] = logits.detach().numpy()
    arrays['loss'] = loss.detach().numpy()
    for key, value in net.state_dict().items():
        if '.running_' in key:
            arrays[f'stats/{key}'] = value.float().numpy()
    largest = {'tv_bottleneck': np.inf, 'tv_basic': np.inf, 'tv_resnext': SMALL, 'tv_wide': SMALL}
    for key, parameter in net.named_parameters():
        if parameter.numel() <= largest.get(name, 0):
            arrays[f'grads/{key}'] = parameter.grad.float().numpy()
    return arrays


# Paddle


class PaddleConv(paddle_resnet.ConvBNLayer):
    """PaddleClas's layer of convolution and normalisation, with fewer channels."""

    def __init__(self, num_channels: int, num_filters: int, *args: Any, **kwargs: Any) -> None:
        inputs = num_channels if num_channels == 3 else num_channels // PADDLE_SHARE
        super().__init__(inputs, num_filters // PADDLE_SHARE, *args, **kwargs)


def paddle_net(depth: str, version: str) -> paddle.nn.Layer:
    """A ResNet of PaddleClas with stages of 2, 4, 8 and 16 channels and a block in each."""
    paddle_resnet.ConvBNLayer = PaddleConv  # every convolution of the module goes through it
    config = paddle_resnet.NET_CONFIG[depth] | {'block_depth': [1, 1, 1, 1]}
    pattern = [f'blocks[{i}]' for i in range(4)]
    net = paddle_resnet.ResNet(config, pattern, version=version, class_num=CLASSES)
    net.fc = paddle.nn.Linear(net.fc.weight.shape[0] // PADDLE_SHARE, CLASSES)
    return net


def randomise_paddle(net: paddle.nn.Layer, rng: np.random.Generator) -> None:
    for key, value in net.state_dict().items():
        value.set_value(random_value(key, value.shape, rng))


def paddle_arrays(net: paddle.nn.Layer) -> Arrays:
    net = net.to(dtype='float64')
    net.eval()
    with paddle.no_grad():
        inputs = {size: paddle.to_tensor(images(size, 2), 'float64') for size in (64, 75)}
        return {f'logits{size}': net(x).numpy() for size, x in inputs.items()}


def write(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    arrays: Arrays = {}
    seeds = itertools.count()
    for name, net in torch_nets().items():
        randomise_torch(net, np.random.default_rng(next(seeds)))
        save_torch(name, net, folder)  # first: it trains mm_plain
        arrays |= {f'{name}/{key}': value for key, value in torch_arrays(name, net).items()}
    versions = {'basic': ('18', 'vb'), 'bottleneck': ('50', 'vb'), 'vd': ('50', 'vd')}
    for kind, (depth, version) in versions.items():
        layer = paddle_net(depth, version)
        randomise_paddle(layer, np.random.default_rng(next(seeds)))
        paddle.save(layer.state_dict(), str(folder / f'paddle_{kind}.pdparams'))
        arrays |= {f'paddle_{kind}/{key}': value for key, value in paddle_arrays(layer).items()}
    np.savez_compressed(folder / 'weights.npz', **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description='Make the golden files of the weight import.')
    parser.add_argument('folder', type=Path, nargs='?', default=Path(__file__).parent)
    torch.set_num_threads(1)
    paddle.set_device('cpu')
    write(parser.parse_args().folder)


if __name__ == '__main__':
    main()

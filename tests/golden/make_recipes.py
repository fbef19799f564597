"""Make the golden file that the tests of what a recipe is made of compare against.

Writes `recipes.npz` next to this script: numbers by torch.optim and its schedulers,
torchvision.ops, timm.optim, timm.scheduler, timm.utils, timm.loss and timm.task, in float64.
Parameters have the names and layouts of jcls: HWIO kernels, [in, out] classifiers.

* `initial` [P], `target` [P]: all parameters of `SHAPES` after each other, what `gradient` needs
* `updates` int [A]: after how many updates; `optimizer_<case>` [A, P]: the parameters then
* `schedule_<case>` [epochs]: the rate at the start of each epoch
* `recipe_<config>` [epochs]: the same for a shipped config, of ImageNet-1k or CIFAR-10; a rate that
  moves every step is that of the epoch's first
* `weights` [200, 5]: what a model holds after each step, three of a parameter and two of a buffer;
  `ema_<case>` [200, 5]: its average then
* `resnet50_names`, `resnet50_torchvision` bool, `resnet50_timm` bool: parameters, and whether each
  decays by the two peers' rules
* `resnet18_names`, `resnet18_rates`: what timm's layer decay of 0.75 multiplies each rate by
* `logits`, `teacher`, `targets_hard`, `targets_soft`, `targets_tie` [6, 5]
* `loss_<case>` [6]: of each example, made as a batch of one; `batch_<case>`: of all six at once;
  `gradient_<case>` [6, 5]: of the sum of `loss_<case>` by the logits

Made with Python 3.11, torch 2.14.1, torchvision 0.29.1, timm 1.0.31 and NumPy 2.4.6, by

    pip install torch==2.14.1 torchvision==0.29.1 timm==1.0.31 numpy==2.4.6
    python tests/golden/make_recipes.py
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import timm
import timm.optim
import torch
import torchvision
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy
from timm.scheduler import CosineLRScheduler, PolyLRScheduler, StepLRScheduler
from timm.task.distillation import DistillationTeacher
from timm.task.token_distillation import TokenDistillationTask
from timm.utils import ModelEmaV3
from timm.utils.agc import adaptive_clip_grad
from torch import nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_, get_total_norm
from torch.optim import lr_scheduler
from torchvision.ops import sigmoid_focal_loss
from torchvision.ops._utils import split_normalization_params

HERE = Path(__file__).resolve().parent
Arrays = dict[str, np.ndarray]

# Optimizers

SHAPES = {
    'head/bias': (3,),
    'head/kernel': (4, 3),
    'stage1_block1/conv1/kernel': (3, 3, 2, 4),
    'stage1_block1/norm1/bias': (4,),
    'stage1_block1/norm1/scale': (4,),
}
UPDATES = (1, 2, 3, 5, 10, 20, 35, 50)
AMPLITUDES = (0.03, 0.3, 2.0)  # of the gradient, in turn
RATES = {'head/kernel': 2.0, 'stage1_block1/norm1/scale': 0.5, 'stage1_block1/conv1/kernel': 0.1}
DECAY = 0.05


def gradient(values: np.ndarray, target: np.ndarray, step: int) -> np.ndarray:
    """Of all parameters [P]; the same to the last bit wherever the tests compute it."""
    away = values - target
    noise = (37 * np.arange(away.size) + 61 * step) % 97 / 97 - 0.5
    found = AMPLITUDES[step % 3] * (away + away / (1 + away * away) + noise)
    return found * ((step != 4) | (np.arange(away.size) >= 3))  # none for the head's bias once


def rate(step: int) -> float:
    """A warm-up of ten steps, then a line down to a tenth: as a fraction of the peak."""
    return (step + 1) / 10 if step < 10 else 1 - 0.9 * (step - 9) / 40


def split(values: np.ndarray) -> Arrays:
    """[P] -> the parameters by name."""
    ends = np.cumsum([int(np.prod(shape)) for shape in SHAPES.values()])
    parts = zip(SHAPES.items(), np.split(values, ends[:-1]), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}


def to_torch(value: np.ndarray) -> torch.Tensor:
    """HWIO -> OIHW, [in, out] -> [out, in]."""
    axes = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}[value.ndim]
    return torch.tensor(value.transpose(axes).copy())


def from_torch(value: torch.Tensor) -> np.ndarray:
    axes = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}[value.ndim]
    return value.detach().numpy().transpose(axes)


def but_head(params: list[nn.Parameter]) -> None:
    """Without the classifier's, here the first two, as timm's `model_parameters` can."""
    adaptive_clip_grad(params[2:], clip_factor=0.1)


def trained(
    initial: np.ndarray,
    target: np.ndarray,
    make: Callable[..., torch.optim.Optimizer],
    peak: float,
    *,
    rates: dict[str, float] | None = None,
    clip: Callable[[list[nn.Parameter]], object] = lambda _: None,
) -> np.ndarray:
    """The parameters after `UPDATES`; `make` is given a group for each of them."""
    params = {name: nn.Parameter(to_torch(value)) for name, value in split(initial).items()}
    factors = {name: (rates or {}).get(name, 1.0) for name in params}
    optimizer = make(
        [
            {'params': [param], 'weight_decay': 0.0 if 'norm' in name else DECAY, 'name': name}
            for name, param in params.items()
        ],
        lr=peak,
    )
    found = []
    for step in range(UPDATES[-1]):
        values = np.concatenate([from_torch(p).ravel() for p in params.values()])
        for name, value in split(gradient(values, target, step)).items():
            params[name].grad = to_torch(value)
        for group in optimizer.param_groups:
            group['lr'] = peak * rate(step) * factors[group['name']]
        clip(list(params.values()))
        optimizer.step()
        if step + 1 in UPDATES:
            found.append(np.concatenate([from_torch(p).ravel() for p in params.values()]))
    return np.stack(found)


def make_optimizers() -> Arrays:
    random = np.random.default_rng(0)
    initial, target = random.normal(size=(2, sum(map(np.prod, SHAPES.values()))))
    initial[:3] = 0  # the head's bias: no trust ratio at the first update
    sgd = partial(torch.optim.SGD, momentum=0.9)
    lamb, rmsprop_tf = timm.optim.Lamb, partial(timm.optim.RMSpropTF, eps=1e-3, momentum=0.9)
    norms: dict[str, list[float]] = {'clip_norm': [], 'lamb': []}

    def clip_norm(params: list[nn.Parameter]) -> None:
        norms['clip_norm'].append(float(clip_grad_norm_(params, 1.0)))

    def measure(params: list[nn.Parameter]) -> None:
        norms['lamb'].append(float(get_total_norm([param.grad for param in params])))

    train = partial(trained, initial, target)
    found = {
        'sgd': train(torch.optim.SGD, 0.1),
        'sgd_momentum': train(sgd, 0.02),
        'sgd_nesterov': train(partial(sgd, nesterov=True), 0.02),
        'sgd_decoupled': train(partial(timm.optim.SGDW, momentum=0.9), 0.02),
        'rmsprop': train(torch.optim.RMSprop, 0.01),
        'rmsprop_momentum': train(
            partial(torch.optim.RMSprop, alpha=0.9, eps=0.0316, momentum=0.9), 0.01
        ),
        'rmsprop_tf': train(rmsprop_tf, 0.01),
        'rmsprop_tf_decoupled': train(partial(rmsprop_tf, decoupled_decay=True), 0.01),
        'adam': train(torch.optim.Adam, 0.05),
        'adamw': train(partial(torch.optim.AdamW, betas=(0.8, 0.99)), 0.05),
        'adadelta': train(torch.optim.Adadelta, 1.0),
        'lamb': train(lamb, 0.05, clip=measure),
        'lamb_unclipped': train(partial(lamb, max_grad_norm=None), 0.05),
        'lars': train(partial(timm.optim.Lars, momentum=0.9), 0.1),
        'lars_nesterov': train(
            partial(timm.optim.Lars, momentum=0.8, nesterov=True, trust_coeff=0.05), 0.1
        ),
        'clip_norm': train(sgd, 0.1, clip=clip_norm),
        'adaptive_clip': train(sgd, 0.1, clip=but_head),
        'rates_sgd': train(sgd, 0.02, rates=RATES),
        'rates_rmsprop_tf': train(rmsprop_tf, 0.01, rates=RATES),
        'rates_lamb': train(lamb, 0.05, rates=RATES),
    }
    for values in norms.values():  # clipped at some steps, not at others
        assert 10 < (np.array(values) > 1).sum() < 40, norms
    arrays = {f'optimizer_{name}': value for name, value in found.items()}
    return {'initial': initial, 'target': target, 'updates': np.array(UPDATES), **arrays}


# Schedules


def sgd_of(lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=lr)


def by_torch(epochs: int, lr: float, make: Callable[..., Any]) -> np.ndarray:
    """The rates of a scheduler of torch's that steps after every epoch."""
    optimizer = sgd_of(lr)
    scheduler, found = make(optimizer), []
    for _ in range(epochs):
        found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return np.array(found)


def warmed(warmup: Callable[..., Any], main: Callable[..., Any]) -> Callable[..., Any]:
    """torchvision's: one after the other, at epoch 5."""
    return lambda optimizer: lr_scheduler.SequentialLR(
        optimizer, schedulers=[warmup(optimizer), main(optimizer)], milestones=[5]
    )


def by_timm(make: Callable[..., Any], epochs: int | None = None) -> np.ndarray:
    """The rates of a scheduler of timm's, called as its train.py does; 5e-3 at the peak."""
    optimizer = sgd_of(5e-3)
    scheduler, found = make(optimizer), []
    for epoch in range(epochs or scheduler.get_cycle_length()):
        found.append(optimizer.param_groups[0]['lr'])
        scheduler.step(epoch + 1)
    return np.array(found)


def make_schedules() -> Arrays:
    linear = partial(lr_scheduler.LinearLR, start_factor=0.01, total_iters=5)
    constant = partial(lr_scheduler.ConstantLR, factor=0.01, total_iters=5)
    cosine = partial(lr_scheduler.CosineAnnealingLR, T_max=595)
    steps = partial(lr_scheduler.StepLR, step_size=30, gamma=0.1)
    restarts = lr_scheduler.CosineAnnealingWarmRestarts
    timm_cosine = partial(CosineLRScheduler, t_initial=300, warmup_t=5, warmup_lr_init=1e-4)
    cycles = partial(CosineLRScheduler, t_initial=8, cycle_limit=4, lr_min=1e-6)
    found = {
        'torchvision': by_torch(600, 0.5, warmed(linear, cosine)),
        'torchvision_end': by_torch(600, 0.5, warmed(linear, partial(cosine, eta_min=0.005))),
        'torchvision_constant': by_torch(95, 0.1, warmed(constant, steps)),
        'step': by_torch(90, 0.1, steps),
        'multi_step': by_torch(
            90, 0.1, partial(lr_scheduler.MultiStepLR, milestones=[25, 50, 75], gamma=0.2)
        ),
        'polynomial': by_torch(
            80, 0.3, partial(lr_scheduler.PolynomialLR, total_iters=80, power=2.5)
        ),
        'exponential': by_torch(90, 0.1, partial(lr_scheduler.ExponentialLR, gamma=0.97)),
        'linear': by_torch(
            60, 0.1, partial(lr_scheduler.LinearLR, start_factor=1, end_factor=0.2, total_iters=60)
        ),
        'restarts': by_torch(35, 0.1, partial(restarts, T_0=10)),
        'restarts_stretched': by_torch(70, 0.1, partial(restarts, T_0=10, T_mult=2, eta_min=1e-3)),
        'timm_cosine': by_timm(timm_cosine),
        'timm_cosine_end': by_timm(partial(timm_cosine, lr_min=1e-6)),
        'timm_cosine_prefix': by_timm(partial(timm_cosine, warmup_prefix=True)),
        'timm_cosine_prefix_end': by_timm(partial(timm_cosine, warmup_prefix=True, lr_min=1e-6)),
        'timm_cycles': by_timm(partial(cycles, cycle_decay=0.5)),
        'timm_cycles_stretched': by_timm(partial(cycles, cycle_decay=0.5, cycle_mul=2.0)),
        'timm_cycles_warmed': by_timm(
            partial(cycles, cycle_mul=1.5, cycle_decay=0.8, warmup_t=3, warmup_lr_init=1e-4)
        ),
        'timm_polynomial': by_timm(
            partial(PolyLRScheduler, t_initial=90, power=0.9, warmup_t=5, warmup_lr_init=1e-4)
        ),
        'timm_step': by_timm(
            partial(StepLRScheduler, decay_t=30, decay_rate=0.1, warmup_t=5, warmup_prefix=False),
            90,
        ),
    }
    return {f'schedule_{name}': value for name, value in found.items()}


def every_step(epochs: int, steps: int, lr: float, make: Callable[..., Any]) -> np.ndarray:
    """The rates at the start of each epoch of a scheduler of torch's that steps after each step."""
    optimizer = sgd_of(lr)
    scheduler, found = make(optimizer), []
    for i in range(epochs * steps):
        if i % steps == 0:
            found.append(optimizer.param_groups[0]['lr'])
        optimizer.step()
        scheduler.step()
    return np.array(found)


def by_updates(epochs: int, steps: int, lr: float, warmup: int) -> np.ndarray:
    """timm's cosine after a warm-up from 0, both moving with every update."""
    optimizer = sgd_of(lr)
    scheduler = CosineLRScheduler(
        optimizer,
        t_initial=(epochs - warmup) * steps,
        warmup_t=warmup * steps,
        warmup_prefix=True,
        t_in_epochs=False,
    )
    found = []
    for epoch in range(epochs):
        scheduler.step_update(epoch * steps)
        found.append(optimizer.param_groups[0]['lr'])
    return np.array(found)


def make_recipe_rates() -> Arrays:
    """Batch 256 makes 5004 steps an epoch of ImageNet-1k, 1024 makes 1251, CIFAR's 128 390."""
    cosine, multi_step = lr_scheduler.CosineAnnealingLR, lr_scheduler.MultiStepLR
    steps = partial(lr_scheduler.StepLR, step_size=30, gamma=0.1)

    def warmed_cosine(epochs: int, steps: int) -> Callable[..., Any]:
        return lambda optimizer: lr_scheduler.SequentialLR(
            optimizer,
            [
                lr_scheduler.LinearLR(optimizer, start_factor=0.01, total_iters=5 * steps),
                cosine(optimizer, T_max=(epochs - 5) * steps),
            ],
            milestones=[5 * steps],
        )

    def timm_cosine(lr: float, epochs: int) -> np.ndarray:
        optimizer = sgd_of(lr)
        scheduler = CosineLRScheduler(optimizer, t_initial=epochs, warmup_t=5, warmup_lr_init=1e-4)
        found = []
        for epoch in range(epochs):
            found.append(optimizer.param_groups[0]['lr'])
            scheduler.step(epoch + 1)
        return np.array(found)

    drops = partial(multi_step, milestones=[164 * 390 // 2, 164 * 390 * 3 // 4], gamma=0.1)
    found = {
        'resnet50_v1.py': by_torch(90, 0.1, steps),
        'resnet50_v1.py:schedule=cosine': by_updates(90, 5004, 0.1, 5),
        'resnet50_v2.py': every_step(600, 1251, 0.5, warmed_cosine(600, 1251)),
        'resnet50_v2.py:like=torchvision': by_torch(600, 0.5, warmed_cosine(600, 1)),
        'resnet50_ladder.py:rung=baseline': by_torch(90, 0.1, steps),
        'resnet50_ladder.py:rung=lr': by_torch(90, 0.5, warmed_cosine(90, 1)),
        'resnet50_ladder.py:rung=long': by_torch(600, 0.5, warmed_cosine(600, 1)),
        'resnet50_ladder.py:rung=resize': by_torch(600, 0.5, warmed_cosine(600, 1)),
        'resnet50_a1.py': timm_cosine(5e-3, 600),
        'resnet50_a2.py': timm_cosine(5e-3, 300),
        'resnet50_a3.py': timm_cosine(8e-3, 100),
        'resnet50_vd.py': by_updates(300, 1251, 0.4, 5),
        'resnet50_paddle.py': every_step(300, 5004, 0.1, partial(cosine, T_max=300 * 5004)),
        'resnet50_paddle.py:schedule=piecewise': by_torch(
            120, 0.1, partial(multi_step, milestones=[30, 60, 90], gamma=0.1)
        ),
        'resolution_study.py': by_updates(90, 1251, 0.4, 5),
        'resolution_study.py:init=w,lr=0.01': every_step(
            40, 1251, 0.004, partial(cosine, T_max=40 * 1251)
        ),
        'flax_example.py': by_updates(100, 1251, 0.4, 5),
        'cifar_resnet.py': every_step(164, 390, 0.1, drops),
        'cifar_resnet.py:depth=110': every_step(
            164,
            390,
            0.1,
            lambda optimizer: lr_scheduler.ChainedScheduler(
                [
                    lr_scheduler.ConstantLR(optimizer, factor=0.1, total_iters=400),
                    drops(optimizer),
                ]
            ),
        ),
    }
    return {f'recipe_{name}': value for name, value in found.items()}


# Averages of weights


class Small(nn.Module):
    """A parameter of three and a buffer of two values."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer('mean', torch.zeros(2))

    def set(self, values: np.ndarray) -> None:
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(values[:3]))
            self.mean.copy_(torch.from_numpy(values[3:]))


def values_of(model: nn.Module) -> np.ndarray:
    return np.concatenate([model.weight.detach().numpy(), model.mean.numpy()])


class ExponentialMovingAverage(torch.optim.swa_utils.AveragedModel):
    """As in torchvision's references/classification/utils.py."""

    def __init__(self, model: nn.Module, decay: float, device: str = 'cpu') -> None:
        def ema_avg(average: torch.Tensor, value: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
            return decay * average + (1 - decay) * value

        super().__init__(model, device, ema_avg, use_buffers=True)


def by_torchvision(
    weights: np.ndarray,
    *,
    batch_size: int,
    ema_steps: int,
    steps_per_epoch: int,
    epochs: int,
    lr_warmup_epochs: int,
) -> np.ndarray:
    """The loops of torchvision's train.py as far as they are about the average."""
    model = Small()
    adjust = batch_size * ema_steps / epochs
    alpha = min(1.0, (1.0 - 0.99998) * adjust)
    model_ema = ExponentialMovingAverage(model, decay=1.0 - alpha)
    found: list[np.ndarray] = []
    for epoch in range(epochs):
        for i in range(steps_per_epoch):
            if len(found) == len(weights):
                return np.stack(found)
            model.set(weights[len(found)])
            if i % ema_steps == 0:
                model_ema.update_parameters(model)
                if epoch < lr_warmup_epochs:
                    model_ema.n_averaged.fill_(0)
            found.append(values_of(model_ema.module))
    raise AssertionError('the run is too short')


def by_timm_ema(weights: np.ndarray, **fields: Any) -> np.ndarray:
    """timm's, updated as its train.py does."""
    model = Small()
    average, found = ModelEmaV3(model, **fields), []
    for num_updates, values in enumerate(weights, 1):
        model.set(values)
        average.update(model, step=num_updates)
        found.append(values_of(average.module))
    return np.stack(found)


def make_averages() -> Arrays:
    random = np.random.default_rng(1)
    weights = random.normal(size=(200, 5)).cumsum(0) / 4 + 1
    long = partial(by_torchvision, weights, batch_size=1024, ema_steps=32, steps_per_epoch=100)
    short = partial(by_torchvision, weights, batch_size=256, ema_steps=3, steps_per_epoch=7)
    found = {
        'torchvision': long(epochs=600, lr_warmup_epochs=0),
        'torchvision_warmup': long(epochs=600, lr_warmup_epochs=1),
        'torchvision_fast': long(epochs=4, lr_warmup_epochs=0),
        'torchvision_short': short(epochs=30, lr_warmup_epochs=0),
        'torchvision_short_warmup': short(epochs=30, lr_warmup_epochs=5),
        'torchvision_every_step': by_torchvision(
            weights, batch_size=8192, ema_steps=1, steps_per_epoch=9, epochs=40, lr_warmup_epochs=1
        ),
        'torchvision_copies': by_torchvision(
            weights, batch_size=65536, ema_steps=32, steps_per_epoch=70, epochs=3,
            lr_warmup_epochs=0,
        ),
        'timm': by_timm_ema(weights, decay=0.9998),
        'timm_fast': by_timm_ema(weights, decay=0.9),
        'timm_warmup': by_timm_ema(weights, decay=0.9998, use_warmup=True),
        'timm_warmup_fast': by_timm_ema(weights, decay=0.9, use_warmup=True),
    }  # fmt: skip
    return {'weights': weights, **{f'ema_{name}': value for name, value in found.items()}}


# Groups of parameters


def make_groups() -> Arrays:
    def names(model: nn.Module, params: list[nn.Parameter]) -> list[str]:
        wanted = set(map(id, params))
        return [name for name, param in model.named_parameters() if id(param) in wanted]

    by_torchvision = torchvision.models.resnet50()
    spared, _ = split_normalization_params(by_torchvision)
    own = timm.create_model('resnet50')
    decayed = next(
        group['params']
        for group in timm.optim.param_groups_weight_decay(own, 0.02)
        if group['weight_decay']
    )
    every = [name for name, _ in own.named_parameters()]
    assert every == [name for name, _ in by_torchvision.named_parameters()]
    rates = {}
    small = timm.create_model('resnet18')
    for group in timm.optim.param_groups_layer_decay(small, layer_decay=0.75):
        rates |= dict.fromkeys(names(small, group['params']), group['lr_scale'])
    return {
        'resnet50_names': np.array(every),
        'resnet50_torchvision': ~np.isin(every, names(by_torchvision, spared)),
        'resnet50_timm': np.isin(every, names(own, decayed)),
        'resnet18_names': np.array(list(rates)),
        'resnet18_rates': np.array(list(rates.values())),
    }


# Losses

CLASSES = 5
CLASS_WEIGHTS = (0.5, 2.0, 1.0, 0.0, 3.0)


class Student(nn.Module):
    """Its logits are the images: for the classifier and for the distillation."""

    pretrained_cfg = {'mean': (0.485, 0.456, 0.406), 'std': (0.229, 0.224, 0.225)}  # noqa: RUF012

    def set_distilled_training(self, enable: bool) -> None:
        pass

    def forward(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return logits, logits


class Answer(nn.Module):
    """A teacher that answers this."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, _: torch.Tensor) -> torch.Tensor:
        return self.logits


def distilled(
    logits: torch.Tensor, targets: torch.Tensor, teacher: torch.Tensor, **fields: Any
) -> torch.Tensor:
    """The whole loss of timm's, of which 0.7 is the label's with a smoothing of 0.1."""
    task = TokenDistillationTask(
        Student(),
        DistillationTeacher(Answer(teacher)),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        task_loss_weight=0.7,
        verbose=False,
        **fields,
    )
    return task(logits, targets)['loss']


def make_losses() -> Arrays:
    random = np.random.default_rng(2)
    logits, teacher = torch.from_numpy(random.normal(scale=3, size=(2, 6, CLASSES)))
    labels = torch.tensor([0, 1, 2, 3, 4, 2])
    logits[5] *= 10
    logits[4, 4] = 40  # so sure that its sigmoid is 1
    lam = torch.tensor([0.7, 0.95, 0.55, 0.9, 0.35, 0.12])[:, None]
    hard, soft, smooth = (
        mixup_target(labels, CLASSES, part, smoothing)
        for part, smoothing in ((1.0, 0.0), (lam, 0.0), (lam, 0.1))
    )
    tie = mixup_target(labels, CLASSES, 0.2)
    assert (tie == 0.2).any()
    weight = torch.tensor(CLASS_WEIGHTS)
    entropy = functional.cross_entropy
    focal = partial(sigmoid_focal_loss, reduction='sum')
    # The peer's function of logits and targets, and the targets.
    cases: dict[str, tuple[Callable[..., torch.Tensor], torch.Tensor]] = {
        'softmax_hard': (entropy, labels),
        'softmax_hard_smooth': (partial(entropy, label_smoothing=0.1), labels),
        'softmax_soft': (entropy, soft),
        'softmax_soft_smooth': (partial(entropy, label_smoothing=0.1), soft),
        'softmax_hard_weighted': (partial(entropy, weight=weight), hard),
        'softmax_soft_weighted': (partial(entropy, weight=weight), soft),
        'softmax_soft_smooth_weighted': (
            partial(entropy, weight=weight, label_smoothing=0.1),
            soft,
        ),
        'binary_hard': (BinaryCrossEntropy(0.0), labels),
        'binary_hard_smooth': (BinaryCrossEntropy(0.1), labels),
        'binary_hard_threshold': (BinaryCrossEntropy(0.1, target_threshold=0.2), labels),
        # Of mixed targets timm smooths the labels where it mixes them.
        'binary_soft': (BinaryCrossEntropy(0.0), soft),
        'binary_soft_smooth': (BinaryCrossEntropy(0.1), smooth),
        'binary_soft_threshold': (BinaryCrossEntropy(0.0, target_threshold=0.2), soft),
        'binary_soft_smooth_threshold': (BinaryCrossEntropy(0.1, target_threshold=0.2), smooth),
        'binary_tie_threshold': (BinaryCrossEntropy(0.0, target_threshold=0.2), tie),
        'binary_sum': (BinaryCrossEntropy(0.1, sum_classes=True), smooth),
        'binary_sum_threshold': (
            BinaryCrossEntropy(0.1, target_threshold=0.2, sum_classes=True),
            smooth,
        ),
        'binary_weighted': (BinaryCrossEntropy(0.1, weight=weight), smooth),
        'binary_sum_weighted': (BinaryCrossEntropy(0.1, weight=weight, sum_classes=True), smooth),
        'focal_hard': (focal, hard),
        'focal_soft': (focal, soft),
        'focal_unweighted': (partial(focal, alpha=-1), soft),
        'focal_gamma': (partial(focal, gamma=1.5), soft),
        'focal_gamma_zero': (partial(focal, gamma=0), hard),
        'focal_gamma_unweighted': (partial(focal, gamma=1.5, alpha=-1), hard),
    }
    for kind, fields in {
        'soft': {'distill_type': 'soft'},
        'soft_cool': {'distill_type': 'soft', 'temperature': 0.5},
        'soft_warm': {'distill_type': 'soft', 'temperature': 4.0},
        'hard': {'distill_type': 'hard'},
    }.items():
        cases[f'distill_{kind}'] = (partial(distilled, **fields), soft)
    found: Arrays = {
        'logits': logits.numpy(),
        'teacher': teacher.numpy(),
        'targets_hard': hard.numpy(),
        'targets_soft': soft.numpy(),
        'targets_tie': tie.numpy(),
    }
    for name, (loss, targets) in cases.items():
        x = logits.clone().requires_grad_()
        columns = (x, targets, teacher) if name.startswith('distill') else (x, targets)
        each = torch.stack([loss(*(c[i : i + 1] for c in columns)) for i in range(6)])
        (slope,) = torch.autograd.grad(each.sum(), x)
        found |= {
            f'loss_{name}': each.detach().numpy(),
            f'gradient_{name}': slope.numpy(),
            f'batch_{name}': loss(*columns).detach().numpy(),
        }
    return found


def main() -> None:
    torch.set_default_dtype(torch.float64)
    arrays = {
        **make_optimizers(),
        **make_schedules(),
        **make_recipe_rates(),
        **make_averages(),
        **make_groups(),
        **make_losses(),
    }
    np.savez_compressed(HERE / 'recipes.npz', **arrays)


if __name__ == '__main__':
    main()

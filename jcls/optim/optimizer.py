"""Optimizers: from gradients to the *direction* of the update, which the step scales by the rate.

    params <- params - lr(step) * direction

Keeping the rate out of the optimizer makes decoupled weight decay follow the whole scheduled rate,
and the learning rate that is logged is the one that was applied. This file has what all optimizers
share: clipping -> the chosen function of `update_rules`, which places the decay -> multipliers of
the rate. Frozen parameters skip all of this.

Papers: Loshchilov & Hutter 2017 (1711.05101, decoupled weight decay); Goyal et al. 2017
(1706.02677, linear scaling); Brock et al. 2021 (2102.06171, adaptive clipping).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from jcls.config.parts import choose, part
from jcls.optim import groups
from jcls.optim.update_rules import OPTIMIZERS, Decay

BY_DATASET_SIZE = 'by_dataset_size'
NORM = r'.*norm\d*/(scale|bias)'  # every parameter of a normalisation layer


class Groups(NamedTuple):
    """How each parameter is treated, in trees like the parameters' tree."""

    decay: Any  # float: weight decay
    rate: Any  # float: multiplier of the learning rate
    trained: Any  # bool: whether it is trained


class Optimizer(NamedTuple):
    """`direction` turns gradients into the direction of the update; `peak` is the peak rate.

    The direction is ``direction.update(gradients, state, params, lr=lr)``; `lr` is for optimizers
    that need the rate.
    """

    direction: optax.GradientTransformationExtraArgs
    peak: float
    groups: Callable[[Any], Groups]  # from parameters, arrays or shapes


def create(
    batch_size: int,
    trained: Callable[[Any], Any] | None = None,
    examples: int | None = None,
    *,
    name: str = 'sgd',
    lr: float | str = 0.1,
    reference_batch: int | None = 256,
    scaling: str = 'linear',
    lr_groups: tuple[tuple[str, float], ...] = (('.*', 1.0),),
    layer_decay: float = 1.0,
    weight_decay: float = 1e-3,
    decay: str = 'decoupled',
    decay_groups: tuple[tuple[str, float], ...] = ((NORM, 0.0), ('.*', 1.0)),
    clip_norm: float | None = None,
    adaptive_clip: float | None = None,
    **fields: Any,
) -> Optimizer:
    """The ``optimizer`` section.

    Args:
      batch_size: number of examples in a step.
      trained: a function of the parameters to a tree of whether each is trained; None to train all.
      examples: number of training examples, for lr='by_dataset_size'.
      name: one of `OPTIMIZERS`.
      lr: peak learning rate for a batch of `reference_batch`; or 'by_dataset_size', for
        finetuning, see `rate_by_dataset_size`.
      reference_batch: batch size that `lr` is stated for; None to use `lr` as it is.
      scaling: how `lr` follows the batch size: 'linear', or 'sqrt' (usual for adaptive optimizers).
      lr_groups: rules (pattern, multiplier of the rate) over parameter paths, see
        `jcls.optim.groups`; e.g. (('stem/.*', 0.1), ('stage1_.*', 0.2), ('.*', 1.0)).
      layer_decay: factor of the rate from block to block, as in timm: a block that is d blocks
        before the classifier has layer_decay ** d. The stem counts as a block.
      weight_decay: w >= 0; the default acts like the usual coupled 1e-4.
      decay: 'decoupled' adds w * p to the direction, so that p <- p - lr * (update + w * p);
        'coupled' adds w * p to the gradient before momentum (torch's SGD). With momentum m a
        coupled w acts about like a decoupled w / (1 - m).
      decay_groups: rules (pattern, multiplier of w). Norm parameters are exempt by default; add
        ('head/bias', 0.0) for a recipe that exempts biases.
      clip_norm: limit of the gradients' global norm; larger gradients are scaled down together.
      adaptive_clip: limit of the norm of each output channel's gradient, as a multiple of the norm
        of the channel's weights; larger ones are scaled down. The classifier is exempt.
      **fields: the fields of the chosen optimizer.
    """
    if isinstance(lr, str):
        choose({BY_DATASET_SIZE: None}, lr, 'config.optimizer.lr')
        if examples is None:
            raise ValueError(f'config.optimizer.lr={lr!r} needs the number of training examples')
        lr = rate_by_dataset_size(examples)
    bounded = {
        'lr': (lr, 0 < lr < math.inf, 'must be positive and finite'),
        'weight_decay': (
            weight_decay,
            0 <= weight_decay < math.inf,
            'must be finite and not negative',
        ),
        'reference_batch': (
            reference_batch,
            reference_batch is None or reference_batch >= 1,
            'at least 1, or None not to scale',
        ),
        'layer_decay': (layer_decay, 0 < layer_decay <= 1, 'a factor in (0, 1]'),
        'clip_norm': (clip_norm, clip_norm is None or clip_norm > 0, 'must be positive'),
        'adaptive_clip': (
            adaptive_clip,
            adaptive_clip is None or adaptive_clip > 0,
            'must be positive',
        ),
    }
    for field, (value, fine, rule) in bounded.items():
        if not fine:
            raise ValueError(f'config.optimizer.{field}={value}: {rule}')
    power = choose({'linear': 1.0, 'sqrt': 0.5}, scaling, 'config.optimizer.scaling')
    for pattern, multiplier in lr_groups:
        if not 0 < multiplier < math.inf:
            raise ValueError(
                f'config.optimizer.lr_groups: ({pattern!r}, {multiplier}): a multiplier must be '
                'positive; to freeze parameters, set config.init.freeze'
            )
    rule = part(OPTIMIZERS, name, 'optimizer')
    choose(dict.fromkeys(('decoupled', 'coupled')), decay, 'config.optimizer.decay')
    rule(Decay({}, decay), **fields)  # so that wrong fields are refused now

    def groups_of(params: Any) -> Groups:
        rules = {'decay_groups': decay_groups, 'lr_groups': lr_groups}
        factors = {
            field: groups.assign(params, table, f'config.optimizer.{field}')
            for field, table in rules.items()
        }
        depth = groups.depths(params) if layer_decay != 1 else jax.tree.map(lambda _: 0, params)
        return Groups(
            decay=jax.tree.map(lambda k: weight_decay * k, factors['decay_groups']),
            rate=jax.tree.map(lambda k, d: k * layer_decay**d, factors['lr_groups'], depth),
            trained=trained(params) if trained else jax.tree.map(lambda _: True, params),
        )

    def direction_for(params: Any) -> optax.GradientTransformationExtraArgs:
        group = groups_of(params)
        clips = [] if clip_norm is None else [optax.clip_by_global_norm(clip_norm)]
        if adaptive_clip is not None:
            body = optax.adaptive_grad_clip(adaptive_clip)
            clips.append(optax.masked(body, lambda tree: {part: part != 'head' for part in tree}))
        of_trained = Groups(*(_only(group.trained, tree) for tree in group))
        update = optax.chain(
            *clips, rule(Decay(of_trained.decay, decay), **fields), _scale(of_trained.rate)
        )
        if all(jax.tree.leaves(group.trained)):
            return optax.with_extra_args_support(update)
        return optax.partition({True: update, False: optax.set_to_zero()}, group.trained)

    peak = lr if reference_batch is None else lr * (batch_size / reference_batch) ** power
    return Optimizer(
        optax.GradientTransformationExtraArgs(
            lambda params: direction_for(params).init(params),
            lambda updates, state, params=None, **extra: direction_for(params).update(
                updates, state, params, **extra
            ),
        ),
        peak,
        groups_of,
    )


def rate_by_dataset_size(examples: int) -> float:
    """A rate for finetuning: 0.001 up to 1,000 images, 0.01 from 100,000 on, log-linear between.

    This is PaddleClas's advice for batches of 256 ("Tricks for Training", finetuning).
    """
    share = (math.log10(max(examples, 1)) - 3) / 2
    return 0.001 * 10 ** min(max(share, 0.0), 1.0)


def _only(trained: Any, tree: Any) -> Any:
    """The tree with `optax.MaskedNode` in place of what is not trained."""
    return jax.tree.map(lambda keep, value: value if keep else optax.MaskedNode(), trained, tree)


def _scale(rates: Any) -> optax.GradientTransformation:
    """A transformation that multiplies updates by the tree of `rates`."""
    return optax.stateless(
        lambda updates, _: jax.tree.map(lambda u, k: u if k == 1 else u * k, updates, rates)
    )

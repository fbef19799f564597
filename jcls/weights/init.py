"""Start from weights that exist, and freeze some: the ``init`` section.

Loading is by path, such as ``params/stage1_block1/conv1/kernel``: what the model has and the source
has not, or has in another shape, is an error that names it. Nothing is left out silently.
"""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jcls import models
from jcls.config.parts import choose
from jcls.models.resnet import ARCHITECTURE
from jcls.weights import load, metadata
from jcls.weights.foreign.convert import adapt_channels, shown

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitSettings:
    """The ``init`` section.

    Attributes:
      source: a workdir of jcls, one of its checkpoint folders, or a folder that Orbax saved a tree
        with ``params`` and ``batch_stats`` in; weights of torchvision, timm, mmpretrain or
        PaddleClas, as `jcls import` takes them: a file, an https address or 'hf:owner/name'. None
        starts from random weights. A first convolution for colour is adapted to other channels.
      step: of a workdir's checkpoints: 'last', 'best' or a number.
      ema: 'auto' takes averaged weights if the source has them, 'yes' insists, 'no' takes the raw
        ones.
      prefix: use only what is below this in the source's names, e.g. 'encoder'.
      head: 'keep' the source's classifier, or make a 'new' one, for other classes.
      freeze: as mmpretrain's ``frozen_stages``: -1 nothing, 0 the stem, k the stem and stages 1
        to k; or regular expressions that match whole parameter paths, e.g. ('stem/.*',). What is
        frozen gets no update and no decay; a normalisation layer that is frozen whole normalises
        with its running statistics, which stay. Drop path goes on in frozen blocks.
      norm_eval: let every normalisation layer do that, while its parameters train.
    """

    source: str | None = None
    step: str = 'last'
    ema: str = 'auto'
    prefix: str = ''
    head: str = 'keep'
    freeze: int | tuple[str, ...] = -1
    norm_eval: bool = False

    def __post_init__(self) -> None:
        choose(dict.fromkeys(('auto', 'yes', 'no')), self.ema, 'config.init.ema')
        choose(dict.fromkeys(('keep', 'new')), self.head, 'config.init.head')
        if isinstance(self.freeze, int) and self.freeze < -1:
            raise ValueError(
                f'config.init.freeze={self.freeze}: -1 (nothing), 0 (the stem) or a stage'
            )
        if self.source == '':
            raise ValueError("config.init.source='': a folder, or None")
        what = (self.step, self.ema, self.prefix, self.head)
        if self.source is None and what != ('last', 'auto', '', 'keep'):
            raise ValueError(
                'config.init: step={!r}, ema={!r}, prefix={!r} and head={!r} say what to take from '
                'a source, but config.init.source is None'.format(*what)
            )


def source_variables(
    settings: InitSettings,
    model: models.ResNet,
    initial: dict[str, Any],
    *,
    epsilon: float,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> dict[str, Any]:
    """The variables to start from, read from ``config.init.source``.

    Args:
      settings: the ``init`` section.
      model: that will use them.
      initial: its random variables, of which a new head is taken.
      epsilon: of its normalisation layers.
      mean: of the run's images, like `std` as fractions of 255.
      std: see `mean`.

    Raises:
      ValueError: if they cannot be read, or do not fit.
    """
    try:
        card, found = load.read(
            str(settings.source),
            settings.step,
            ema=settings.ema,
            prefix=settings.prefix.strip('/.'),
        )
    except ValueError as error:
        raise ValueError(f'config.init: {error}') from None
    if card:
        check_architecture(metadata.model_of(card), model, settings)
        check_epsilon(card, epsilon)
    check_moments(card, mean, std)
    return merge(initial, found, settings)


def check_architecture(source: Any, model: Any, settings: InitSettings) -> None:
    """Refuse a source whose model (a `jcls.models.ResNet`) is built otherwise than `model`.

    Two of them may have the same parameters and yet compute different things.
    """
    lines = [
        f'! {field}: {theirs} in the source, {ours} in the model'
        for field in ARCHITECTURE  # which a network of the user's own may lack
        if (theirs := getattr(source, field, None)) != (ours := getattr(model, field, None))
    ]
    if lines:
        raise ValueError(f'{_cause(lines, settings)}:\n{shown(lines)}')


def check_epsilon(card: dict[str, Any], ours: float) -> None:
    """Refuse a source whose normalisation layers add something else to the variance."""
    theirs = metadata.epsilon(card)
    if theirs != ours:
        raise ValueError(
            f'config.init.source was trained with norm.epsilon={theirs}, but config.norm.epsilon='
            f'{ours}: the same weights would compute something else; set --config.norm.epsilon='
            f'{theirs}'
        )


def check_moments(card: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Warn if the source's images were normalised otherwise than those of the run."""
    theirs = [tuple(round(v, 3) for v in card.get(key, ())) for key in ('mean', 'std')]
    ours = [tuple(round(v, 3) for v in values) for values in (mean, std)]
    if all(theirs) and len(theirs[0]) == len(ours[0]) and theirs != ours:
        logger.warning(
            'warning: the source was trained on images normalised with mean %s and std %s, not %s '
            'and %s: set config.data.mean and config.data.std, or expect a slower start',
            *theirs,
            *ours,
        )


def merge(
    variables: dict[str, Any], loaded: dict[str, Any], settings: InitSettings
) -> dict[str, Any]:
    """The model's `variables` with what was `loaded`; a new head stays as `variables` has it.

    Raises:
      ValueError: naming what is missing, left over or of another shape.
    """
    own = flatten_dict(variables, sep='/')
    found = flatten_dict(loaded, sep='/')
    if settings.head == 'new':
        found = {path: leaf for path, leaf in found.items() if not path.startswith('params/head/')}
        wanted = {path for path in own if not path.startswith('params/head/')}
    else:
        wanted = set(own)
    _adapt(found, own)
    lines = [
        f'- {path} {np.shape(found[path])}: not in the model' for path in found.keys() - wanted
    ]
    lines += [f'+ {path} {own[path].shape}: not in the source' for path in wanted - found.keys()]
    lines += [
        f'! {path}: {np.shape(found[path])} in the source, {own[path].shape} in the model'
        for path in wanted & found.keys()
        if np.shape(found[path]) != own[path].shape
    ]
    if lines:
        lines.sort(key=lambda line: (line[0] == '!', 'batch_stats' in line, line))
        raise ValueError(f'{_cause(lines, settings)}:\n{shown(lines)}')
    merged = {
        path: np.asarray(found[path], leaf.dtype) if path in wanted else leaf
        for path, leaf in own.items()
    }
    return unflatten_dict(merged, sep='/')


def _adapt(found: dict[str, Any], own: dict[str, Any]) -> None:
    """Fit a first convolution for colour to images of other channels, in place."""
    first = 'params/stem/conv1/kernel'
    if first not in found or first not in own:
        return
    (*window, before, out), (*own_window, channels, own_out) = found[first].shape, own[first].shape
    if before == 3 and channels != 3 and (window, out) == (own_window, own_out):
        logger.info('the first convolution of the source is adapted to %d channel(s)', channels)
        found[first] = adapt_channels(np.asarray(found[first]), channels)


def _cause(lines: list[str], settings: InitSettings) -> str:
    """What the differences `lines` are about, and how to cure them."""
    if all('params/head/' in line for line in lines):
        return (
            f"config.init.head='keep', but the classifier of {settings.source} is another one; "
            "set config.init.head='new' for other classes"
        )
    prefix = f' below config.init.prefix={settings.prefix!r}' if settings.prefix else ''
    return f'config.init.source={settings.source}{prefix} does not fit config.model'

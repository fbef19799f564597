"""The ``init`` section: start from existing weights, and freeze some of them.

Variables are loaded by path, such as ``params/stage1_block1/conv1/kernel``. An error names those
that the source lacks, has in another shape, or has in addition. Nothing is left out silently.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from jcls import models
from jcls.config.parts import choose
from jcls.models.resnet import ARCHITECTURE
from jcls.weights import load
from jcls.weights.classes import match, require_same
from jcls.weights.foreign.convert import UNTOLD, adapt_channels, shown
from jcls.weights.imported import EMA_CHOICES
from jcls.weights.metadata import epsilon as read_epsilon
from jcls.weights.metadata import model_of

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitSettings:
    """The ``init`` section.

    Attributes:
      source: a workdir of jcls, one of its checkpoint folders, or a folder in which Orbax saved a
        tree with ``params`` and ``batch_stats``; or weights of torchvision, timm, mmpretrain or
        PaddleClas, as for `jcls import`: a file, an https address or 'hf:owner/name'. None starts
        from random weights. A first convolution for colour is adapted to other channels.
      step: checkpoint of a workdir: 'last', 'best' or a number.
      ema: 'auto' takes averaged weights if the source has them, 'yes' insists, 'no' takes the raw
        ones.
      prefix: use only the variables below this path in the source, in its own names, such as
        'encoder'.
      head: 'keep' the source's classifier, or make a 'new' one for other classes.
      freeze: -1 for nothing, 0 for the stem, k for the stem and stages 1 to k, as mmpretrain's
        ``frozen_stages``; or regular expressions that match whole parameter paths, such as
        ('stem/.*',). Frozen parameters get no update and no decay. A normalisation layer with all
        its parameters frozen uses its running statistics and keeps them. Drop path stays on.
      norm_eval: let every normalisation layer use and keep its running statistics, while its
        parameters train.
    """

    source: str | None = None
    step: str = 'last'
    ema: str = 'auto'
    prefix: str = ''
    head: str = 'keep'
    freeze: int | tuple[str, ...] = -1
    norm_eval: bool = False

    def __post_init__(self) -> None:
        choose(dict.fromkeys(EMA_CHOICES), self.ema, 'config.init.ema')
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
    classes: tuple[str, ...],
) -> dict[str, Any]:
    """The variables to start from, read from ``config.init.source``.

    Args:
      settings: the ``init`` section.
      model: the model to start.
      initial: random variables of the model; a new head comes from these.
      epsilon: epsilon of the model's normalisation layers.
      mean: mean of the run's images, as fractions of 255.
      std: standard deviation of the run's images, as fractions of 255.
      classes: names of the run's classes. A head that is kept is put in their order.

    Raises:
      ValueError: if the source cannot be read, does not fit the model, or its head is for other
        classes.
    """
    try:
        metadata, variables = load.read(
            str(settings.source),
            settings.step,
            ema=settings.ema,
            prefix=settings.prefix.strip('/.'),
            classifier=settings.head == 'keep',
        )
    except ValueError as error:
        raise ValueError(f'config.init: {error}') from None
    if metadata:
        assumed = UNTOLD.keys() & metadata.get('assumed', ())
        check_architecture(model_of(metadata), model, settings, assumed)
        check_epsilon(metadata, epsilon)
    check_moments(metadata, mean, std)
    if settings.head == 'keep' and metadata.get('classes'):
        variables = in_order_of(variables, metadata, classes, settings)
    return merge(initial, variables, settings)


def in_order_of(
    variables: dict[str, Any],
    metadata: dict[str, Any],
    classes: tuple[str, ...],
    settings: InitSettings,
) -> dict[str, Any]:
    """The variables with the head's classes in the order of the run's.

    Raises:
      ValueError: if the source is known to have other classes.
    """
    theirs = metadata['classes']
    order = match(theirs, classes)
    if order == [*range(len(theirs))] or len(theirs) != len(classes):  # the latter fails later
        return variables
    if order is None and 'classes' in metadata.get('assumed', ()):
        logger.warning(
            'warning: the names of the classes of %s are not known: its head is taken in their '
            'order',
            settings.source,
        )
        return variables
    if order is None:
        try:
            require_same(theirs, classes, f'config.init.source={settings.source}')
        except ValueError as error:
            raise ValueError(f"{error}; set config.init.head='new' for other classes") from None
    logger.info('the classes of %s are in another order: its head is put in ours', settings.source)
    flat = flatten_dict(variables, sep='/')
    for path, leaf in flat.items():
        if path.startswith('params/head/'):
            flat[path] = np.asarray(leaf)[..., order]
    return unflatten_dict(flat, sep='/')


def check_architecture(
    source: Any, model: Any, settings: InitSettings, assumed: Iterable[str] = ()
) -> None:
    """Raise ValueError if the source's model is built otherwise than `model`.

    Two networks may have the same parameters and yet compute different things. What is only
    `assumed` of the source may be otherwise in the model where no preset has it so: then the config
    says it.
    """
    lines = [
        f'! {field}: {theirs} in the source, {ours} in the model'
        for field in ARCHITECTURE  # a network of the user's own may lack them
        if (theirs := getattr(source, field, None)) != (ours := getattr(model, field, None))
        and not (field in assumed and ours == UNTOLD[field][-1])
    ]
    if lines:
        raise ValueError(f'{_cause(lines, settings)}:\n{shown(lines)}')


def check_epsilon(metadata: dict[str, Any], ours: float) -> None:
    """Raise ValueError if the source's normalisation layers have another epsilon."""
    theirs = read_epsilon(metadata)
    if theirs != ours:
        raise ValueError(
            f'config.init.source was trained with norm.epsilon={theirs}, but config.norm.epsilon='
            f'{ours}: the same weights would compute something else; set --config.norm.epsilon='
            f'{theirs}'
        )


def check_moments(
    metadata: dict[str, Any], mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    """Warn if the source's images were normalised with another mean or deviation than the run's."""
    theirs = [tuple(round(v, 3) for v in metadata.get(key, ())) for key in ('mean', 'std')]
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
    """The model's `variables` replaced by the `loaded` ones, except for a new head.

    Raises:
      ValueError: if variables are missing, left over or of another shape; the error names them.
    """
    own = flatten_dict(variables, sep='/')
    source = flatten_dict(loaded, sep='/')
    if settings.head == 'new':
        source = {
            path: leaf for path, leaf in source.items() if not path.startswith('params/head/')
        }
        wanted = {path for path in own if not path.startswith('params/head/')}
    else:
        wanted = set(own)
    _adapt(source, own)
    lines = [
        f'- {path} {np.shape(source[path])}: not in the model' for path in source.keys() - wanted
    ]
    lines += [f'+ {path} {own[path].shape}: not in the source' for path in wanted - source.keys()]
    lines += [
        f'! {path}: {np.shape(source[path])} in the source, {own[path].shape} in the model'
        for path in wanted & source.keys()
        if np.shape(source[path]) != own[path].shape
    ]
    if lines:
        lines.sort(key=lambda line: (line[0] == '!', 'batch_stats' in line, line))
        raise ValueError(f'{_cause(lines, settings)}:\n{shown(lines)}')
    merged = {
        path: np.asarray(source[path], leaf.dtype) if path in wanted else leaf
        for path, leaf in own.items()
    }
    return unflatten_dict(merged, sep='/')


def _adapt(source: dict[str, Any], own: dict[str, Any]) -> None:
    """Adapt a first convolution for colour to images of other channels, in place."""
    first = 'params/stem/conv1/kernel'
    if first not in source or first not in own:
        return
    (*window, before, out), (*own_window, channels, own_out) = source[first].shape, own[first].shape
    if before == 3 and channels != 3 and (window, out) == (own_window, own_out):
        logger.info('the first convolution of the source is adapted to %d channel(s)', channels)
        source[first] = adapt_channels(np.asarray(source[first]), channels)


def _cause(lines: list[str], settings: InitSettings) -> str:
    """The first line of an error about the differences `lines`: what they mean, and the cure."""
    if all('params/head/' in line for line in lines):
        return (
            f"config.init.head='keep', but the classifier of {settings.source} is another one; "
            "set config.init.head='new' for other classes"
        )
    prefix = f' below config.init.prefix={settings.prefix!r}' if settings.prefix else ''
    return f'config.init.source={settings.source}{prefix} does not fit config.model'

"""Start from weights that exist, and freeze some: the ``init`` section.

Loading is by path, such as ``params/stage1_block1/conv1/kernel``: what the model has and the source
has not, or has in another shape, is an error that names it. Nothing is left out silently.
"""

from __future__ import annotations

import logging
import re
from typing import Any, NamedTuple

import jax
import numpy as np

from jcls.optim.groups import flat, path_of
from jcls.schema import choose
from jcls.weights.card import epsilon
from jcls.weights.convert import adapt_channels, shown

logger = logging.getLogger(__name__)

# Fields of a `jcls.models.ResNet` that decide what it computes with its parameters.
BUILT = ('block', 'blocks', 'width', 'stem', 'shortcut', 'groups', 'inner_ratio', 'project_first')


class Settings(NamedTuple):
    """The ``init`` section, see `create`."""

    source: str | None
    step: str
    ema: str
    prefix: str
    head: str
    freeze: int | tuple[str, ...]
    norm_eval: bool


def create(
    *,
    source: str | None = None,
    step: str = 'last',
    ema: str = 'auto',
    prefix: str = '',
    head: str = 'keep',
    freeze: int | tuple[str, ...] = -1,
    norm_eval: bool = False,
) -> Settings:
    """The ``init`` section.

    Args:
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
    choose(dict.fromkeys(('auto', 'yes', 'no')), ema, 'config.init.ema')
    choose(dict.fromkeys(('keep', 'new')), head, 'config.init.head')
    if isinstance(freeze, int) and freeze < -1:
        raise ValueError(f'config.init.freeze={freeze}: -1 (nothing), 0 (the stem) or a stage')
    if source == '':
        raise ValueError("config.init.source='': a folder, or None")
    if source is None and (step, ema, prefix, head) != ('last', 'auto', '', 'keep'):
        raise ValueError(
            f'config.init: step={step!r}, ema={ema!r}, prefix={prefix!r} and head={head!r} say '
            'what to take from a source, but config.init.source is None'
        )
    return Settings(source, step, ema, prefix.strip('/.'), head, freeze, norm_eval)


def trained(params: Any, freeze: int | tuple[str, ...]) -> Any:
    """The tree of `params` with whether each is trained.

    Raises:
      ValueError: for a stage that the model has not, or a pattern that matches nothing.
    """
    paths = [*flat(params)]
    where = f'config.init.freeze={freeze!r}'
    if isinstance(freeze, int):
        stages = max(int(found[1]) for path in paths if (found := re.match(r'stage(\d+)', path)))
        if freeze > stages:
            raise ValueError(f'{where}: the model has stages 1 to {stages}')
        patterns = ['stem/.*'] if freeze >= 0 else []
        patterns += [f'stage{stage}_.*' for stage in range(1, freeze + 1)]
    else:
        patterns = list(freeze)
    frozen: set[str] = set()
    for pattern in patterns:
        try:
            matching = {path for path in paths if re.fullmatch(pattern, path)}
        except re.error as error:
            raise ValueError(f'{where}: {pattern!r} is not a regular expression: {error}') from None
        if not matching:
            raise ValueError(
                f'{where}: {pattern!r} matches no parameter; it must match a whole path, such as '
                f'{paths[0]!r}'
            )
        frozen |= matching
    if len(frozen) == len(paths):
        raise ValueError(f'{where} freezes every parameter: there is nothing to train')
    return jax.tree_util.tree_map_with_path(lambda keys, _: path_of(keys) not in frozen, params)


def still_norms(params: Any, batch_stats: Any, settings: Settings) -> frozenset[str]:
    """The normalisation layers (paths) that use their running statistics and leave them alone."""
    layers = {path.rpartition('/')[0] for path in flat(batch_stats)}
    if settings.norm_eval:
        return frozenset(layers)
    moving = flat(trained(params, settings.freeze))
    free = {path.rpartition('/')[0] for path, is_trained in moving.items() if is_trained}
    return frozenset(layers - free)


def check_architecture(source: Any, model: Any, settings: Settings) -> None:
    """Refuse a source whose model (a `jcls.models.ResNet`) is built otherwise than `model`.

    Two of them may have the same parameters and yet compute different things.
    """
    lines = [
        f'! {field}: {getattr(source, field)} in the source, {getattr(model, field)} in the model'
        for field in BUILT
        if getattr(source, field) != getattr(model, field)
    ]
    if lines:
        raise ValueError(f'{_cause(lines, settings)}:\n{shown(lines)}')


def check_epsilon(card: dict[str, Any], ours: float) -> None:
    """Refuse a source whose normalisation layers add something else to the variance."""
    theirs = epsilon(card)
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


def merge(variables: dict[str, Any], loaded: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The model's `variables` with what was `loaded`; a new head stays as `variables` has it.

    Raises:
      ValueError: naming what is missing, left over or of another shape.
    """
    own = flat(variables)
    found = flat(loaded)
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
    return jax.tree_util.tree_map_with_path(
        lambda keys, leaf: (
            np.asarray(found[path_of(keys)], leaf.dtype) if path_of(keys) in wanted else leaf
        ),
        variables,
    )


def _adapt(found: dict[str, Any], own: dict[str, Any]) -> None:
    """Fit a first convolution for colour to images of other channels, in place."""
    first = 'params/stem/conv1/kernel'
    if first not in found or first not in own:
        return
    (*window, before, out), (*own_window, channels, own_out) = found[first].shape, own[first].shape
    if before == 3 and channels != 3 and (window, out) == (own_window, own_out):
        logger.info('the first convolution of the source is adapted to %d channel(s)', channels)
        found[first] = adapt_channels(np.asarray(found[first]), channels)


def _cause(lines: list[str], settings: Settings) -> str:
    """What the differences `lines` are about, and how to cure them."""
    if all('params/head/' in line for line in lines):
        return (
            f"config.init.head='keep', but the classifier of {settings.source} is another one; "
            "set config.init.head='new' for other classes"
        )
    prefix = f' below config.init.prefix={settings.prefix!r}' if settings.prefix else ''
    return f'config.init.source={settings.source}{prefix} does not fit config.model'

"""Load trained weights, of a run or from elsewhere: ``model, variables = jcls.load(path)``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jcls import models
from jcls.config.parts import choose
from jcls.host.disk import local
from jcls.weights import artifact, assumed, imported
from jcls.weights.metadata import model_of, read_model_json
from jcls.weights.sound import require_sound
from jcls.workdir import reading, trees
from jcls.workdir.checkpoint import FOLDER
from jcls.workdir.files import CONFIG, METADATA, read_config

logger = logging.getLogger(__name__)

SHOWN = 12  # tensors in a message


def load(
    path: str | Path, step: int | str = 'last', *, ema: str = 'auto', dtype: str = 'float32'
) -> tuple[models.ResNet, dict[str, Any]]:
    """The model and its variables from a run of jcls or from weights of another system.

    ``model.apply(variables, images, train=False)`` takes normalised float images [N, H, W, C] and
    returns logits [N, classes]; `read` also gives the metadata: mean, std, classes, preprocessing.

    Args:
      path: a workdir; ``workdir/checkpoints/<step>``; a folder of ``jcls import``; or a file,
        address or name on the Hub, as for ``jcls import``.
      step: checkpoint of a workdir: 'last', 'best' (by config.checkpoint.best) or a number.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      dtype: dtype of the activations, see `jcls.models.create`.

    Raises:
      ValueError: if the weights cannot be found or read, or belong to no ResNet of jcls.
    """
    return usable(*read(path, step, ema=ema), path, dtype)


def usable(
    metadata: dict[str, Any], variables: dict[str, Any], path: str | Path, dtype: str = 'float32'
) -> tuple[models.ResNet, dict[str, Any]]:
    """The model that `metadata` describe, and the variables as arrays of JAX; see `load`."""
    if not metadata:
        raise ValueError(f'{path} has no model.json that describes an architecture')
    imported.require_classifier(variables, path)
    return model_of(metadata, dtype), jax.tree.map(jnp.asarray, variables)


def read(
    path: str | Path,
    step: int | str = 'last',
    *,
    ema: str = 'auto',
    prefix: str = '',
    classifier: bool = True,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metadata (the content of model.json) and the variables of what `load` takes.

    For a run, the metadata also have 'step', 'metrics' and 'averaged' of these very weights. `path`
    may also be any folder in which Orbax saved a tree; its metadata are empty. `prefix` selects a
    part of the variables by the source's own names. Where the `classifier` is not wanted, the one
    of another system's file may be of any kind; it is left out.
    """
    here = local(path).resolve()
    if is_run(here):
        workdir, step = place(here, step)
        read_config(workdir)  # a run with a damaged one is no whole run
        metadata = read_model_json(workdir / METADATA) if (workdir / METADATA).exists() else {}
        saved = reading.read(workdir, step)
        variables, averaged = choose_variables(saved.variables, ema, path)
        require_sound(variables, path)
        if metadata:
            metadata |= {'step': saved.step, 'averaged': averaged, 'metrics': saved.metrics}
        return metadata, imported.below(variables, prefix, path)
    if step != 'last':
        raise ValueError(f'step={step!r}, but {path} holds one set of weights: it is no workdir')
    if here.is_dir() and not imported.is_folder(here):
        variables = choose_variables(trees.read(here), ema, path)[0]
        require_sound(variables, path)
        return {}, imported.below(variables, prefix, path)
    weights = imported.read(path, prefix=prefix, ema=ema, classifier=classifier)
    _say(path, weights.metadata, known=here)
    return weights.metadata, weights.variables


def _say(path: str | Path, metadata: dict[str, Any], *, known: Path) -> None:
    """Say what was left out of another system's file, and what is assumed of it."""
    if known.is_dir() and artifact.is_artifact(known):  # said when it was imported
        return
    left_out = metadata.get('imported', {}).get('left_out')
    if left_out:
        more = ', ...' if left_out[SHOWN:] else ''
        logger.info('left out of %s: %s%s', path, ', '.join(left_out[:SHOWN]), more)
    if metadata.get('assumed'):
        logger.info(
            'not told by %s, and assumed: %s; jcls import tells the options for others',
            path,
            ', '.join(f'{what} = {value}' for what, value in assumed.short(metadata['assumed'])),
        )


def is_run(path: str | Path) -> bool:
    """Whether this is a workdir, which may have lost a file, or a checkpoint folder in one."""
    here = local(path).resolve()
    return any(
        (workdir / FOLDER).is_dir()
        and any((workdir / name).exists() for name in (CONFIG, METADATA))
        for workdir in (here, here.parent.parent)
    )


def place(path: str | Path, step: int | str = 'last') -> tuple[Path, int | str]:
    """The workdir and the step that `path`, a workdir or a checkpoint in one, and `step` mean."""
    workdir = local(path).resolve()
    if workdir.parent.name == FOLDER and workdir.name.isdigit():
        workdir, step = workdir.parent.parent, int(workdir.name)
    if not (workdir / FOLDER).is_dir():
        raise ValueError(f'{path} is not a workdir of jcls: it has no {FOLDER}/')
    return workdir, step


def choose_variables(
    tree: dict[str, Any], ema: str, path: str | Path
) -> tuple[dict[str, Any], bool]:
    """The averaged or the raw variables of a saved tree, and whether they are averaged."""
    choose(dict.fromkeys(imported.EMA_CHOICES), ema, 'ema')
    if ema == 'yes' and not tree.get('ema'):
        raise ValueError(f"ema='yes', but {path} has no averaged weights")
    averaged = bool(tree.get('ema')) and ema != 'no'
    chosen = tree['ema'] if averaged else tree
    if 'params' not in chosen:
        raise ValueError(f'{path} has no params, only {", ".join(map(str, chosen)) or "nothing"}')
    return {name: chosen.get(name, {}) for name in ('params', 'batch_stats')}, averaged

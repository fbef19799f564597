"""Load trained weights: ``model, variables = jcls.load(path)``, of a run or from elsewhere."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jcls import models
from jcls.weights import imported
from jcls.weights.fetch import local
from jcls.weights.metadata import model_of, read_card
from jcls.workdir.checkpoint import FOLDER, Checkpoints, read_tree
from jcls.workdir.files import METADATA, read_config, read_metadata


def load(
    path: str | Path, step: int | str = 'last', *, ema: str = 'auto', dtype: str = 'float32'
) -> tuple[models.ResNet, dict[str, Any]]:
    """The model and its variables from a run of jcls or from weights of another system.

    ``model.apply(variables, images, train=False)`` takes normalised float images [N, H, W, C] and
    returns logits [N, classes]; mean, std, classes and preprocessing are in the card (`read`).

    Args:
      path: a workdir; ``workdir/checkpoints/<step>``; a folder of ``jcls import``; or a file,
        address or name on the Hub that it would take.
      step: of a workdir: 'last', 'best' (by the metric of config.checkpoint.best) or a number.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      dtype: of the activations, see `jcls.models.create`.

    Raises:
      ValueError: if there is no such thing, or it is no ResNet of jcls.
    """
    return usable(*read(path, step, ema=ema), path, dtype)


def usable(
    card: dict[str, Any], variables: dict[str, Any], path: str | Path, dtype: str = 'float32'
) -> tuple[models.ResNet, dict[str, Any]]:
    """The model that `card` describes, and the variables as arrays of JAX, see `load`."""
    if not card:
        raise ValueError(f'{path} has no model.json that describes an architecture')
    imported.require_classifier(variables, path)
    return model_of(card, dtype), jax.tree.map(jnp.asarray, variables)


def read(
    path: str | Path, step: int | str = 'last', *, ema: str = 'auto', prefix: str = ''
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The card (the content of model.json) and the variables of what `load` takes.

    Of a run, 'step', 'metrics' and 'averaged' in the card are those of the very weights. Also of
    any folder that Orbax saved a tree in; its card is empty. Only what is below `prefix` is taken,
    in the source's own spelling.
    """
    here = local(path).resolve()
    if is_run(here):
        workdir, number, checkpoints = find(here, step)
        with closing(checkpoints):
            card = read_card(workdir / METADATA) if (workdir / METADATA).exists() else {}
            tree, metrics = checkpoints.variables(number), checkpoints.metrics(number)
        variables, averaged = choose_variables(tree, ema, path)
        if card:
            card |= {'step': number, 'averaged': averaged, 'metrics': metrics}
        return card, imported.below(variables, prefix, path)
    if step != 'last':
        raise ValueError(f'step={step!r}, but {path} holds one set of weights: it is no workdir')
    if here.is_dir() and not imported.is_folder(here):
        variables = choose_variables(read_tree(here), ema, path)[0]
        return {}, imported.below(variables, prefix, path)
    found = imported.read(path, prefix=prefix, ema=ema)
    return found.card, found.variables


def is_run(path: str | Path) -> bool:
    """Whether this is a workdir or a checkpoint folder in one."""
    here = local(path).resolve()
    return any(
        (found / FOLDER).is_dir() and (found / 'config.json').exists()
        for found in (here, here.parent.parent)
    )


def find(path: str | Path, step: int | str = 'last') -> tuple[Path, int, Checkpoints]:
    """The workdir and the step that `path` and `step` mean, and the workdir's open checkpoints."""
    workdir = local(path).resolve()
    if workdir.parent.name == FOLDER and workdir.name.isdigit():
        workdir, step = workdir.parent.parent, int(workdir.name)
    if not (workdir / FOLDER).is_dir():
        raise ValueError(f'{path} is not a workdir of jcls: it has no {FOLDER}/')
    with ExitStack() as stack:
        best = read_config(workdir)['checkpoint'].get('best')
        # A run of before this was written kept the lowest of losses and the highest of others.
        highest = read_metadata(workdir).get('best_is_highest', not str(best).endswith('loss'))
        checkpoints = stack.enter_context(
            closing(Checkpoints(workdir, best=best, best_is_highest=highest, write=False))
        )
        known = checkpoints.steps()
        if not known:
            raise ValueError(f'{workdir / FOLDER} holds no finished checkpoint yet')
        if step not in ('last', 'best') and not (str(step).isdigit() and int(step) in known):
            raise ValueError(
                f'step={step!r}: no such checkpoint in {workdir / FOLDER} (there are: '
                f"{', '.join(map(str, known))}; or 'last', 'best')"
            )
        if step == 'best':
            number = checkpoints.best()
        else:
            number = known[-1] if step == 'last' else int(step)
        stack.pop_all()  # the caller closes them
        return workdir, number, checkpoints


def choose_variables(
    tree: dict[str, Any], ema: str, path: str | Path
) -> tuple[dict[str, Any], bool]:
    """The averaged or the raw variables among what was saved, and whether they are averaged."""
    if ema not in ('auto', 'yes', 'no'):
        raise ValueError(f"ema={ema!r}: one of 'auto', 'yes', 'no'")
    if ema == 'yes' and not tree.get('ema'):
        raise ValueError(f"ema='yes', but {path} has no averaged weights")
    averaged = bool(tree.get('ema')) and ema != 'no'
    chosen = tree['ema'] if averaged else tree
    if 'params' not in chosen:
        raise ValueError(f'{path} has no params, only {", ".join(map(str, chosen)) or "nothing"}')
    return {name: chosen.get(name, {}) for name in ('params', 'batch_stats')}, averaged

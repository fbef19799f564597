"""Load a trained model: ``model, variables = jcls.load(workdir)``."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jcls import models
from jcls.models import layers
from jcls.training import workdir as folder
from jcls.training.checkpoint import FOLDER, Checkpoints


def load(
    path: str | Path, step: int | str = 'last', *, dtype: str = 'float32'
) -> tuple[models.ResNet, dict[str, Any]]:
    """The model and its variables from a workdir or from one checkpoint folder in it.

    ``model.apply(variables, images, train=False)`` takes normalised float images [N, H, W, C] and
    returns logits [N, classes]; mean, std, classes and preprocessing are in model.json.

    Args:
      path: a workdir, or ``workdir/checkpoints/<step>``.
      step: 'last', 'best' (by the metric of config.checkpoint.best) or a number.
      dtype: of the activations, see `jcls.models.create`.

    Raises:
      ValueError: if there is no such workdir or checkpoint.
    """
    workdir, step, checkpoints = find(path, step)
    card = folder.read_card(workdir)
    if 'architecture' not in card:
        raise ValueError(f'{workdir} has no model.json that describes an architecture')
    section = {**card['architecture'], 'dtype': dtype}
    section['blocks'] = section['blocks'] and tuple(section['blocks'])
    model = models.create(**section, norm=layers.batch_norm(**card['norm']))
    one_device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, *card['image_shape'])))
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one_device), dict(shapes)
    )
    with closing(checkpoints):
        return model, checkpoints.read(step, like)


def find(path: str | Path, step: int | str = 'last') -> tuple[Path, int, Checkpoints]:
    """The workdir and the step that `path` and `step` mean, and the workdir's open checkpoints."""
    workdir = Path(path).expanduser().resolve()
    if workdir.parent.name == FOLDER and workdir.name.isdigit():
        workdir, step = workdir.parent.parent, int(workdir.name)
    if not (workdir / FOLDER).is_dir():
        raise ValueError(f'{path} is not a workdir of jcls: it has no {FOLDER}/')
    with ExitStack() as stack:
        best = folder.read_config(workdir)['checkpoint']['best']
        checkpoints = stack.enter_context(closing(Checkpoints(workdir, best=best, write=False)))
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

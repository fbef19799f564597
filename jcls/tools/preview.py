"""Look at the data: ``jcls preview --config FILE`` draws what the network will see.

In Python: ``jcls.preview(config, 'preview.png')``.

The pictures come out of the training pipeline itself, for the very examples of a training step.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jcls.assembly import build, load_config
from jcls.data import augment, decode, pipeline, sampler
from jcls.data.augment import policy_ops
from jcls.data.augment.chain import Chain
from jcls.host.tensorflow import tf
from jcls.training.experiment import Experiment

CELL, GAP, TEXT = 176, 6, 15  # pixels: of a picture, between two, height of a line
DRAWS = 4  # further draws of an example
LEVELS = 6  # magnitudes in a row


class Picture(NamedTuple):
    """uint8 [H, W, C], and what stands below it."""

    pixels: np.ndarray
    caption: str


def preview(
    config: Mapping[str, Any],
    out: str | Path = 'preview.png',
    *,
    images: int = 8,
    step: int = 0,
    by_operation: bool = False,
) -> Path:
    """Draw what the network will see of `config`'s images, and return the path of the picture.

    Args:
      config: as `jcls.load_config` returns it.
      out: the PNG file to write.
      images: how many of a training step's examples, a row each.
      step: of which training step.
      by_operation: instead a row for each operation and its magnitudes, of one image.
    """
    experiment = build(config)
    table = operations(experiment) if by_operation else examples(experiment, images, step)
    draw(table, out)
    print(f'{out}: {len(table)} rows; original first, then what the network sees')
    return Path(out).resolve()


def examples(experiment: Experiment, images: int, step: int) -> list[list[Picture]]:
    """A row for each of the first examples of a step: the original, what the network sees in that
    step, mixed where the config mixes, and what it sees of the example in later epochs."""
    data, size = experiment.data, experiment.horizon.batch_size
    if not 1 <= images <= size:
        raise ValueError(f'--images={images}: must be in 1..{size}, the batch size')
    if not 0 <= step < experiment.horizon.total:
        raise ValueError(f'--step={step}: must be in 0..{experiment.horizon.total - 1}')
    rows = experiment.train_rows(sampler.Share(size))(step)
    epoch, seed = step // experiment.horizon.steps_per_epoch, experiment.config['seed']
    table = [[_original(experiment, int(index))] for index, _ in rows[:images]]

    def add(operation_rows: sampler.Rows, number: int, caption: str, **mixing: Any) -> None:
        batch = next(iter(_batches(experiment, operation_rows, number, **mixing)))
        for i, row in enumerate(table):
            row.append(Picture(batch['image'][i], caption or _target(batch, i, data.train.classes)))

    add(_always(rows[:images]), step, f'step {step}')
    if experiment.mix is not None:
        groups = range(-(-images // experiment.mix.size))  # as many as the images lie in
        mixed = _always(rows[: len(groups) * experiment.mix.size])
        add(mixed, step, '', mix=experiment.mix, groups=groups)
    for later in range(epoch + 1, epoch + 1 + DRAWS):
        words = np.full(images, sampler.epoch_word(seed, later))
        drawn = np.stack([rows[:images, 0], words], axis=1)
        add(_always(drawn), 0, f'epoch {later}')
    return table


def operations(experiment: Experiment) -> list[list[Picture]]:
    """A row for each operation of the config by itself, and for each that a policy may draw."""
    data, sections = experiment.data, experiment.config['augment']
    index = int(experiment.train_rows(sampler.Share(experiment.horizon.batch_size))(0)[0, 0])
    cut: list[dict[str, Any]] = []  # what brings images to one size comes first, where there is one
    table = []
    for section in sections:
        chain = [*cut, section]
        operation = augment.compose(chain, 'augment')
        if operation.extent(data.train.extent) is None:
            cut = chain
            continue
        if augment.compose(cut, 'augment').extent(data.train.extent) is None:
            cut = chain
        words = [sampler.epoch_word(experiment.config['seed'], epoch) for epoch in range(LEVELS)]
        drawn = np.stack([np.full(LEVELS, index), words], axis=1)
        batch = next(iter(_batches(experiment, _always(drawn), 0, operation=operation)))
        row = [Picture(image, section['name']) for image in batch['image']]
        table.append([_original(experiment, index), *row])
    plain = table[0][1].pixels if table else _original(experiment, index).pixels
    return table + [_magnitudes(plain, name) for name in policy_ops.NAMES if name != 'identity']


# The weakest and the strongest that a policy draws: TrivialAugment's and timm's ranges.
RANGES = {
    'shear_x': (-0.99, 0.99),
    'shear_y': (-0.99, 0.99),
    'translate_x': (-32, 32),
    'translate_y': (-32, 32),
    'rotate': (-135, 135),
    'brightness': (0.01, 1.99),
    'color': (0.01, 1.99),
    'contrast': (0.01, 1.99),
    'sharpness': (0.01, 1.99),
    'posterize': (8, 3),
    'solarize': (255, 0),
    'solarize_add': (0, 110),
}


def _magnitudes(image: np.ndarray, name: str) -> list[Picture]:
    values = np.linspace(*RANGES[name], LEVELS) if name in RANGES else [0.0]
    fill = tf.zeros([image.shape[-1]], tf.uint8)
    row = [Picture(image, 'before')]
    for value in values:
        steps = policy_ops.Step(
            tf.constant([policy_ops.INDEX[name]]), tf.constant([float(value)]), tf.constant([False])
        )
        pixels = policy_ops.transform(tf.constant(image), steps, fill, 'bilinear').numpy()
        row.append(Picture(pixels, f'{name} {value:.3g}' if name in RANGES else name))
    return row


def _always(rows: np.ndarray) -> sampler.Rows:
    return lambda _: rows


def _batches(
    experiment: Experiment,
    rows: sampler.Rows,
    step: int,
    operation: Chain | None = None,
    **mixing: Any,
) -> Any:
    return pipeline.batches(
        experiment.data.train,
        operation or experiment.augmentation(step),
        rows,
        step,
        step + 1,
        mean=experiment.data.mean,
        damage=experiment.damage,
        **mixing,
    )


def _original(experiment: Experiment, index: int) -> Picture:
    source = experiment.data.train
    try:
        image, label = source.read(tf.constant(index, tf.int64))
        return Picture(decode.pixels(image).numpy(), source.classes[int(label)])
    except tf.errors.OpError:  # the pipeline has put up with it, or is about to name it
        return Picture(np.full((CELL, CELL, 3), 128, np.uint8), 'damaged')


def _target(batch: Mapping[str, np.ndarray], i: int, classes: Sequence[str]) -> str:
    lam, first, second = (batch[key][i] for key in ('lam', 'label', 'label2'))
    return f'{lam:.2f} {classes[first]} + {1 - lam:.2f} {classes[second]}'


def draw(table: Sequence[Sequence[Picture]], path: str | Path) -> None:
    """Write the pictures as a PNG file, every row of the table one row of the grid."""
    from PIL import Image, ImageDraw

    columns = max(map(len, table))
    wide, high = CELL + GAP, CELL + GAP + TEXT
    grid = Image.new('RGB', (columns * wide + GAP, len(table) * high + GAP), 'white')
    pen = ImageDraw.Draw(grid)
    for y, row in enumerate(table):
        for x, (pixels, caption) in enumerate(row):
            picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
            scale = CELL / max(picture.size)
            size = [max(1, round(scale * side)) for side in picture.size]
            sharp = Image.Resampling.NEAREST if scale >= 2 else Image.Resampling.BILINEAR
            corner = (GAP + x * wide, GAP + y * high)
            grid.paste(picture.convert('RGB').resize(size, sharp), corner)
            while caption and pen.textlength(caption) > CELL:
                caption = caption[:-1]
            pen.text((corner[0], corner[1] + CELL + 1), caption, fill='black')
    try:
        grid.save(path, 'PNG')
    except OSError as error:
        raise OSError(f'--out={path}: cannot be written: {error.strerror or error}') from error


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The verb: draw, and say where the picture is."""
    config = load_config(args.config, overrides)
    out = preview(
        config, args.out, images=args.images, step=args.step, by_operation=args.operations
    )
    return {'out': str(out)}

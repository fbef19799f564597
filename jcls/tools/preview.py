"""Look at the data: ``jcls preview --config FILE`` draws what the network will see.

In Python: ``jcls.preview(config, 'preview.png')``.

The pictures come from the training pipeline itself, for the examples of a training step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jcls.assembly import build, load_config
from jcls.data import augment, decode, pipeline, sampler
from jcls.data.augment import policy_ops
from jcls.data.augment.chain import Chain
from jcls.data.sampler import Examples
from jcls.host.tensorflow import tf
from jcls.training.experiment import Experiment

CELL, GAP, TEXT = 176, 6, 15  # pixels: side of a picture, gap, height of a caption
DRAWS = 4  # later epochs that are shown
LEVELS = 6  # magnitudes in a row


class Picture(NamedTuple):
    """An image, uint8 [H, W, C], and the caption below it."""

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
      config: a config as `jcls.load_config` returns it.
      out: PNG file to write.
      images: number of examples of a training step, one in each row.
      step: the training step.
      by_operation: draw instead a row for each operation and its magnitudes, on one image.
    """
    experiment = build(config)
    table = operations(experiment) if by_operation else examples(experiment, images, step)
    draw(table, out)
    print(f'{out}: {len(table)} rows; original first, then what the network sees')
    return Path(out).resolve()


def examples(experiment: Experiment, images: int, step: int) -> list[list[Picture]]:
    """The pictures of a step, a row for each of its first examples.

    A row has the original, what the network sees in that step, the same mixed if the config mixes,
    and what it sees of the example in later epochs.
    """
    data, size = experiment.data, experiment.horizon.batch_size
    if not 1 <= images <= size:
        raise ValueError(f'--images={images}: must be in 1..{size}, the batch size')
    if not 0 <= step < experiment.horizon.total:
        raise ValueError(f'--step={step}: must be in 0..{experiment.horizon.total - 1}')
    seen = experiment.train_sampler(sampler.ProcessShard(size))(step)
    epoch, seed = step // experiment.horizon.steps_per_epoch, experiment.config['seed']
    table = [[_original(experiment, int(index))] for index in seen.indices[:images]]

    def add(shown: Examples, number: int, caption: str, **mixing: Any) -> None:
        batch = next(iter(_batches(experiment, shown, number, **mixing)))
        for i, row in enumerate(table):
            row.append(Picture(batch['image'][i], caption or _target(batch, i, data.train.classes)))

    first = seen.first(images)
    add(first, step, f'step {step}')
    if experiment.mix is not None:
        groups = range(-(-images // experiment.mix.size))  # the groups of the images
        mixed = seen.first(len(groups) * experiment.mix.size)
        add(mixed, step, '', mix=experiment.mix, groups=groups)
    for later in range(epoch + 1, epoch + 1 + DRAWS):
        seeds = np.full(images, sampler.epoch_seed(seed, later))
        add(first._replace(seeds=seeds), 0, f'epoch {later}')
    return table


def operations(experiment: Experiment) -> list[list[Picture]]:
    """A row for each operation of the config by itself, and for each that a policy may draw."""
    data, sections = experiment.data, experiment.config['augment']
    sample = experiment.train_sampler(sampler.ProcessShard(experiment.horizon.batch_size))
    index = int(sample(0).indices[0])
    cut: list[dict[str, Any]] = []  # what brings images to one size must come first
    table = []
    for section in sections:
        chain = [*cut, section]
        operation = augment.compose(chain, 'augment')
        if operation.output_size(data.train.image_size) is None:
            cut = chain
            continue
        if augment.compose(cut, 'augment').output_size(data.train.image_size) is None:
            cut = chain
        seeds = [sampler.epoch_seed(experiment.config['seed'], epoch) for epoch in range(LEVELS)]
        shown = Examples(np.full(LEVELS, index), np.array(seeds))
        batch = next(iter(_batches(experiment, shown, 0, operation=operation)))
        row = [Picture(image, section['name']) for image in batch['image']]
        table.append([_original(experiment, index), *row])
    plain = table[0][1].pixels if table else _original(experiment, index).pixels
    return table + [_magnitudes(plain, name) for name in policy_ops.NAMES if name != 'identity']


# The weakest and the strongest magnitude that TrivialAugment or timm draws.
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


def _batches(
    experiment: Experiment,
    shown: Examples,
    step: int,
    operation: Chain | None = None,
    **mixing: Any,
) -> Any:
    return pipeline.batches(
        experiment.data.train,
        operation or experiment.augmentation(step),
        lambda _: shown,
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
    except tf.errors.OpError:  # the pipeline tolerates it, or is about to name it
        return Picture(np.full((CELL, CELL, 3), 128, np.uint8), 'damaged')


def _target(batch: Mapping[str, np.ndarray], i: int, classes: Sequence[str]) -> str:
    lam, first, second = (batch[key][i] for key in ('lam', 'label', 'label2'))
    return f'{lam:.2f} {classes[first]} + {1 - lam:.2f} {classes[second]}'


def draw(table: Sequence[Sequence[Picture]], path: str | Path) -> None:
    """Write the pictures as a PNG file, in a grid with the rows of the table."""
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


def run(overrides: Mapping[str, Any], *, config: str, **given: Any) -> dict[str, Any]:
    """The verb: draw the picture and print where it is."""
    return {'out': str(preview(load_config(config, overrides), **given))}

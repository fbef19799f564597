"""What a model sees in images: ``jcls predict PATH image-or-folder...``."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from jcls.data import augment, decode, pipeline, sampler
from jcls.data.augment.chain import Chain
from jcls.data.sources.exif import upright
from jcls.data.sources.folder import EXTENSIONS
from jcls.data.sources.source import Source, from_files
from jcls.host.tensorflow import tf
from jcls.training.step import normalise
from jcls.weights.foreign.convert import shown
from jcls.weights.load import read, usable
from jcls.weights.metadata import display_names

Prediction = dict[str, Any]  # {'image': path, 'classes': [{'name': ..., 'probability': ...}, ...]}


def predict(
    path: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    step: int | str = 'last',
    ema: str = 'auto',
    top: int = 5,
    flip: bool = False,
    batch_size: int = 64,
) -> list[Prediction]:
    """The most probable classes of image files, prepared as model.json says.

    Args:
      path: weights: whatever `jcls.load` takes.
      images: files, and folders of them, or one of either.
      step: of a workdir: 'last', 'best' or a number.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      top: how many classes of each image, the most probable first.
      flip: average the probabilities of each image and its mirror image.
      batch_size: images at a time, without effect on the result.

    Raises:
      ValueError: for weights that cannot be used, an empty folder, or files that are no images or
        of another size than the weights need; it names these, once all were looked at.
    """
    if top < 1 or batch_size < 1:
        raise ValueError(f'top={top}, batch_size={batch_size}: at least 1')
    files = find_images(images)
    card, variables = read(path, step, ema=ema)
    model, variables = usable(card, variables, path)
    names = display_names(card['classes'])
    if len(card['mean']) != 3:
        raise ValueError(
            f'{path} takes images of {len(card["mean"])} channel(s); files are read as colour'
        )

    @functools.partial(jax.jit, static_argnames='mirrored')
    def probabilities(variables: Any, pixels: jax.Array, mirrored: bool) -> jax.Array:
        pixels = pixels[:, :, ::-1] if mirrored else pixels
        values = normalise(pixels, tuple(card['mean']), tuple(card['std']))
        return jax.nn.softmax(model.apply(variables, values, train=False))

    found: list[Prediction] = []
    size = min(batch_size, len(files))
    steps = -(-len(files) // size)
    damage = pipeline.Damage(len(files), log=False)  # all of them, to name all at once
    for batch in track(
        _batches(files, card, size, damage),
        description='predicting',
        total=steps,
        console=Console(stderr=True),
        transient=True,
        disable=steps < 3,
    ):
        if damage.reasons:
            continue  # the rest is only looked at
        values = probabilities(variables, batch, False)
        if flip:
            values = (values + probabilities(variables, batch, True)) / 2
        for row in np.asarray(values)[: len(files) - len(found)]:
            best = np.argsort(-row, kind='stable')[:top]
            classes = [{'name': names[i], 'probability': float(row[i])} for i in best]
            found.append({'image': files[len(found)], 'classes': classes})
    if damage.reasons:
        lines = [f'{name}: {reason}' for name, reason in damage.reasons.items()]
        raise ValueError(f'{len(lines)} of {len(files)} images cannot be used:\n{shown(lines)}')
    return found


def find_images(paths: str | Path | Iterable[str | Path]) -> list[str]:
    """Image files: those named, and all below the folders named, in the order of their names."""
    found: list[str] = []
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        if path.is_dir():
            inside = [
                str(Path(where) / name)
                for where, _, names in os.walk(path, followlinks=True)
                for name in names
                if name.lower().endswith(EXTENSIONS) and not name.startswith('.')
            ]
            if not inside:
                raise ValueError(f'{path} has no images ({", ".join(EXTENSIONS)})')
            found += sorted(inside)
        elif path.exists():
            found.append(str(path))
        else:
            raise ValueError(f'{path}: no such file or folder')
    if not found:
        raise ValueError('no images were named')
    return found


def _batches(
    files: list[str], card: Mapping[str, Any], size: int, damage: pipeline.Damage
) -> Iterable[jax.Array]:
    """Prepared pixels uint8 [size, H, W, 3]; the last batch is padded."""
    paths = np.array([os.fsencode(file) for file in files])
    source = from_files(paths, np.zeros(len(files), np.int32), tuple(card['classes']))
    source = upright(source) if card.get('exif') else source
    chain = chain_of(card)
    if not _makes_one_size(chain):
        source = _of_size(source, *card['image_shape'][:2])
    rows, steps = sampler.eval_rows(np.arange(len(files)), sampler.Share(size, 0, 1))
    for batch in pipeline.batches(
        source, chain, rows, 0, steps, mean=tuple(card['mean']), damage=damage
    ):
        yield jnp.asarray(batch['image'])


def _makes_one_size(chain: Chain) -> bool:
    try:
        return chain.extent(None) is not None
    except ValueError:  # it needs images of one size itself
        return False


def _of_size(source: Source, height: int, width: int) -> Source:
    """The source, of which an image of another size counts as damaged."""

    def read(index: Any) -> tuple[Any, Any]:
        image, label = source.read(index)
        complaint = (
            f'the weights take images as they are, of height and width {height} {width}, not'
        )
        check = decode.require(image, lambda h, w: (h == height) & (w == width), complaint)
        with tf.control_dependencies(check):
            return tf.identity(image), label

    return dataclasses.replace(source, read=read, extent=(height, width))


def chain_of(card: Mapping[str, Any]) -> Chain:
    """The preprocessing of a card."""
    sections = [
        {key: tuple(v) if isinstance(v, list) else v for key, v in section.items()}
        for section in card['preprocess']
    ]
    return augment.compose(tuple(sections), 'preprocess')


def run(args: argparse.Namespace, overrides: Mapping[str, Any]) -> list[Prediction]:
    """The verb: print a table and return it for --json."""
    if overrides:
        raise ValueError(f'predict takes no --config.{next(iter(overrides))}')
    found = predict(
        args.path,
        args.images,
        step=args.step,
        ema=args.ema,
        top=args.top,
        flip=args.flip,
        batch_size=args.batch_size,
    )
    table = Table('image', 'class', 'probability', box=None)
    for prediction in found:
        for i, entry in enumerate(prediction['classes']):
            image = '' if i else prediction['image']
            # As Text: in a str, [brackets] would be markup.
            table.add_row(Text(image), Text(entry['name']), f'{entry["probability"]:.4f}')
    Console(soft_wrap=True).print(table)
    return found

"""Predict the classes of image files: ``jcls predict PATH image-or-folder...``."""

from __future__ import annotations

import dataclasses
import functools
import logging
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
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
from jcls.data.sources import tree
from jcls.data.sources.exif import noting, upright
from jcls.data.sources.source import Source, from_files
from jcls.host.tensorflow import tf
from jcls.training.step import normalise
from jcls.weights.foreign.convert import shown
from jcls.weights.load import read, usable
from jcls.weights.metadata import display_names

logger = logging.getLogger(__name__)

# {'image': path, 'classes': [{'name': ..., 'probability': ...}, ...]}, or with an 'error' instead
Prediction = dict[str, Any]


def predict(
    path: str | Path,
    images: str | Path | Iterable[str | Path],
    *,
    step: int | str = 'last',
    ema: str = 'auto',
    top: int = 5,
    flip: bool = False,
    exif: bool = False,
    batch_size: int = 64,
) -> list[Prediction]:
    """The most probable classes of image files, prepared as model.json says.

    An image that cannot be used has an 'error', the reason, in place of 'classes', and is named in
    the log. So has a folder without images.

    Args:
      path: weights, anything that `jcls.load` takes.
      images: image files and folders of them, or one of either.
      step: checkpoint of a workdir: 'last', 'best' or a number.
      ema: 'auto' takes averaged weights if there are any, 'yes' insists, 'no' takes the raw ones.
      top: number of classes of each image, the most probable first.
      flip: average the probabilities of each image and its mirror image.
      exif: turn images upright as their EXIF orientation says, although the weights were trained
        on images as they are stored. Weights that were trained with data.exif always do.
      batch_size: number of images at a time, which changes no result.

    Raises:
      ValueError: for weights that cannot be used, or if none of the images can; the error names
        them all.
    """
    if top < 1 or batch_size < 1:
        raise ValueError(f'top={top}, batch_size={batch_size}: at least 1')
    files, failed = find_images(images)
    metadata, variables = read(path, step, ema=ema)
    model, variables = usable(metadata, variables, path)
    names = display_names(metadata['classes'])
    if len(metadata['mean']) != 3:
        raise ValueError(
            f'{path} takes images of {len(metadata["mean"])} channel(s); files are read as colour'
        )

    @functools.partial(jax.jit, static_argnames='mirrored')
    def probabilities(variables: Any, pixels: jax.Array, mirrored: bool) -> jax.Array:
        pixels = pixels[:, :, ::-1] if mirrored else pixels
        values = normalise(pixels, tuple(metadata['mean']), tuple(metadata['std']))
        return jax.nn.softmax(model.apply(variables, values, train=False))

    metadata = {**metadata, 'exif': exif or metadata.get('exif', False)}
    turned: set[int] = set()
    predictions: list[Prediction] = []
    size = max(min(batch_size, len(files)), 1)
    steps = -(-len(files) // size)
    damage = pipeline.Damage(len(files), log=False)  # so that all damaged files are named at once
    for batch in track(
        _batches(files, metadata, size, damage, turned) if files else (),
        description='predicting',
        total=steps,
        console=Console(stderr=True),
        transient=True,
        disable=steps < 3,
    ):
        pixels = jnp.asarray(batch['image'])
        values = probabilities(variables, pixels, False)
        if flip:
            values = (values + probabilities(variables, pixels, True)) / 2
        rows = zip(np.asarray(values), batch['mask'], strict=True)
        for (row, mask), file in zip(rows, files[len(predictions) :], strict=False):
            best = np.argsort(-row, kind='stable')[:top]
            classes = [{'name': names[i], 'probability': float(row[i])} for i in best]
            found = {'classes': classes} if mask else {'error': damage.reasons[file]}
            predictions.append({'image': file, **found})
    predictions += [{'image': path, 'error': reason} for path, reason in failed.items()]
    if wrong := [p for p in predictions if 'error' in p]:
        lines = shown([f'{p["image"]}: {p["error"]}' for p in wrong])
        message = f'{len(wrong)} of {len(predictions)} images cannot be used:\n{lines}'
        if len(wrong) == len(predictions):
            raise ValueError(message)
        logger.warning('%s', message)
    if turned:
        logger.warning(
            'note: %s of the %s images say that they are turned (EXIF orientation), and the '
            'weights were trained on images as they are stored: so they were read. --exif turns '
            'them, as viewers do',
            f'{len(turned):,}',
            f'{len(files):,}',
        )
    return predictions


def find_images(paths: str | Path | Iterable[str | Path]) -> tuple[list[str], dict[str, str]]:
    """The image files named, and all those below the folders named, in the order of their names.

    What else is in a folder is counted in the log. The second result has, of each path named that
    gives no image or cannot be read whole, the reason.
    """
    files: list[str] = []
    failed: dict[str, str] = {}
    for path in map(Path, [paths] if isinstance(paths, str | Path) else paths):
        try:
            kind = stat.S_IFMT(path.stat().st_mode)
            inside, problem = _inside(path) if kind == stat.S_IFDIR else ([str(path)], '')
            if kind not in (stat.S_IFDIR, stat.S_IFREG):
                inside, problem = [], tree.NEITHER
        except FileNotFoundError:
            inside, problem = [], 'no such file or folder'
        except OSError as error:
            inside, problem = [], error.strerror or str(error)
        files += inside
        if problem:
            failed[str(path)] = problem
    if not files and not failed:
        raise ValueError('no images were named')
    return files, failed


def _inside(folder: Path) -> tuple[list[str], str]:
    """The images below a folder, and what is wrong with it, or ''."""
    inside: list[str] = []
    others: list[tuple[str, str]] = []
    problem = ''
    try:
        for entry in tree.images(tree.walk(folder), others):
            inside.append(entry.where)
    except ValueError as error:  # folders that cannot be read, once all others are
        problem = str(error)
    counts = Counter(reason for _, reason in others).most_common()
    left_out = ', '.join(f'{count:,} {reason}' for reason, count in counts)
    if inside and left_out:
        logger.warning('%s: left out: %s', folder, left_out)
    if not inside and not problem:
        problem = f'the folder has no images{f", but {left_out}" if left_out else ""}'
    return sorted(inside), problem


def _batches(
    files: list[str],
    metadata: Mapping[str, Any],
    size: int,
    damage: pipeline.Damage,
    turned: set[int],
) -> Iterable[pipeline.Batch]:
    """Batches of prepared images, `size` in each; the last one is padded.

    `turned` gets the indices of files that say that they are turned, and are not.
    """
    paths = np.array([os.fsencode(file) for file in files])
    source = from_files(paths, np.zeros(len(files), np.int32), tuple(metadata['classes']))
    source = upright(source) if metadata['exif'] else noting(source, turned)
    chain = chain_of(metadata)
    if not _makes_one_size(chain):
        source = _of_size(source, *metadata['image_shape'][:2])
    sample, steps = sampler.eval_sampler(np.arange(len(files)), sampler.ProcessShard(size, 0, 1))
    return pipeline.batches(
        source, chain, sample, 0, steps, mean=tuple(metadata['mean']), damage=damage
    )


def _makes_one_size(chain: Chain) -> bool:
    try:
        return chain.output_size(None) is not None
    except ValueError:  # an operation needs images of one size
        return False


def _of_size(source: Source, height: int, width: int) -> Source:
    """The source, with images of any other size counted as damaged."""

    def read(index: Any) -> tuple[Any, Any]:
        image, label = source.read(index)
        complaint = (
            f'the weights take images as they are, of height and width {height} {width}, not'
        )
        check = decode.require(image, lambda h, w: (h == height) & (w == width), complaint)
        with tf.control_dependencies(check):
            return tf.identity(image), label

    return dataclasses.replace(source, read=read, image_size=(height, width))


def chain_of(metadata: Mapping[str, Any]) -> Chain:
    """The preprocessing that the metadata describe."""
    sections = [
        {key: tuple(v) if isinstance(v, list) else v for key, v in section.items()}
        for section in metadata['preprocess']
    ]
    return augment.compose(tuple(sections), 'preprocess')


def run(*, path: str, images: Sequence[str], **given: Any) -> list[Prediction]:
    """The verb: print a table and return it for --json."""
    predictions = predict(path, images, **given)
    table = Table('image', 'class', 'probability', box=None)
    for prediction in predictions:
        for i, entry in enumerate(prediction.get('classes', ())):
            image = '' if i else prediction['image']
            # A Text, because in a str [brackets] would be markup.
            table.add_row(Text(image), Text(entry['name']), f'{entry["probability"]:.4f}')
    Console(soft_wrap=True).print(table)
    return predictions

"""From a source to batches: reading, augmentation, mixing, padding and masks.

`jcls.data.sampler` says which examples a step sees. There is no iterator state: a pipeline starts
at any step at once, so a resumed run sees exactly what an uninterrupted one would. A damaged image
keeps its place in the batch, as the mean colour with mask 0.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np

from jcls.data import decode, graph
from jcls.data.augment.chain import Chain
from jcls.data.mix import Mix
from jcls.data.sampler import Examples, Sampler
from jcls.data.sources.source import Source
from jcls.host.tensorflow import tf

logger = logging.getLogger(__name__)

# image uint8 [b, H, W, C], label int32 [b], mask float32 [b]; mixed: label2 int32, lam float32 [b]
Batch = dict[str, np.ndarray]


class Damage:
    """The images that could not be read, by name, and how many of them are tolerated."""

    def __init__(self, limit: int = 0, *, log: bool = True) -> None:
        self.limit, self._log = limit, log
        self.reasons: dict[str, str] = {}
        self._labels: dict[Source, dict[int, int]] = {}

    def labels(self, source: Source) -> dict[int, int]:
        """The damaged images of `source` by index, and their labels; 0 where that is unreadable."""
        return self._labels.setdefault(source, {})

    def add(self, name: str, reason: str) -> None:
        """Note a damaged image; raises a ValueError that names them all if they are too many."""
        if name not in self.reasons:
            self.reasons[name] = reason
            if self._log:
                logger.warning('damaged image %d: %s (%s)', len(self.reasons), name, reason)
        if len(self.reasons) > self.limit:
            listed = '\n'.join(f'  {name}: {reason}' for name, reason in self.reasons.items())
            raise ValueError(
                f'{len(self.reasons)} damaged image(s), more than config.data.max_damaged='
                f'{self.limit}:\n{listed}\nRaise config.data.max_damaged to train with them masked '
                'out. Or repair them, or move them elsewhere; without them it is another run, in '
                'another workdir.'
            )


def batches(
    source: Source,
    chain: Chain,
    sampler: Sampler,
    start: int,
    stop: int,
    *,
    mean: tuple[float, ...],
    damage: Damage,
    mix: Mix | None = None,
    groups: range = range(0),
) -> Iterator[Batch]:
    """This process's batches of steps start..stop-1, as NumPy arrays.

    With `mix`, `groups` are the numbers of its examples' groups in a global batch.

    TensorFlow ends a pipeline at the first image that it cannot read. That batch is then read again
    image by image, and the unreadable ones are noted in `damage`. Reading goes on at the same step,
    from then on tolerant, which takes a little time for every image. That changes no result:
    whether an image is masked depends on the image and its own crop alone, as exact resuming needs.
    """
    colour = np.round(255 * np.array(mean)).astype(np.uint8)
    labels = damage.labels(source)
    tolerant = bool(labels)
    unreadable = tf.errors.OpError  # no more to be had when Python ends
    step = start

    def note(examples: Examples, error: Any = None) -> None:
        damaged, whole = _failing(source, chain, examples, colour)
        if not damaged or (tolerant and whole):
            image = f', at {next(iter(whole))}' if whole else ''
            message = next(iter(whole.values()), '') if error is None else _reason(error)
            raise ValueError(f'the pipeline failed at step {step}{image}: {message}') from error
        for index, reason in damaged.items():
            damage.add(source.name(index), reason)
            labels[index] = _label(source, index)

    while step < stop:
        dataset = graph.create(
            source,
            chain,
            sampler,
            range(step, stop),
            mean=colour,
            tolerant=tolerant,
            mix=mix,
            groups=groups,
        )
        try:
            for batch in _elements(dataset, stop - step):
                examples = sampler(step)
                holes = (batch['mask'] == 0) & (examples.indices >= 0)
                if holes.any():
                    new = holes & ~np.isin(examples.indices, list(labels))
                    if new.any():
                        note(Examples(*(part[new] for part in examples)))
                    batch = _labelled(batch, holes, [labels[i] for i in examples.indices[holes]])
                yield batch
                step += 1
        except unreadable as error:
            if tolerant:
                raise ValueError(f'the pipeline failed at step {step}: {_reason(error)}') from error
            note(sampler(step), error)
            tolerant = True


def _labelled(batch: Batch, rows: np.ndarray, labels: list[int]) -> Batch:
    """The batch with these labels in these rows."""
    changed = dict(batch)
    for name in {'label', 'label2'} & batch.keys():
        changed[name] = batch[name].copy()
        changed[name][rows] = labels
    return changed


def _label(source: Source, index: int) -> int:
    """The label of an image that may be unreadable; 0 if the label is."""
    try:
        return int(source.read(tf.constant(index, tf.int64))[1])
    except tf.errors.OpError:
        return 0


def _elements(dataset: Any, count: int) -> Iterator[Batch]:
    """The first `count` elements of a dataset."""
    held = [dataset.as_numpy_iterator()]
    elements = (next(held[0]) for _ in range(count))
    # A dataset at work that is destroyed only after Python has ended waits for Python forever, so
    # destroy it before.
    weakref.finalize(elements, held.clear)
    return elements


def _failing(
    source: Source, chain: Chain, examples: Examples, mean: np.ndarray
) -> tuple[dict[int, str], dict[str, str]]:
    """Read examples one by one: {index: reason} of those whose image is damaged.

    The second result is {name: reason} of the others that fail: an operation cannot take them,
    which is an error of the config, not damage.
    """
    damaged: dict[int, str] = {}
    whole: dict[str, str] = {}
    head = chain.split(source.image_size).head
    for index, seed in zip(*map(np.ndarray.tolist, examples), strict=True):
        if index >= 0:
            place = tf.constant(index, tf.int64)
            try:
                image, _ = graph.load(source, place)
                head(image, graph.example_rng(place, tf.constant(seed, tf.int64), mean))
            except tf.errors.OpError as failed:
                try:
                    decode.pixels(source.read(place)[0])
                except tf.errors.OpError as error:
                    damaged[index] = _reason(error)
                else:
                    whole[source.name(index)] = _reason(failed)
    return damaged, whole


def _reason(error: Any) -> str:
    """TensorFlow's message without the names of its nodes; an assertion's message alone."""
    message = re.sub(
        r'\{\{.*?\}\}|\[Op:.*?\]( name:)?|\[\[.*', '', str(error.message), flags=re.DOTALL
    )
    complaint = re.fullmatch(r'Expected .* to be true. Summarized data: (.*)', message, re.DOTALL)
    if complaint is None:
        return message.strip().split('\n')[0]
    return ' '.join(re.sub(r"^b(['\"])(.*)\1$", r'\2', part) for part in complaint[1].split('\n'))


def output_size(source: Source, chain: Chain) -> tuple[int, int]:
    """(height, width) of the images of `source` after `chain`; a ValueError if they differ."""
    return graph.one_size(chain.output_size(source.image_size))

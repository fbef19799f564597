"""From a source to batches: reading, augmentation, mixing, padding and masks.

`jcls.data.sampler` says which examples a step sees. There is no iterator state: a pipeline starts
at any step at once, so a resumed run sees exactly what an uninterrupted one would. A damaged image
keeps its place in the batch, as the mean colour with mask 0.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from jcls.data import decode, graph
from jcls.data.augment.chain import Chain
from jcls.data.mix import Mix
from jcls.data.sampler import Sampler
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

    TensorFlow ends a pipeline at the first image that it cannot read. Reading then begins again at
    the same step, tolerant: what cannot be read is masked, and noted in `damage` when its batch
    comes. That changes no result: whether an image is masked depends on the image and its own crop
    alone, as exact resuming needs.
    """
    colour = np.round(255 * np.array(mean)).astype(np.uint8)
    labels = damage.labels(source)
    tolerant = bool(labels)
    unreadable = tf.errors.OpError  # no more to be had when Python ends
    step = start

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
                    for index, seed in zip(*(part[new].tolist() for part in examples), strict=True):
                        reason = _damage(source, chain, index, seed, colour, step)
                        damage.add(source.name(index), reason)
                        labels[index] = _label(source, index)
                    batch = _labelled(batch, holes, [labels[i] for i in examples.indices[holes]])
                yield batch
                step += 1
        except unreadable as error:
            if tolerant:
                raise ValueError(f'the pipeline failed at step {step}: {_reason(error)}') from error
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


def _damage(
    source: Source, chain: Chain, index: int, seed: int, mean: np.ndarray, step: int
) -> str:
    """Why an example's image cannot be read.

    Raises:
      ValueError: if it can, and an operation fails: an error of the config, not damage.
    """
    place = tf.constant(index, tf.int64)

    def alone() -> None:
        decode.pixels(source.read(place)[0])

    def augmented() -> None:
        image, _ = graph.load(source, place)
        head = chain.split(source.image_size).head
        head(image, graph.example_rng(place, tf.constant(seed, tf.int64), mean))

    reason = _complaint(alone)
    if not reason:
        failure = _complaint(augmented) or 'it could not be read, and now it can'
        raise ValueError(f'the pipeline failed at step {step}, at {source.name(index)}: {failure}')
    return reason


def _complaint(read: Callable[[], None]) -> str:
    """Why something cannot be read, or ''."""
    try:
        read()
    except tf.errors.OpError as error:
        return _reason(error) or type(error).__name__
    return ''


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

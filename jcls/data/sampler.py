"""Which examples a step sees: pure functions of seed, epoch and step, so that no state is kept.

* An epoch is floor(N / B) steps over a fresh permutation of the N examples; the N mod B left over
  differ from epoch to epoch.
* Process p of P reads rows p*B/P to (p+1)*B/P of every global batch.

Randomness is the raw output of Philox (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), which no version of NumPy may change.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Examples(NamedTuple):
    """What a process reads in a step.

    Attributes:
      indices: int64 [b], the examples' places in their source; -1 is padding.
      seeds: int64 [b], which decide their augmentation.
    """

    indices: np.ndarray
    seeds: np.ndarray

    def first(self, count: int) -> Examples:
        """The first `count` of them."""
        return Examples(self.indices[:count], self.seeds[:count])


Sampler = Callable[[int], Examples]  # from a step, counted from 0

STREAMS = 1 << 32  # seeds are below it: seed + k * STREAMS is the k-th independent seed


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The permutation of 0..examples-1 of an epoch, int64: a stable argsort of Philox outputs."""
    raw = np.random.Philox(key=[seed, epoch]).random_raw(examples)
    return np.argsort(raw, kind='stable')


def balanced_order(seed: int, epoch: int, labels: np.ndarray) -> np.ndarray:
    """N draws, int64, from N examples, in which each of the K classes comes equally often.

    Each class has N // K draws; N % K of the classes, others in each epoch, have one more. A class
    with n examples, fewer than its draws, repeats each of them floor or ceil(draws / n) times. A
    class with more shows other examples in each epoch. `labels` are integers [N].
    """
    examples = len(labels)
    present, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    classes = len(present)
    shuffled = epoch_order(seed, epoch, examples)
    by_class = shuffled[np.argsort(labels[shuffled], kind='stable')]  # at random within a class
    draws = np.full(classes, examples // classes)
    draws[epoch_order(seed + STREAMS, epoch, classes)[: examples % classes]] += 1
    which = np.repeat(np.arange(classes), draws)  # the class of each draw
    place = np.arange(examples) - (np.cumsum(draws) - draws)[which]  # 0, 1, ... within its class
    drawn = by_class[(np.cumsum(sizes) - sizes)[which] + place % sizes[which]]
    return drawn[epoch_order(seed + 2 * STREAMS, epoch, examples)]


def epoch_seed(seed: int, epoch: int, copy: int = 0) -> int:
    """The seed, a signed 64-bit integer, of the augmentation of an epoch's examples.

    `copy` counts the draws of one example within the epoch, from 0.
    """
    seeds = np.random.SeedSequence((seed, epoch, copy)).generate_state(1, np.uint64)
    return int(seeds.view(np.int64)[0])


class ProcessShard(NamedTuple):
    """The part of every global batch of `batch_size` examples that one process reads."""

    batch_size: int
    process: int = 0
    processes: int = 1

    def rows(self) -> slice:
        """The rows of a global batch that this process reads."""
        if self.batch_size % self.processes:
            raise ValueError(
                f'config.batch_size={self.batch_size} does not divide over {self.processes} '
                'processes'
            )
        local = self.batch_size // self.processes
        return slice(self.process * local, (self.process + 1) * local)


def train_sampler(
    examples: int,
    seed: int,
    shard: ProcessShard,
    *,
    labels: np.ndarray | None = None,
    repeats: int = 1,
    groups: int = 1,
) -> Sampler:
    """Which examples a training step sees; the module's docstring says how.

    Args:
      examples: number of examples, N.
      seed: the run's seed.
      shard: the part of a batch that this process reads.
      labels: [N], to draw every class equally often; None to see every example once. An example
        that is drawn again in an epoch is augmented differently.
      repeats: number of copies of each example in a batch, augmented differently (Hoffer et al.
        2019, 1901.09335; Berman et al. 2019, 1902.05509). An epoch has as many steps as without
        repeats; it sees a part of the examples, another one each time.
      groups: number of groups in a global batch, over which the copies of an example are spread.
    """
    size = shard.batch_size
    steps_per_epoch = examples // size
    # Several copies of an example in one group are kept apart: `partner='roll'` would mix
    # neighbours with each other. 'flip' may still mix some of them.
    together = -(-repeats // groups)
    apart = np.argsort(np.arange(size // groups) % together, kind='stable')
    # One example to each group in turn, as torchvision deals them out to its devices.
    places = np.arange(size).reshape(-1, groups)[apart].T.reshape(size)[shard.rows()]

    @functools.lru_cache(maxsize=2)  # the epoch that is read and the one that is prefetched
    def of_epoch(epoch: int) -> Examples:
        if labels is None:
            indices = np.repeat(epoch_order(seed, epoch, examples), repeats)[:examples]
            copies = np.arange(examples) % repeats
        else:
            indices = np.repeat(balanced_order(seed, epoch, labels), repeats)[:examples]
            copies = _copies(indices)
        seeds = np.array([epoch_seed(seed, epoch, copy) for copy in range(int(np.max(copies)) + 1)])
        return Examples(indices, seeds[copies])

    def of_step(step: int) -> Examples:
        epoch, batch = divmod(step, steps_per_epoch)
        indices, seeds = of_epoch(epoch)
        here = batch * size + places
        return Examples(indices[here], seeds[here])

    return of_step


def _copies(indices: np.ndarray) -> np.ndarray:
    """How often each entry came before, int64: [7, 7, 3, 7] -> [0, 1, 0, 2]."""
    by_index = np.argsort(indices, kind='stable')
    ordered = indices[by_index]
    copies = np.empty_like(indices)
    copies[by_index] = np.arange(len(indices)) - np.searchsorted(ordered, ordered)
    return copies


def eval_sampler(order: np.ndarray, shard: ProcessShard) -> tuple[Sampler, int]:
    """Each example of `order` (int64 indices) exactly once, padded with -1; the number of steps."""
    size = shard.batch_size
    steps = -(-len(order) // size)
    padded = np.full(steps * size, -1, np.int64)
    padded[: len(order)] = order

    def of_step(step: int) -> Examples:
        indices = padded[step * size : (step + 1) * size][shard.rows()]
        return Examples(indices, np.zeros_like(indices))

    return of_step, steps

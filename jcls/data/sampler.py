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

Rows = Callable[[int], np.ndarray]  # step -> int64 [b, 2]: index (-1: padding), random word

STREAMS = 1 << 32  # seeds are below it: seed + k * STREAMS is the k-th independent seed


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The permutation of 0..examples-1 of an epoch, int64: a stable argsort of Philox outputs."""
    raw = np.random.Philox(key=[seed, epoch]).random_raw(examples)
    return np.argsort(raw, kind='stable')


def balanced_order(seed: int, epoch: int, labels: np.ndarray) -> np.ndarray:
    """N draws, int64, from N examples in which each of the K classes there are comes equally often.

    Each class has N // K draws, and N % K of them, which change with the epoch, one more. A class
    with fewer examples than draws repeats them as evenly as it can, each floor or ceil(draws / n)
    times; one with more gives other ones each epoch. `labels` are integers [N].
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


def epoch_word(seed: int, epoch: int, copy: int = 0) -> int:
    """The random word, a signed 64-bit integer, that keys the augmentation of an epoch's copy."""
    word = np.random.SeedSequence((seed, epoch, copy)).generate_state(1, np.uint64)
    return int(word.view(np.int64)[0])


class Share(NamedTuple):
    """This process's part of every global batch of `batch_size`."""

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


def train_rows(
    examples: int,
    seed: int,
    share: Share,
    *,
    labels: np.ndarray | None = None,
    repeats: int = 1,
    groups: int = 1,
) -> Rows:
    """Which examples a training step sees: see the module's docstring.

    Args:
      examples: how many there are.
      seed: of the run.
      share: this process's.
      labels: [N], to draw every class equally often; None: every example once. Who is drawn again
        in an epoch is augmented differently.
      repeats: copies of each example in a batch, augmented differently (Hoffer et al. 2019,
        1901.09335; Berman et al. 2019, 1902.05509). An epoch is as long as without, over a part of
        the examples, which changes with the epoch.
      groups: in a global batch, over which the copies of an example are spread.
    """
    size, local = share.batch_size, share.rows()
    steps_per_epoch = examples // size
    # Where a group has several copies of an example they are no neighbours, which `partner='roll'`
    # would mix with each other; 'flip' may still mix some that share a group.
    together = -(-repeats // groups)
    apart = np.argsort(np.arange(size // groups) % together, kind='stable')

    @functools.lru_cache(maxsize=2)  # the epoch that is read and the one that is prefetched
    def epoch_of(epoch: int) -> np.ndarray:
        if labels is None:
            index = np.repeat(epoch_order(seed, epoch, examples), repeats)[:examples]
            copies = np.arange(examples) % repeats
        else:
            index = np.repeat(balanced_order(seed, epoch, labels), repeats)[:examples]
            copies = _copies(index)
        words = np.array([epoch_word(seed, epoch, copy) for copy in range(int(np.max(copies)) + 1)])
        return np.stack([index, words[copies]], axis=1)

    def rows(step: int) -> np.ndarray:
        epoch, place = divmod(step, steps_per_epoch)
        batch = epoch_of(epoch)[place * size : (place + 1) * size]
        # One example to each group in turn, as torchvision deals them out to its devices.
        dealt = batch.reshape(-1, groups, 2)[apart].swapaxes(0, 1).reshape(size, 2)
        return dealt[local]

    return rows


def _copies(index: np.ndarray) -> np.ndarray:
    """How often each entry came before, int64: [7, 7, 3, 7] -> [0, 1, 0, 2]."""
    by_index = np.argsort(index, kind='stable')
    ordered = index[by_index]
    copies = np.empty_like(index)
    copies[by_index] = np.arange(len(index)) - np.searchsorted(ordered, ordered)
    return copies


def eval_rows(order: np.ndarray, share: Share) -> tuple[Rows, int]:
    """Each example of `order` (int64 indices) exactly once, padded with -1; and how many steps."""
    steps = -(-len(order) // share.batch_size)
    padded = np.full(steps * share.batch_size, -1, np.int64)
    padded[: len(order)] = order

    def rows(step: int) -> np.ndarray:
        index = padded[step * share.batch_size : (step + 1) * share.batch_size][share.rows()]
        return np.stack([index, np.zeros_like(index)], axis=1)

    return rows, steps

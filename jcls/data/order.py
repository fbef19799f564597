"""The order of an epoch: a pure function of the seed and the epoch, so that nothing is to be kept.

Randomness is the raw output of Philox (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), which no version of NumPy may change.
"""

from __future__ import annotations

import numpy as np

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

"""The ``mix`` section: Mixup and CutMix of the images in a group.

Zhang et al. 2017 (1710.09412); Yun et al. 2019 (1905.04899). The random numbers of a group depend
on (seed, step, number of the group) and on nothing else. Images stay uint8: a mixed image is
rounded, as in timm's prefetcher. Its target is lam of `label` and 1 - lam of `label2`. An image
that could not be read is not mixed, and neither is the image whose partner it is.

Sources: torchvision's references/classification (v0.29: one draw a group, partner i - 1) and timm's
Mixup (v1.0: the modes, partner n - 1 - i, which it calls flip). Boxes are torchvision's, whose
sides are even before clipping. So were timm's, but in 1.0.31 some have one more row or column.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from jcls.config.parts import choose, part
from jcls.data.sampler import STREAMS
from jcls.host.tensorflow import tf

MODES = ('batch', 'pair', 'elem')
PARTNERS = ('roll', 'flip')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mix:
    """How the images of each group of `size` are mixed; see `mixup_cutmix`.

    Your own way of mixing is a class derived from this one, with a `draw` of its own.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    switch: float = 0.5
    probability: float = 1.0
    mode: str = 'batch'
    partner: str = 'roll'
    size: int
    groups: int  # number of groups in a global batch
    stop: int | None = None  # the first step without mixing
    seed: int = 0

    def within(self, rows: slice) -> range:
        """The numbers of the groups that these rows of a global batch make up."""
        if rows.start % self.size or rows.stop % self.size:
            raise ValueError(
                f'a group of {self.size} examples, which are mixed with each other, does not fit '
                f'into the {rows.stop - rows.start} of one process; set config.mix.batch_size to '
                'one of its divisors'
            )
        return range(rows.start // self.size, rows.stop // self.size)

    def draw(self, step: int, group: int, height: int, width: int) -> dict[str, np.ndarray]:
        """Draw how each image of a group is mixed: lam float32 [n] and box int32 [n, 4].

        `box` is [top, left, bottom, right], the part that comes from the partner, empty for Mixup.
        `lam` is the share of the image itself: its weight in Mixup; in CutMix the area outside the
        box, which is clipped at the border.
        """
        number = step * self.groups + group
        raw = np.random.Philox(key=[self.seed + 4 * STREAMS, number]).random_raw(5 * self.size)
        kinds, apply, quantile, x, y = (raw >> 11).reshape(5, self.size) * 2.0**-53
        cut = kinds < self._cut_share
        lam = np.where(cut, _beta(quantile, self.cutmix or 1.0), _beta(quantile, self.mixup or 1.0))
        on = (apply < self.probability) & (self.stop is None or step < self.stop)
        box = _boxes(lam, x, y, height, width) * (cut & on)[:, None]
        area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
        lam = np.where(cut, 1 - area / (height * width), lam)
        drawn = {'lam': np.where(on, lam, 1.0).astype(np.float32), 'box': box.astype(np.int32)}
        return {key: value[self._draw_of_each()] for key, value in drawn.items()}

    @property
    def _cut_share(self) -> float:
        return self.switch if self.mixup and self.cutmix else float(self.cutmix > 0)

    def _draw_of_each(self) -> np.ndarray:
        """The place in the group whose draw each image uses."""
        own = np.arange(self.size)
        return {'batch': 0 * own, 'pair': np.minimum(own, own[::-1]), 'elem': own}[self.mode]

    def apply(self, batch: dict[str, Any], drawn: dict[str, Any]) -> dict[str, Any]:
        """Mix a group {image, label, mask} of tf tensors; adds label2 int32 [n], lam float32 [n].

        This is for use inside a compiled function.
        """

        def of_partner(values: Any) -> Any:
            return tf.roll(values, 1, axis=0) if self.partner == 'roll' else values[::-1]

        image, label, mask = batch['image'], batch['label'], batch['mask']
        readable = mask * of_partner(mask) > 0
        lam = tf.where(readable, drawn['lam'], 1.0)
        top, left, bottom, right = (
            part[:, None, None] for part in tf.unstack(drawn['box'], axis=1)
        )
        rows = tf.range(image.shape[1])[None, :, None]
        columns = tf.range(image.shape[2])[None, None, :]
        inside = (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)
        cut = bottom > top
        share = tf.where(cut, tf.where(inside, 0.0, 1.0), drawn['lam'][:, None, None])
        share = tf.where(readable[:, None, None], share, 1.0)[..., None]
        own, other = tf.cast(image, tf.float32), tf.cast(of_partner(image), tf.float32)
        mixed = tf.cast(tf.round(other + share * (own - other)), tf.uint8)
        label2 = tf.where(readable, of_partner(label), label)
        return {**batch, 'image': mixed, 'label2': label2, 'lam': lam}

    @functools.cached_property
    def program(self) -> Callable[..., Any]:
        """The compiled `apply`."""
        return tf.function(self.apply, jit_compile=True, autograph=False)


def create(
    examples: int,
    seed: int,
    to_steps: Callable[[str], int],
    *,
    name: str = 'mixup_cutmix',
    **fields: Any,
) -> Mix | None:
    """The ``mix`` section: one of `MIXES`, or your own; None if it mixes nothing."""
    return part(MIXES, name, 'mix')(examples, seed, to_steps, **fields)


def mixup_cutmix(
    examples: int,
    seed: int,
    to_steps: Callable[[str], int],
    *,
    mixup: float = 0.0,
    cutmix: float = 0.0,
    switch: float = 0.5,
    probability: float = 1.0,
    mode: str = 'batch',
    partner: str = 'roll',
    batch_size: int = 0,
    until: str | None = None,
) -> Mix | None:
    """Mixup, CutMix, or both in turn; None if neither is on.

    Args:
      examples: number of examples in a global batch.
      seed: the run's seed.
      to_steps: function from lengths of time to steps.
      mixup: alpha of Beta(alpha, alpha), from which Mixup draws lam; 0 for no Mixup.
      cutmix: alpha of CutMix; 0 for no CutMix.
      switch: probability of CutMix where both are on.
      probability: probability of mixing at all.
      mode: 'batch' draws once for each group, 'pair' for each image and its partner, 'elem' for
        each image.
      partner: 'roll' mixes image i with i - 1 (torchvision), 'flip' with n - 1 - i (timm).
      batch_size: number of examples in a group; 0 for the whole batch. torchvision draws once on
        each device: 128 gives its eight draws for a batch of 8 x 128.
      until: length of time, such as '280 epochs', after which nothing is mixed; None to mix to the
        end.
    """
    for name, value in (('mixup', mixup), ('cutmix', cutmix)):
        if not 0 <= value < math.inf:
            raise ValueError(f'config.mix.{name}={value}: must not be negative, and finite')
    for name, value in (('switch', switch), ('probability', probability)):
        if not 0 <= value <= 1:
            raise ValueError(f'config.mix.{name}={value}: must be in [0, 1]')
    choose(dict.fromkeys(MODES), mode, 'config.mix.mode')
    choose(dict.fromkeys(PARTNERS), partner, 'config.mix.partner')
    size = batch_size or examples
    if batch_size < 0 or examples % size:
        raise ValueError(
            f'config.mix.batch_size={batch_size}: must divide config.batch_size={examples}'
        )
    if mode == 'pair' and partner != 'flip':
        raise ValueError("config.mix.mode='pair' needs config.mix.partner='flip'")
    if partner == 'flip' and size % 2:
        raise ValueError(
            f"config.mix.partner='flip' needs groups of an even size, but a group has {size} "
            'examples; set config.mix.batch_size'
        )
    try:
        stop = None if until is None else to_steps(until)
    except ValueError as error:
        raise ValueError(f'config.mix.until: {error}') from None
    if not mixup and not cutmix:
        return None
    if size < 2:
        raise ValueError(
            f'config.mix.batch_size={batch_size}: in a group of 1 there is nobody to be mixed with'
        )
    return Mix(
        mixup=mixup,
        cutmix=cutmix,
        switch=switch,
        probability=probability,
        mode=mode,
        partner=partner,
        size=size,
        groups=examples // size,
        stop=stop,
        seed=seed,
    )


def _beta(quantile: np.ndarray, alpha: float) -> np.ndarray:
    """Numbers from Beta(alpha, alpha) by its inverse, the same for every version of NumPy."""
    from scipy.special import betaincinv

    return quantile if alpha == 1 else betaincinv(alpha, alpha, quantile)


def _boxes(lam: np.ndarray, x: np.ndarray, y: np.ndarray, height: int, width: int) -> np.ndarray:
    """CutMix's boxes, int64 [n, 4]: a share 1 - lam around a uniform centre, clipped."""
    column, row = np.floor(x * width), np.floor(y * height)
    radius = 0.5 * np.sqrt(1 - lam)
    tall, wide = np.floor(radius * height), np.floor(radius * width)
    edges = [row - tall, column - wide, row + tall, column + wide]
    limits = [height, width, height, width]
    return np.stack([np.clip(e, 0, n) for e, n in zip(edges, limits, strict=True)], -1).astype(int)


MIXES: dict[str, Callable[..., Mix | None]] = {'mixup_cutmix': mixup_cutmix}

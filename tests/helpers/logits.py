"""Logits and what their losses must be."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from helpers import assert_within

COUNTS = np.array([10, 3, 7, 1, 29])  # examples of each class
SMOOTH = {'label_smoothing': 0.1}


def examples(n: int = 64, k: int = 10, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits [N, K], labels [N] and one-hot targets [N, K], float64."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, k, n)
    return draw.normal(scale=3, size=(n, k)), labels, np.eye(k)[labels]


def cross_entropy(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-sum t log softmax, in NumPy."""
    shifted = logits - logits.max(-1, keepdims=True)
    return -(targets * (shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))).sum(-1)


def assert_loss_is_peer_s(
    loss: Callable[..., jax.Array], names: tuple[str, ...], case: str, data: dict[str, np.ndarray]
) -> None:
    """Of the logits and the arrays of these names: values, their mean (the focal loss's sum) and
    the gradient, in float64 to 1e-12 and in float32 to 1e-6."""
    for wide, tolerance in ((True, 1e-12), (False, 1e-6)):
        with jax.enable_x64(wide):
            logits, *others = (jnp.asarray(data[name]) for name in ('logits', *names))
            found = jax.jit(loss)(logits, *others)
            assert (found.shape, found.dtype) == ((6,), logits.dtype)
            assert_within(found, data[f'loss_{case}'], tolerance, case)
            whole = found.sum() if case.startswith('focal') else found.mean()
            assert_within(whole, data[f'batch_{case}'], tolerance, (case, 'batch'))
            slope = jax.grad(lambda *given: loss(*given).sum())(logits, *others)
            assert_within(slope, data[f'gradient_{case}'], tolerance, (case, 'gradient'))

"""TensorBoard's event files hold what metrics.jsonl holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import jcls
from helpers.runs import lines


def test_tensorboard_gets_the_metrics(tiny: dict[str, Any], tmp_path: Path) -> None:
    """With log.tensorboard the event file holds the scalars of metrics.jsonl."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    tiny |= {'duration': '2 steps', 'log': {'every': '1 step', 'tensorboard': True}}
    jcls.train(tiny, tmp_path)
    events = EventAccumulator(str(tmp_path), size_guidance={'tensors': 0})
    events.Reload()
    written = events.Tensors('train/loss')
    expected = [line['train/loss'] for line in lines(tmp_path) if 'train/loss' in line]
    assert [e.step for e in written] == [1, 2]
    assert [float(make_ndarray(e.tensor_proto)) for e in written] == pytest.approx(expected)

"""TensorBoard's event files hold what metrics.jsonl holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import jcls
from helpers.runs import crashing, lines
from jcls.host.tensorflow import tf
from jcls.training import loop
from jcls.workdir.log import truncate_events


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


def scalars(workdir: Path) -> Counter[tuple[str, int]]:
    """How often each (tag, step) is in the event files of a workdir."""
    return Counter(
        (value.tag, event.step)
        for path in workdir.glob('events.out.tfevents.*')
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator()
        for event in [tf.compat.v1.Event.FromString(record)]
        for value in event.summary.value
    )


def test_a_resumed_run_repeats_nothing_on_tensorboard(tiny: dict[str, Any], tmp_path: Path) -> None:
    """Of a run that was killed twice, the first time in the middle of writing, the event files hold
    each (tag, step) of metrics.jsonl exactly once, and nothing else."""
    experiment = jcls.build({**tiny, 'log': {'every': '1 step', 'tensorboard': True}})
    for at in (4, 8):
        with pytest.raises(RuntimeError, match='power cut'):
            loop.train(crashing(experiment, at), tmp_path)
        file = max(tmp_path.glob('events.out.tfevents.*'), key=lambda path: path.stat().st_mtime)
        file.write_bytes(file.read_bytes() + file.read_bytes()[:30])  # half of a record
    loop.train(experiment, tmp_path)
    expected = Counter(
        (tag, line['step'])
        for line in lines(tmp_path)
        for tag in line
        if tag not in ('step', 'epoch')
    )
    found = scalars(tmp_path)
    assert set(found.values()) == {1}
    speed = 'train/images_per_second'
    assert {key for key in found if key[0] != speed} == set(expected)


def test_a_folder_that_is_called_like_events_stays(tmp_path: Path) -> None:
    """It is none of ours."""
    (tmp_path / 'events.out.tfevents.1').mkdir()
    truncate_events(tmp_path, lambda _: False)
    assert (tmp_path / 'events.out.tfevents.1').is_dir()


def test_a_number_that_is_none_is_named(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A learning rate beyond float32, say, which JSON could not hold."""
    config = tiny | {'optimizer': {'lr': 1e39, 'reference_batch': None}, 'log': {'every': '1 step'}}
    with pytest.raises(FloatingPointError, match=r'train/learning_rate at step 1 is inf'):
        jcls.train(config, tmp_path)


def test_values_of_others_stay_on_tensorboard(tmp_path: Path) -> None:
    """What a run did not write is not its to drop; a file without anything to drop stays as is."""
    with tf.summary.create_file_writer(str(tmp_path)).as_default():
        for step in (1, 2):
            tf.summary.scalar('mine', 1.0, step=step)
            tf.summary.scalar('train/loss', 1.0, step=step)
    (file,) = tmp_path.iterdir()
    before = file.read_bytes()
    truncate_events(tmp_path, lambda line: line['step'] <= 2)
    assert file.read_bytes() == before
    truncate_events(tmp_path, lambda line: line['step'] <= 1)
    assert set(scalars(tmp_path)) == {('mine', 1), ('mine', 2), ('train/loss', 1)}
    assert [*tmp_path.iterdir()] == [file]

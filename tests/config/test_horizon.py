"""Lengths of time: every unit, singular and plural, rounding, intervals, what is refused."""

from __future__ import annotations

import pytest

from jcls.config import horizon
from jcls.config.horizon import Horizon

IMAGENET = horizon.create_horizon('90 epochs', 1024, 1_281_167)  # 1251 steps an epoch
SHORT = Horizon(total=70, steps_per_epoch=7, batch_size=10)


@pytest.mark.parametrize(
    ('duration', 'batch', 'examples', 'total', 'per_epoch'),
    [
        ('90 epochs', 1024, 1_281_167, 112_590, 1251),
        ('600 epochs', 1024, 1_281_167, 750_600, 1251),
        ('1000 steps', 64, 1437, 1000, 22),
        ('1 step', 8, 8, 1, 1),
        ('1 epoch', 8, 15, 1, 1),
        ('0.5 epochs', 10, 100, 5, 10),
        ('1e3 steps', 10, 100, 1000, 10),
        ('  2   epochs ', 10, 100, 20, 10),
    ],
)
def test_an_epoch_is_floor_examples_over_batch(duration, batch, examples, total, per_epoch):
    """The run's length is an exact number of steps, whatever the unit of its duration."""
    assert horizon.create_horizon(duration, batch, examples) == (total, per_epoch, batch)


@pytest.mark.parametrize(
    ('length', 'steps'),
    [
        ('5 epochs', 35),
        ('1 epoch', 7),
        ('0 epochs', 0),
        ('0.5 epochs', 4),  # 3.5
        ('1.5 epochs', 10),  # 10.5: of two equally near, the even one
        ('0.07 epochs', 0),
        ('.5 epochs', 4),
        ('2. epochs', 14),
        ('1 step', 1),
        ('12 steps', 12),
        ('12.0 steps', 12),
        ('0.02 run', 1),  # 1.4
        ('0.5 run', 35),
        ('1 run', 70),
        ('1e-1 run', 7),
    ],
)
def test_a_length_becomes_the_nearest_number_of_steps(length, steps):
    """Units in the singular or plural; fractions are rounded to the nearest step."""
    found = SHORT.steps(length)
    assert found == steps
    assert type(found) is int


def test_a_fraction_of_the_run_follows_its_duration():
    """'0.02 run' is two hundredths of the steps of this run."""
    assert IMAGENET.steps('0.02 run') == round(112_590 * 0.02) == 2252
    assert IMAGENET.steps('5 epochs') == 6255


BAD = ['', '5', 'epochs', 'five epochs', '5epochs', '5 Epochs', '5 moons', '-5 epochs', '5 epochss']
BAD += [
    '5 runs',
    '5 epochs 3 steps',
    '5 s',
    '1,5 epochs',
    'nan epochs',
    '1e400 epochs',
    '1e400 steps',
]
BAD += ['never', '5 ', '. epochs', '5 steps\n6']


@pytest.mark.parametrize('text', BAD)
def test_bad_text_is_an_error_that_shows_how_to_write_it(text):
    """What is no length of time is refused, with examples, wherever it stands in the config."""
    message = "is not a length of time; write e.g. '5 steps', '5 epochs'"
    message = '1e400' if text.startswith('1e400') else message  # infinitely many: in any words
    with pytest.raises(ValueError, match=message):
        SHORT.steps(text)
    with pytest.raises(ValueError, match=f'^config.duration.*{message}'):
        horizon.create_horizon(text, 10, 70)
    if text != 'never':
        with pytest.raises(ValueError, match=f'^config.log.every.*{message}'):
            SHORT.every(text, 'log.every')


def test_steps_are_whole():
    """Half a step is refused, not rounded."""
    with pytest.raises(ValueError, match=r"'2.5 steps': steps are whole"):
        SHORT.steps('2.5 steps')


def test_a_duration_is_no_fraction_of_itself():
    """'0.5 run' as the duration is an error that offers the other units only."""
    with pytest.raises(ValueError, match=r'^config\.duration') as caught:
        horizon.create_horizon('0.5 run', 10, 70)
    assert 'epochs' in str(caught.value)
    assert '0.02 run' not in str(caught.value)


@pytest.mark.parametrize('duration', ['0 epochs', '0 steps', '0.01 epochs'])
def test_a_run_has_a_step(duration):
    """A duration that rounds to nothing is an error, not an empty run."""
    with pytest.raises(ValueError, match=f"^config.duration='{duration}' is 0 steps; at least 1"):
        horizon.create_horizon(duration, 10, 70)


def test_an_interval_is_at_least_a_step_or_never():
    """'never' is 0; what rounds to 0 is an error with its place."""
    assert SHORT.every('never', 'log.every') == 0
    assert SHORT.every('2 epochs', 'log.every') == 14
    assert SHORT.every('100 epochs', 'log.every') == 700  # longer than the run: only its end
    for interval in ('0 steps', '0.01 epochs', '0.001 run'):
        with pytest.raises(
            ValueError, match=f"^config.log.every='{interval}' is 0 steps; at least"
        ):
            SHORT.every(interval, 'log.every')


def test_an_epoch_needs_a_batch():
    """Fewer images than a batch, and a batch of none, are errors that name the batch size."""
    with pytest.raises(
        ValueError, match=r'^config.batch_size=256, but there are only 255 training'
    ):
        horizon.create_horizon('1 epoch', 256, 255)
    assert horizon.create_horizon('1 epoch', 256, 256).total == 1
    for batch in (0, -1):
        with pytest.raises(ValueError, match=f'^config.batch_size={batch}: at least 1'):
            horizon.create_horizon('1 epoch', batch, 255)


def test_epochs_are_counted_in_fractions():
    """The epoch of a step is the share of its epoch's steps that are done."""
    assert [SHORT.epoch(step) for step in (0, 7, 70)] == [0, 1, 10]
    assert IMAGENET.epoch(1) == 1 / 1251

"""`jcls bench step` times the loop's own step; what `bench input` measured is told by plans."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import jcls
from jcls.main import main
from jcls.tools.plan import chips, input_rate, measure
from jcls.tools.plan.chips import CHIPS


def test_a_step_is_measured(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The figures hold together, of the experiment's own steps; and a profile on request."""
    experiment = jcls.build(tiny | {'mix': {'mixup': 0.2, 'batch_size': 4}})
    calls = []
    step = experiment.train_step

    class Counted:
        lower = step.lower  # type: ignore[attr-defined]

        def __call__(self, *args: Any) -> Any:
            calls.append(args)
            return step(*args)

    object.__setattr__(experiment, 'train_step', Counted())
    found = measure.bench_step(experiment, steps=4, rounds=2, trace=str(tmp_path))
    assert len(calls) == measure.WARM_UP + 2 * 4 + measure.WARM_UP
    assert found['step_seconds'] == min(found['step_seconds_by_round']) > 0
    assert found['images_per_second'] == pytest.approx(8 / found['step_seconds'])
    assert found['roofline_seconds'] is found['roofline_share'] is None  # of a CPU
    assert list(tmp_path.rglob('*.xplane.pb'))


def test_of_a_known_chip_the_roofline_is_a_bound(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The larger of operations over peak and bytes over bandwidth, and its share of the step."""
    slow = CHIPS['v2']._replace(flops=1e6, bandwidth=1e6)  # with two devices a chip
    monkeypatch.setattr(measure, 'chip_of', lambda _: slow)
    found = measure.bench_step(jcls.build(tiny), steps=1, rounds=1)
    bound = 2 * max(found['flops'], found['bytes_accessed']) / 1e6
    assert found['roofline_seconds'] == pytest.approx(bound)
    assert found['roofline_share'] == pytest.approx(bound / found['step_seconds'])


@pytest.mark.parametrize(('field', 'value'), [('steps', 0), ('rounds', -1)])
def test_bad_input(tiny: dict[str, Any], field: str, value: int) -> None:
    """Nothing can be measured in no steps."""
    with pytest.raises(ValueError, match=rf'--{field}={value}: must be at least 1'):
        measure.bench_step(jcls.build(tiny), **{field: value})


def test_chips_are_recognised_by_the_names_that_jax_has_for_them() -> None:
    """TPUs by their kind, GPUs by the name of the product; others are unknown."""
    assert chips.chip_of('TPU v5 lite') is CHIPS['v5e']
    assert chips.chip_of('NVIDIA H100 80GB HBM3') is CHIPS['h100']
    assert chips.chip_of('NVIDIA A100-SXM4-80GB') is CHIPS['a100']
    assert chips.chip_of('NVIDIA L40S') is CHIPS['l40s']
    assert chips.chip_of('NVIDIA L4') is CHIPS['l4']
    assert chips.chip_of('NVIDIA A10G') is CHIPS['a10g']
    assert chips.chip_of('cpu') is None
    assert chips.chip_of('NVIDIA H100 PCIe') is None  # slower than the table's
    assert chips.chip_of('NVIDIA A100-SXM4-40GB') is None


def test_measurements_of_the_input_are_remembered(tiny: dict[str, Any]) -> None:
    """For the same data and augmentation, wherever the data lie; not for others."""
    config = jcls.build(tiny).config
    assert input_rate.recall(config) is None
    input_rate.remember(config, {'images_per_second_per_core': 123.0})
    assert input_rate.recall({**config, 'batch_size': 64}) == {'images_per_second_per_core': 123.0}
    assert input_rate.recall({**config, 'augment': ()}) is None


def test_the_verb(capsys: pytest.CaptureFixture[str]) -> None:
    """`jcls bench step` tells its figures; `jcls bench input` remembers its own for plans."""
    small = ('--config', 'configs/quickstart.py', '--config.seed=5', '--rounds=1')
    tiny_model = ('--config.model.blocks=(1,1,1)', '--config.model.width=4')
    assert main(['bench', 'step', *small, *tiny_model, '--steps=1', '--json']) == 0
    out = capsys.readouterr().out
    assert 'of the roofline' not in out  # of a CPU, which has none
    assert json.loads(out.strip().split('\n')[-1])['step_seconds'] > 0
    config = jcls.load_config('configs/quickstart.py')
    assert input_rate.per_core(config) is None
    assert main(['bench', 'input', *small, '--seconds=0.1']) == 0
    assert input_rate.per_core(config) > 0


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('input', '--steps=3'), '--steps is of `bench step`; `bench input` has none'),
        (('input', '--trace=x'), '--trace is of `bench step`'),
        (('step', '--compare'), '--compare is of `bench input`'),
        (('step', '--seconds=1'), '--seconds is of `bench input`'),
        (('step', '--topology=v5x:1x1'), '--topology=v5x:1x1: unknown'),
    ],
)
def test_what_would_be_ignored_is_refused(
    words: tuple[str, ...], message: str, capsys: pytest.CaptureFixture
) -> None:
    """Before anything is measured."""
    assert main(['bench', *words, '--config', 'configs/quickstart.py']) == 1
    assert message in capsys.readouterr().err


def test_a_measurement_is_of_its_machine(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Homes are shared: what one kind of CPU measured is not told on another."""
    config = jcls.build(tiny).config
    input_rate.remember(config, {'images_per_second_per_core': 9.0})
    assert input_rate.per_core(config) == 9
    monkeypatch.setattr(input_rate, 'processor', lambda: 'another')
    assert input_rate.per_core(config) is None

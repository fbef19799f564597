"""`jcls plan`: the loop's own step, compiled for a TPU that is not here; readings of programs."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import jcls
from jcls.machines import chips, predict, program, topology
from jcls.tools import compile, measured, plan

HAS_LIBTPU = importlib.util.find_spec('libtpu') is not None
HAS_CUDA = importlib.util.find_spec('jax_cuda12_plugin') is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason='libtpu has no wheel for this platform')

PROGRAM = """
HloModule jit_train_step

%sum (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x, %y)
}

%inner (p.1: f32[8,4]) -> f32[8,4] {
  %p.1 = f32[8,4]{1,0} parameter(0)
  ROOT %negate.1 = f32[8,4]{1,0} negate(%p.1)
}

%body (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%t), index=0
  %v = f32[8,4]{1,0:T(8,128)} get-tuple-element(%t), index=1
  %fusion.2 = f32[8,4]{1,0:T(8,128)} fusion(%v), kind=kLoop, calls=%inner, metadata={op_name="in/loop"}, backend_config={"estimated_cycles":"100"}
  ROOT %tuple.1 = (s32[], f32[8,4]{1,0}) tuple(%i, %fusion.2)
}

%cond (t.1: (s32[], f32[8,4])) -> pred[] {
  %t.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

ENTRY %main (a: bf16[16,8], b: f32[8,4]) -> f32[8,4] {
  %a = bf16[16,8]{1,0} parameter(0)
  %b = f32[8,4]{1,0} parameter(1)
  %fusion.1 = (f32[8]{0}, bf16[16,8]{1,0}) fusion(%a, %b), kind=kLoop, calls=%inner, metadata={op_name="jit(step)/first"}, backend_config={"estimated_cycles":"1000"}
  %all-reduce.1 = f32[8,4]{1,0} all-reduce(%b), replica_groups={{0,1}}, to_apply=%sum
  %all-reduce-start.1 = (f32[8]{0}, f32[2,2]{1,0}) all-reduce-start(%b, %b), to_apply=%sum
  %start = (s32[], f32[8,4]{1,0}) tuple(%c, %all-reduce.1)
  %while.1 = (s32[], f32[8,4]{1,0}) while(%start), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %dot.1 = f32[8,4]{1,0} custom-call(%a, %b), custom_call_target="__cublas$gemm"
  ROOT %out = f32[8,4]{1,0} get-tuple-element(%while.1), index=1
}
"""  # noqa: E501


def test_a_program_is_read() -> None:
    """Cycles and collectives of the program and of its loops, as often as they run."""
    assert program.cycles(PROGRAM) == 1000 + 5 * 100
    assert program.cycles('ENTRY %main () -> f32[] {\n}') is None
    assert program.collectives(PROGRAM) == {
        'all-reduce': {'count': 2, 'bytes': 8 * 4 * 4 + 8 * 4 + 2 * 2 * 4}
    }
    assert program.kernels(PROGRAM)['fusion'] == 1 + 5
    assert program.kernels(PROGRAM)['__cublas$gemm'] == 1
    assert [row['scope'] for row in program.costliest(PROGRAM, 2)] == ['jit(step)/first', 'in/loop']


@pytest.mark.parametrize(
    ('shape', 'expected'),
    [
        ('f32[64,256]{1,0:T(8,128)S(1)}', 64 * 256 * 4),
        ('(bf16[2,3]{1,0}, /*index=1*/pred[5], s32[])', 12 + 5 + 4),
        ('s4[8]', 4),
        ('token[]', 0),
    ],
)
def test_sizes_of_shapes(shape: str, expected: int) -> None:
    """Bytes by hand; layouts and memory spaces do not count."""
    assert program.size(shape) == expected


def test_operations_by_hand() -> None:
    """Matrix products and convolutions of a GPU's program, forwards and backwards."""
    text = """
%inner (p: f32[8,4], q: f32[4,3]) -> f32[8,3] {
  %p = f32[8,4]{1,0} parameter(0)
  %q = f32[4,3]{1,0} parameter(1)
  ROOT %dot.1 = f32[8,3]{1,0} dot(%p, %q), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (t: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %t = (s32[], f32[8,4]{1,0}) parameter(0)
  %v = f32[8,4]{1,0} get-tuple-element(%t), index=1
  %fusion.1 = f32[8,3]{1,0} fusion(%v, %v), kind=kCustom, calls=%inner
}

ENTRY %main (x: f32[2,8,8,3], w: f32[5,3,3,3], y: f32[2,4,4,5]) -> f32[] {
  %x = f32[2,8,8,3]{3,2,1,0} parameter(0)
  %w = f32[5,3,3,3]{3,2,1,0} parameter(1)
  %y = f32[2,4,4,5]{3,2,1,0} parameter(2)
  %while.1 = (s32[], f32[8,4]{1,0}) while(%x), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"7"}}
  %conv.1 = (f32[2,4,4,5]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
  %conv.2 = (f32[2,8,8,3]{3,2,1,0}, u8[0]{0}) custom-call(%y, %w), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
  %conv.3 = (f32[5,3,3,3]{3,2,1,0}, u8[0]{0}) custom-call(%x, %y), window={size=3x3 stride=2x2}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
  %gemm.1 = f32[8,3]{1,0} custom-call(%x, %w), custom_call_target="__cublas$gemm", backend_config={"dot_dimension_numbers":{"lhs_contracting_dimensions":["3"]}}
}
"""  # noqa: E501
    convolution = 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)
    assert program.flops(text) == 7 * 2 * 8 * 3 * 4 + 3 * convolution + 2 * 8 * 3 * 3


def test_traffic_counts_operands_and_results_of_kernels() -> None:
    """By hand: a fusion, two collectives, five turns of a loop and a library call."""
    a, b = 16 * 8 * 2, 8 * 4 * 4
    expected = (a + b + 32 + a) + 2 * b + (2 * b + 32 + 16) + 5 * 2 * b + (a + b + b)
    assert program.traffic(PROGRAM) == expected


@pytest.mark.parametrize(
    ('name', 'facts'),
    [
        ('v5e:4x4', ('tpu', 'v5e', 16, 4)),
        ('v4:2x2x4', ('tpu', 'v4', 16, 4)),
        ('v5e:1x1', ('tpu', 'v5e', 1, 1)),
        ('gpu:h100', ('gpu', 'h100', 1, 1)),
        ('gpu:h100x8', ('gpu', 'h100', 8, 1)),
        ('gpu:2xa100x8', ('gpu', 'a100', 16, 2)),
    ],
)
def test_names_of_topologies(name: str, facts: tuple[str, str, int, int]) -> None:
    """Platform, chip, chips and hosts."""
    found = topology.parse(name)
    assert (found.platform, found.chip, found.chips, found.hosts) == facts


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('v5x:2x2', r'unknown.*v5e.*generations: v2, v3, v4, v5e, v5p, v6e, tpu7x'),
        ('v5e', r'generation:shape'),
        ('v5e:4', r'v5e:4x4'),
        ('gpu:h1000x8', r"did you mean 'h100'.*a100, h100, h200, b200"),
        ('h100', r'gpu:h100x8'),
        ('v5e:0x4', r'no chips'),
    ],
)
def test_unknown_topologies(name: str, message: str) -> None:
    """Refused with all that are known."""
    with pytest.raises(ValueError, match=message):
        topology.parse(name)


def test_clocks_follow_from_peaks() -> None:
    """Where makers publish a clock, it is this one: v5e 1.5 GHz, v4 1.05, v5p 1.75."""
    for name, gigahertz in {'v4': 1.05, 'v5e': 1.5, 'v5p': 1.75}.items():
        assert chips.CHIPS[name].clock == pytest.approx(gigahertz * 1e9, rel=2e-3)
    assert chips.CHIPS['h100'].clock is None


def test_time_by_hand() -> None:
    """A ring all-reduce over 4 chips, cycles over the clock, and both sides of the roofline."""
    found = {
        'collectives': {'all-reduce': {'count': 3, 'bytes': 10**8}},
        'flops': 197e12 * 0.010,
        'bytes_accessed': 819e9 * 0.020,
        'estimated_cycles': 30_000_000,
    }
    on = topology.parse('v5e:2x2')
    times = predict.seconds(found, on)
    collective = 2 * 3 / 4 * 10**8 / 200e9 + 3 * 2 * 2e-6
    assert times['collective_seconds'] == pytest.approx(collective)
    assert times['roofline_seconds'] == pytest.approx(0.020 + collective)
    assert times['roofline_bound'] == 'memory'
    assert times['step_seconds'] == pytest.approx(30e6 / 1.503e9 + collective, rel=1e-3)
    one = predict.seconds(found, topology.parse('gpu:h100'))
    assert (one['collective_seconds'], one['time_from']) == (0.0, 'roofline')


@needs_libtpu
def test_a_small_plan(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A tiny ResNet on four v5e chips: every promised fact, kept, and told again at once."""
    config = jcls.build(tiny | {'batch_size': 32}).config
    found = jcls.plan(config, 'v5e:2x2', search=False, keep=tmp_path)
    assert (found['chips'], found['hosts'], found['per_chip_batch']) == (4, 1, 8)
    for key in (
        'argument_bytes', 'temporary_bytes', 'peak_bytes', 'flops', 'bytes_accessed',
        'estimated_cycles', 'collectives', 'collective_bytes', 'step_seconds', 'roofline_seconds',
        'images_per_second', 'hours', 'host_images_per_second_per_core',
    ):  # fmt: skip
        assert found[key] > 0, key
    parameters = sum(leaf.size for leaf in _parameters(config))
    assert found['argument_bytes'] > 2 * 4 * parameters  # and momentum
    assert 0 < found['eval']['flops'] / 30 < found['flops'] / 8  # of an image
    assert set(found['collectives_by_kind']) == {'all-reduce'}
    kept = list(tmp_path.iterdir())
    assert len(kept) == 2
    for file in kept:  # what is told again is what was kept
        file.write_text(json.dumps({**json.loads(file.read_text()), 'estimated_cycles': 7}))
    again = jcls.plan(config, 'v5e:2x2', search=False, keep=tmp_path)
    assert (again['estimated_cycles'], again['eval']['estimated_cycles']) == (7, 7)
    assert again['peak_bytes'] == found['peak_bytes']
    with pytest.raises(ValueError, match=r'v5e:3x5.*refuses'):
        jcls.plan(config, 'v5e:3x5', search=False, keep=tmp_path)


def _parameters(config: dict[str, Any]) -> list[Any]:
    import jax

    return jax.tree.leaves(jcls.build(config).state_shapes().params)


def fake(per_image: int, fixed: int, memory_error: bool) -> Any:
    """A compiler whose programs take so many bytes."""

    def compiled(_: Any, on: Any, *, per_chip_batch: int, **__: Any) -> dict[str, Any]:
        calls.append(per_chip_batch)
        peak = fixed + per_image * per_chip_batch
        if memory_error and peak > on.facts.memory:
            return {'train': {'error': 'RESOURCE_EXHAUSTED'}}
        return {'train': {'peak_bytes': peak}}

    calls: list[int] = []
    compiled.calls = calls  # type: ignore[attr-defined]
    return compiled


@pytest.mark.skipif(not HAS_CUDA, reason='jax[cuda12] is not installed')
def test_a_plan_for_gpus(tiny: dict[str, Any]) -> None:
    """Memory, collectives and kernels from the compiler; time from a roofline."""
    config = jcls.build(tiny).config
    one, two = (
        jcls.plan(config, name, per_chip_batch=16, search=False, keep=None)
        for name in ('gpu:a100', 'gpu:2xh100x2')
    )
    assert (one['chips'], one['hosts'], two['chips'], two['hosts']) == (1, 1, 4, 2)
    assert (one['time_from'], one['estimated_cycles'], one['collectives']) == ('roofline', None, 0)
    assert two['collectives'] > 0
    assert one['flops'] == pytest.approx(two['flops'], rel=0.1)  # of each
    assert any('cudnn' in name for name in one['kernels'])


@pytest.mark.parametrize('memory_error', [False, True])
@pytest.mark.parametrize('begin', [16, 128, 4096])
def test_the_largest_batch_is_found(
    begin: int, memory_error: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In at most so many programs, to within one step, from below and from above."""
    on = topology.parse('v5e:2x2')
    compiler = fake(30_000_000, 500_000_000, memory_error)
    monkeypatch.setattr(plan, 'compiled', compiler)
    first = compiler({}, on, per_chip_batch=begin)['train']
    found = plan._largest({}, on, begin, first, 10**6, None)
    exact = (on.facts.memory - 500_000_000) / 30_000_000
    assert found is not None
    assert found <= exact
    assert len(compiler.calls) <= 1 + plan.TRIES
    if begin < 4096:
        assert exact - found < (2 if not memory_error else 6) * plan.BATCHES
    assert plan._largest({}, on, 16, compiler({}, on, per_chip_batch=16)['train'], 100, None) <= 100


def test_a_step_that_does_not_fit(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Says the largest batch that does, and what else would help."""

    def compiled(*_: Any, per_chip_batch: int | None = None, **__: Any) -> Any:
        batch = per_chip_batch or 512
        run = {'batch_size': 4 * batch, 'train_examples': 10**6}
        return {'run': run, 'train': {'peak_bytes': batch * 10**8}, 'eval': {'peak_bytes': 1}}

    monkeypatch.setattr(plan, 'compiled', compiled)
    with pytest.raises(ValueError, match=r'512 images a chip.*does not fit.*51\.20 GB') as refused:
        jcls.plan(jcls.build(tiny).config, 'v5e:2x2', keep=None)
    assert 'config.batch_size=640' in str(refused.value)  # 160 of 171 that fit
    assert 'remat' in str(refused.value)
    assert 'accumulate' in str(refused.value)


def test_without_the_compiler(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is the command that installs it."""

    def missing(*_: Any, **__: Any) -> Any:
        raise RuntimeError('JAX TPU support not installed; cannot generate TPU topology.')

    from jax.experimental import topologies

    monkeypatch.setattr(topologies, 'get_topology_desc', missing)
    request = {'config': jcls.build(tiny).config, 'topology': 'v5e:2x2', 'per_chip_batch': None}
    with pytest.raises(ValueError, match=r"pip install 'jax\[tpu\]=="):
        compile.answer({**request, 'steps': (), 'keep': None})


def test_this_machine_is_measured(tiny: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    """A CPU has the same facts, told by the clock; and a column of the table like the others."""
    tiny['augment'] = (*tiny['augment'], {'name': 'flip'})
    config = jcls.build(tiny).config
    measured.remember(config, {'images_per_second_per_core': 321.0})
    found = jcls.plan(config, 'cpu', per_chip_batch=16)
    assert found['input_images_per_second_per_core'] == 321
    assert (found['time_from'], found['per_chip_batch']) == ('measured', 16)
    assert found['images_per_second'] == pytest.approx(16 / found['step_seconds'])
    plan.show([found], Console(width=100))
    out = capsys.readouterr().out
    assert 'measured' in out
    assert '321' in out
    assert 'assumed' not in out

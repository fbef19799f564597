"""`jcls plan`: the loop's own step, compiled for a TPU that is not here; readings of programs."""

from __future__ import annotations

import importlib.util
import io
import json
import subprocess
from pathlib import Path
from typing import Any

import jax
import pytest
from rich.console import Console

import jcls
from jcls.tools import plan
from jcls.tools.plan import chips, compile, fit, hlo, input_rate, roofline, table, topology

HAS_LIBTPU = importlib.util.find_spec('libtpu') is not None
HAS_CUDA = importlib.util.find_spec('jax_cuda12_plugin') is not None
needs_libtpu = pytest.mark.skipif(not HAS_LIBTPU, reason='libtpu has no wheel for this platform')

EMA = {'name': 'torchvision', 'decay': 0.9, 'every': 1}
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


@pytest.fixture(autouse=True)
def as_users_compile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plans are compiled in a process of their own, without the options of the other tests."""
    monkeypatch.setenv('XLA_FLAGS', '')


def test_a_program_is_read() -> None:
    """Cycles and collectives of the program and of its loops, as often as they run."""
    assert hlo.cycles(PROGRAM) == 1000 + 5 * 100
    assert hlo.cycles('ENTRY %main () -> f32[] {\n}') is None
    assert hlo.collectives(PROGRAM) == {
        'all-reduce': {'count': 2, 'bytes': 8 * 4 * 4 + 2 * 8 * 4 * 4}
    }
    assert hlo.kernels(PROGRAM)['fusion'] == 1 + 5
    assert hlo.kernels(PROGRAM)['__cublas$gemm'] == 1
    assert [row['scope'] for row in hlo.costliest(PROGRAM, 2)] == ['jit(step)/first', 'in/loop']


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
    assert hlo.size(shape) == expected


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
    assert hlo.flops(text) == 7 * 2 * 8 * 3 * 4 + 3 * convolution + 2 * 8 * 3 * 3


def test_traffic_counts_operands_and_results_of_kernels() -> None:
    """By hand: a fusion, five turns of a loop and a library call; collectives are told apart."""
    a, b = 16 * 8 * 2, 8 * 4 * 4
    assert hlo.traffic(PROGRAM) == (a + b + 32 + a) + 5 * 2 * b + (a + b + b)
    assert hlo.traffic(PROGRAM, loops=False) == (a + b + 32 + a) + 2 * b + (a + b + b)


def test_loops_of_tpus_are_counted_by_their_condition() -> None:
    """Their programs do not say how often a loop runs: the bound stands in its condition."""
    text = PROGRAM.replace(', backend_config={"known_trip_count":{"n":"5"}}', '')
    assert hlo.cycles(text) == 1000 + 100  # not known
    bound = '%bound = s32[]{:T(128)} constant(4)'
    less = f'{bound}\n  ROOT %less = pred[] compare(%t.1, %bound), direction=LT'
    text = text.replace('ROOT %less = pred[] constant(true)', less)
    assert hlo.cycles(text) == 1000 + 4 * 100


def test_bytes_of_collectives() -> None:
    """Those of the whole, which is an all-gather's result and a reduce-scatter's operand."""
    text = """
ENTRY %main (a: f32[8], b: f32[32]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %b = f32[32]{0} parameter(1)
  %all-gather.1 = f32[32]{0} all-gather(%a), dimensions={0}
  %all-gather-start.1 = (f32[8]{0}, f32[32]{0}) all-gather-start(%a), dimensions={0}
  %all-gather-done.1 = f32[32]{0} all-gather-done(%all-gather-start.1)
  %reduce-scatter.1 = f32[8]{0} reduce-scatter(%b), dimensions={0}
}
"""
    assert hlo.collectives(text) == {
        'all-gather': {'count': 2, 'bytes': 2 * 32 * 4},
        'reduce-scatter': {'count': 1, 'bytes': 32 * 4},
    }
    assert hlo.traffic(text) == 0


@pytest.mark.parametrize(
    ('name', 'facts'),
    [
        ('v5e:4x4', ('tpu', 'v5e', 16, 4)),
        ('v4:2x2x4', ('tpu', 'v4', 16, 4)),
        ('v5p:8x8x12', ('tpu', 'v5p', 768, 192)),
        ('v5e:1x1', ('tpu', 'v5e', 1, 1)),
        ('gpu:h100', ('gpu', 'h100', 1, 1)),
        ('gpu:h100x8', ('gpu', 'h100', 8, 1)),
        ('gpu:2xa100x8', ('gpu', 'a100', 16, 2)),
        ('gpu:l40s', ('gpu', 'l40s', 1, 1)),
        ('gpu:a10gx8', ('gpu', 'a10g', 8, 1)),
        ('gpu:2xl40sx4', ('gpu', 'l40s', 8, 2)),
    ],
)
def test_names_of_topologies(name: str, facts: tuple[str, str, int, int]) -> None:
    """Platform, chip, chips and hosts."""
    found = topology.parse(name)
    assert (found.platform, found.chip_name, found.chips, found.hosts) == facts


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('v5x:2x2', r'unknown.*v5e.*generations: v2, v3, v4, v5e, v5p, v6e, tpu7x'),
        ('v5e', r'generation:shape'),
        ('v5e:4', r'v5e:4x4'),
        ('gpu:h1000x8', r"did you mean 'h100'.*a100, h100, h200, b200"),
        ('h100', r'gpu:h100x8'),
        ('gpu:h100x0', r'no chips'),
        ('v5e:0x4', r'no such slice; there are 1x1, 2x2, 2x4, 4x4, 4x8, 8x8, 8x16, 16x16'),
        ('v5e:32x32', r'no such slice'),
        ('v5e:3x5', r'no such slice'),
        ('v5e:2x2x2', r'no such slice'),
        ('v4:2x2', r'there are 2x2x1, 2x2x2.*multiples of 4, up to 4,096 chips'),
        ('v4:4x4x6', r'no such slice'),
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
    times = roofline.seconds(found, on)
    # Of a chip's four links, two lead to chips of 2 x 2.
    collective = 2 * 3 / 4 * 10**8 / 100e9 + 3 * 2 * 2e-6
    assert times['collective_seconds'] == pytest.approx(collective)
    assert times['roofline_seconds'] == pytest.approx(0.020 + collective)
    assert times['roofline_bound'] == 'memory'
    assert times['step_seconds'] == pytest.approx(30e6 / 1.503e9 + collective, rel=1e-3)
    one = roofline.seconds(found, topology.parse('gpu:h100'))
    assert (one['collective_seconds'], one['time_from']) == (0.0, 'roofline')
    # Of 16x16 both axes are rings: all links. Two hosts of 8 GPUs: each an eighth of the whole.
    pod = roofline.seconds(found, topology.parse('v5e:16x16'))['collective_seconds']
    assert pod == pytest.approx(2 * 255 / 256 * 10**8 / 200e9 + 3 * 2 * 16e-6)
    hosts = roofline.seconds(found, topology.parse('gpu:2xh100x8'))['collective_seconds']
    inside, between = 7 / 8 * 10**8 / 450e9, 1 / 2 * 10**8 / 8 / 50e9
    assert hosts == pytest.approx(2 * (inside + between) + 3 * 2 * 10e-6)


@needs_libtpu
def test_a_small_plan(tiny: dict[str, Any], tmp_path: Path) -> None:
    """A tiny ResNet on four v5e chips: every promised fact, kept, and told again at once."""
    config = jcls.build(tiny | {'batch_size': 32}).config
    found = jcls.plan(config, 'v5e:2x2', search=False, keep=tmp_path)
    assert (found['chips'], found['hosts'], found['per_chip_batch']) == (4, 1, 8)
    for key in (
        'argument_bytes', 'temporary_bytes', 'peak_bytes', 'beside_bytes', 'flops',
        'bytes_accessed',
        'estimated_cycles', 'collectives', 'collective_bytes', 'step_seconds', 'roofline_seconds',
        'images_per_second', 'hours', 'host_images_per_second_per_core',
    ):  # fmt: skip
        assert found[key] > 0, key
    parameters = sum(leaf.size for leaf in _parameters(config))
    batch = 8 * 8 * 8 * 3 + 8 * (4 + 4)  # of a chip: images, labels, which of them count
    assert found['beside_bytes'] == 2 * batch
    rest = 4 * (parameters + 1)  # of the state: momentum and the step
    assert found['eval']['beside_bytes'] == 3 * batch + 2 * 30 * (8 * 8 * 3 + 8) + rest
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
    for batch, message in ((0, r'per_chip_batch=0: at least 1'), (10**6, r'batch_size=4000000')):
        with pytest.raises(ValueError, match=message):
            jcls.plan(config, 'v5e:2x2', per_chip_batch=batch, search=False, keep=tmp_path)
    with pytest.raises(ValueError, match=r'batch_size=32 does not divide.*--per_chip_batch'):
        jcls.plan(config, 'v5e:8x8', search=False, keep=tmp_path)


@needs_libtpu
def test_accumulation_is_counted_in_full(tiny: dict[str, Any]) -> None:
    """Four micro-batches do the work of one batch, and reduce as often as four."""
    settings = tiny | {'batch_size': 128}
    whole, parts = (
        jcls.plan(
            jcls.build(settings | {'accumulate': count}).config, 'v5e:2x2', search=False, keep=None
        )
        for count in (1, 4)
    )
    assert parts['flops'] == pytest.approx(whole['flops'], rel=0.3)
    assert parts['collectives'] > 3 * whole['collectives']
    assert parts['estimated_cycles'] > whole['estimated_cycles']


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize(
    'name', ['v2:2x2', 'v3:2x2', 'v4:2x2x1', 'v5p:2x2x1', 'v6e:2x2', 'tpu7x:2x2x1']
)
def test_every_generation_compiles(tiny: dict[str, Any], name: str) -> None:
    """Two blocks of a ResNet-50 at full width: v6e's compiler needs `must_materialise` for them."""
    model = {'name': 'resnet50', 'blocks': (1, 1), 'dtype': 'bfloat16'}
    crop = {'name': 'random_resized_crop', 'size': 176}
    config = jcls.build(tiny | {'model': model, 'augment': (crop,)}).config
    found = jcls.plan(config, name, per_chip_batch=128, search=False, keep=None)
    assert found['estimated_cycles'] > 0


@needs_libtpu
@pytest.mark.slow
@pytest.mark.parametrize('group', [0, 8])
def test_weak_scaling(tiny: dict[str, Any], group: int) -> None:
    """The same batch of a chip on more chips: as many cycles, collectives and bytes."""
    tiny['norm'], tiny['evaluate'] = {'batch_size': group}, {}
    config = jcls.build(tiny).config
    four, *more = (
        jcls.plan(config, name, per_chip_batch=8, search=False, keep=None)
        for name in ('v5e:2x2', 'v5e:4x4', 'v5e:8x8')
    )
    for one in more:
        assert one['estimated_cycles'] == pytest.approx(four['estimated_cycles'], rel=0.01)
        assert one['collectives_by_kind'] == four['collectives_by_kind']


def test_sizes_and_evaluations_are_counted(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hours are of all sizes of images and all evaluations, the memory of the largest."""
    monkeypatch.setattr(compile, 'devices', lambda _: None)
    seen = []

    def analysed(lowered: Any, *_: Any) -> dict[str, Any]:
        seen.append(lowered.in_avals[0][-1]['image'].shape)
        return {'image': seen[-1]}

    monkeypatch.setattr(compile, '_analysed', analysed)
    monkeypatch.setattr(compile, 'devices', lambda _: jax.devices())
    crop = {'name': 'random_resized_crop', 'size': 8}
    config = jcls.build(
        tiny | {'augment': (crop,), 'sizes': (('4 steps', 12), ('8 steps', 10)), 'ema': EMA}
    ).config
    request = {'config': config, 'topology': 'v5e:2x2', 'per_chip_batch': None, 'keep': None}
    found = compile.answer({**request, 'steps': ('train', 'phases', 'eval')})
    assert found['train']['image'] == (8, 12, 12, 3)
    phases = [(phase['steps'], phase['image'][1]) for phase in found['phases']]
    assert phases == [(4, 8), (4, 12), (4, 10)]
    assert found['run']['image_shape'] == (12, 12, 3)
    # 360 held-out images in batches of 120, at steps 5, 10 and 12, of weights and of averages.
    assert found['run']['eval_batches'] == 3 * 3 * 2


def _parameters(config: dict[str, Any]) -> list[Any]:
    return jax.tree.leaves(jcls.build(config).state_shapes().params)


def fake(per_image: int, fixed: int, memory_error: bool) -> Any:
    """A compiler whose programs take so many bytes."""

    def compiled(tree: Any, on: Any, *, per_chip_batch: int, **__: Any) -> dict[str, Any]:
        calls.append(per_chip_batch)
        whole = per_chip_batch * on.chips
        assert whole % (tree['accumulate'] * (tree['norm']['batch_size'] or 1)) == 0
        peak = fixed + per_image * per_chip_batch
        if memory_error and peak > on.chip.memory:
            return {'train': {'error': 'RESOURCE_EXHAUSTED'}}
        beside = 10_000_000 * per_chip_batch  # of the bytes of an image
        return {'train': {'peak_bytes': peak - beside, 'beside_bytes': beside}}

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
    on, tree = topology.parse('v5e:2x2'), {'accumulate': 1, 'norm': {'batch_size': 0}}
    compiler = fake(30_000_000, 500_000_000, memory_error)
    monkeypatch.setattr(fit, 'compiled', compiler)
    first = compiler(tree, on, per_chip_batch=begin)['train']
    found = fit.largest_batch(tree, on, begin, first, 10**6, None)
    exact = (on.chip.memory - 500_000_000) / 30_000_000
    assert found is not None
    assert found <= exact
    assert len(compiler.calls) <= 1 + fit.TRIES
    if begin < 4096:
        assert exact - found < (2 if not memory_error else 6) * fit.BATCHES
    few = compiler(tree, on, per_chip_batch=16)['train']
    assert fit.largest_batch(tree, on, 16, few, 100, None) <= 100


@pytest.mark.parametrize(
    ('accumulate', 'group', 'begin'), [(3, 0, 48), (1, 128, 128), (1, 96, 24), (2, 64, 128)]
)
def test_the_largest_batch_can_be_divided(
    accumulate: int, group: int, begin: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into micro-batches and ghost groups; the fake compiler asserts it of each that is tried."""
    on = topology.parse('v5e:2x2')
    tree = {'accumulate': accumulate, 'norm': {'batch_size': group}}
    compiler = fake(30_000_000, 500_000_000, memory_error=False)
    monkeypatch.setattr(fit, 'compiled', compiler)
    first = compiler(tree, on, per_chip_batch=begin)['train']
    found = fit.largest_batch(tree, on, begin, first, 10**6, None)
    assert found is not None
    assert begin < found <= (on.chip.memory - 500_000_000) / 30_000_000
    assert len(compiler.calls) > 1


def test_a_crash_at_a_batch_that_nobody_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ends the search, and is no cure; the plan goes on with what it has."""

    def crash(*_: Any, **__: Any) -> Any:
        calls.append(1)
        raise ValueError('the compiler ended by SIGSEGV')

    calls: list[int] = []
    monkeypatch.setattr(fit, 'compiled', crash)
    on = topology.parse('v5e:2x2')
    tree = {'accumulate': 1, 'norm': {'batch_size': 0}, 'model': {'remat': False}}
    tree |= {'augment': ({'name': 'random_resized_crop', 'size': 224},), 'sizes': ()}
    train = {'peak_bytes': 10**9, 'beside_bytes': 0}
    assert fit.largest_batch(tree, on, 64, train, 10**6, None) == 64
    assert fit.cures(tree, on, 64, None) == []
    assert len(calls) == 1 + 4  # remat, accumulation of 2 and 4, a smaller image


@needs_libtpu
def test_each_core_of_a_chip_holds_the_state(tiny: dict[str, Any]) -> None:
    """Two of a v3: beside an evaluation lie the momentum and the step of both."""
    config = jcls.build(tiny).config
    one, two = (
        compile.compiled(config, topology.parse(name), per_chip_batch=8)['eval']['beside_bytes']
        for name in ('v5e:2x2', 'v3:2x2')
    )
    assert two - one == 4 * (sum(leaf.size for leaf in _parameters(config)) + 1)


def test_small_batches_are_tried_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even 16 fit, fewer may."""
    on, tree = topology.parse('v5e:2x2'), {'accumulate': 1, 'norm': {'batch_size': 0}}
    compiler = fake(2 * 10**9, 0, memory_error=False)
    monkeypatch.setattr(fit, 'compiled', compiler)
    first = compiler(tree, on, per_chip_batch=64)['train']
    assert fit.largest_batch(tree, on, 64, first, 10**6, None) == 8  # of 17.2 GB


def test_a_step_that_does_not_fit(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Says the largest batch that does, and which settings would help."""

    def compiled(tree: Any, *_: Any, per_chip_batch: int | None = None, **__: Any) -> Any:
        batch = per_chip_batch or 512
        run = {'batch_size': 4 * batch, 'train_examples': 10**6, 'eval_batch_size': 4}
        peak = batch * 10**8 // tree['accumulate'] // (2 if tree['model']['remat'] else 1)
        if crop['size'] == 224:
            peak = peak * tree['augment'][0]['size'] ** 2 // 224**2 // 2
        train = {'peak_bytes': peak - 10, 'beside_bytes': 10}
        return {'run': run, 'train': train, 'eval': {'peak_bytes': evaluation, 'beside_bytes': 0}}

    evaluation, crop = 1, {'name': 'random_resized_crop', 'size': 8}
    monkeypatch.setattr(plan, 'compiled', compiled)
    monkeypatch.setattr(fit, 'compiled', compiled)
    config = jcls.build(tiny | {'augment': (crop,)}).config
    with pytest.raises(ValueError, match=r'512 images a chip.*does not fit.*51\.20 GB') as refused:
        jcls.plan(config, 'v5e:2x2', keep=None)
    assert '160 fit: config.batch_size=640' in str(refused.value)  # of 171
    assert 'config.accumulate=4 (12.80 GB)' in str(refused.value)
    assert 'accumulate=2' not in str(refused.value)  # 25.6 GB
    assert 'remat' not in str(refused.value)
    assert 'augment' not in str(refused.value)  # smaller than 8 px: nothing
    crop['size'] = 224
    with pytest.raises(ValueError, match=r'512 images.*25\.60 GB') as refused:
        jcls.plan(jcls.build(tiny | {'augment': (crop,)}).config, 'v5e:2x2', keep=None)
    assert 'config.augment[0].size=160 (13.06 GB)' in str(refused.value)
    assert 'config.model.remat=True (12.80 GB)' in str(refused.value)
    crop['size'] = 8
    with pytest.raises(ValueError, match=r'does not fit.*remat.*accumulate.*smaller image'):
        jcls.plan(config, 'v5e:2x2', search=False, keep=None)
    evaluation = 10**12
    with pytest.raises(ValueError, match=r'evaluation step with 1 images.*evaluate\.batch_size'):
        jcls.plan(config, 'v5e:2x2', per_chip_batch=16, search=False, keep=None)


@pytest.mark.parametrize(
    ('name', 'command'),
    [('v5e:2x2', r"pip install 'jax\[tpu\]=="), ('gpu:h100', r"pip install 'jax\[cuda12\]==")],
)
def test_without_the_compiler(
    name: str, command: str, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is the command that installs it."""
    monkeypatch.setattr(importlib.util, 'find_spec', lambda _: None)
    request = {'config': jcls.build(tiny).config, 'topology': name, 'per_chip_batch': None}
    with pytest.raises(ValueError, match=command):
        compile.answer({**request, 'steps': (), 'keep': None})


@pytest.mark.parametrize(
    ('code', 'errors', 'message'),
    [
        (
            -11,
            'I0 x\n*** SIGSEGV STACK OVERFLOW\n    @ f()\nE1 core\n',
            r'by SIGSEGV.*\*\*\* SIGSEGV',
        ),
        (3, 'a\nb', r'with code 3: a\nb$'),
    ],
)
def test_a_compiler_that_crashes(
    code: int, errors: str, message: str, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says how it ended, and of all it printed what tells why."""
    done = subprocess.CompletedProcess([], code, 'no answer', errors)
    monkeypatch.setattr(subprocess, 'run', lambda *_, **__: done)
    with pytest.raises(
        ValueError, match=r'v5e:2x2: the (compiler|process that compiles) ended ' + message
    ):
        jcls.plan(jcls.build(tiny).config, 'v5e:2x2', keep=None)


def test_what_is_kept_is_told_only_of_the_same(
    tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other flags of the compiler, in the environment or the config, make another result."""
    monkeypatch.setattr(compile, 'devices', lambda _: jax.devices())
    monkeypatch.setattr(hlo, 'analysis', lambda *_: {'n': len(list(tmp_path.iterdir()))})

    def answer(**changes: Any) -> int:
        config = {**jcls.build(tiny).config, **changes}
        request = {'config': config, 'topology': 'v5e:2x2', 'per_chip_batch': None}
        found = compile.answer({**request, 'steps': ('train',), 'keep': str(tmp_path)})
        return found['train']['n']

    assert (answer(), answer()) == (0, 0)
    monkeypatch.setenv('LIBTPU_INIT_ARGS', '--xla_tpu_scoped_vmem_limit_kib=65536')
    assert (answer(), answer()) == (1, 1)
    compiler = {**jcls.build(tiny).config['compiler'], 'tpu': ('xla_tpu_x=1',)}
    assert answer(compiler=compiler) == 2


def test_a_table_is_shown_of_what_was_planned(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Names are checked before anything is compiled; one that fails leaves the others' columns."""
    planned = jcls.plan(jcls.build(tiny).config, 'cpu', per_chip_batch=8)

    def fails_later(_: Any, name: str, **__: Any) -> Any:
        if name == 'v5e:4x4':
            raise ValueError('does not fit')
        return {**planned, 'topology': name}

    monkeypatch.setattr(plan, 'plan', fails_later)
    monkeypatch.setattr(plan, 'load_config', lambda *_: None)
    with pytest.raises(ValueError, match='unknown'):
        plan.run({}, config='', topology=['v5e:2x2', 'v5x:4x4'])
    assert 'images a second' not in capsys.readouterr().out
    with pytest.raises(ValueError, match='does not fit'):
        plan.run({}, config='', topology=['v5e:2x2', 'v5e:4x4'])
    assert 'images a second' in capsys.readouterr().out


@pytest.mark.parametrize(('width', 'tables'), [(200, 1), (62, 2), (20, 4)])
def test_plans_side_by_side(width: int, tables: int, tiny: dict[str, Any]) -> None:
    """As many as a terminal has room for; where none is, all."""
    planned = jcls.plan(jcls.build(tiny).config, 'cpu', per_chip_batch=8)
    plans = [{**planned, 'topology': f'v5e:{i}x{i}'} for i in range(4)]
    for terminal in (True, False):
        console = Console(width=width, force_terminal=terminal, record=True, file=io.StringIO())
        table.show(plans, console)
        text = console.export_text()
        assert text.count('for each chip') == (tables if terminal else 1)
        assert all(f'v5e:{i}x{i}' in text for i in range(4))


def test_this_machine_is_measured(tiny: dict[str, Any], capsys: pytest.CaptureFixture) -> None:
    """A CPU has the same facts, told by the clock; and a column of the table like the others."""
    tiny['augment'] = (*tiny['augment'], {'name': 'flip'})
    config = jcls.build(tiny).config
    input_rate.remember(config, {'images_per_second_per_core': 321.0})
    found = jcls.plan(config, 'cpu', per_chip_batch=16)
    assert found['input_images_per_second_per_core'] == 321
    assert (found['time_from'], found['per_chip_batch']) == ('measured', 16)
    assert found['images_per_second'] == pytest.approx(16 / found['step_seconds'])
    assert found['hours'] > 12 * found['step_seconds'] / 3600  # and evaluations
    table.show([found], Console(width=100))
    out = capsys.readouterr().out
    assert 'measured' in out
    assert '321' in out
    assert 'assumed' not in out

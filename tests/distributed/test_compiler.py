"""The ``compiler`` section: options reach the compiler of the platform, and only of that one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import jcls
from jcls.distributed import compiler
from jcls.distributed.mesh import create_mesh


def test_no_options_are_set_unless_the_config_does() -> None:
    """By default, and where options are for other platforms."""
    mesh = create_mesh('any', 8)
    assert compiler.create(mesh) is None
    assert compiler.create(mesh, tpu=('xla_tpu_anything=1',), gpu=('xla_gpu_anything=1',)) is None


def test_options_are_read_as_what_they_are() -> None:
    """Booleans, numbers and words, for this platform."""
    mesh = create_mesh('any', 8)
    given = ('xla_cpu_enable_fast_math=true', 'xla_llvm_disable_expensive_passes=False')
    assert compiler.create(mesh, cpu=given) == {
        'xla_cpu_enable_fast_math': True,
        'xla_llvm_disable_expensive_passes': False,
    }


def test_options_reach_the_steps(tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Both steps are compiled with them: one that passed unseen is refused there."""
    monkeypatch.setattr(compiler, '_try', lambda *_: None)
    experiment = jcls.build({**tiny, 'compiler': {'cpu': ('xla_cpu_nonsense=true',)}})
    state = experiment.state_shapes()
    for lowered in (
        experiment.train_step.lower(state, experiment.train_shapes()),
        experiment.eval_step.lower(state.variables, experiment.eval_shapes()),
    ):
        with pytest.raises(jax.errors.JaxRuntimeError, match='xla_cpu_nonsense'):
            lowered.compile()


def test_what_some_compilers_need_is_done_for_them(
    tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step of a device that must store gradients has a barrier for each; no other has it."""

    def barriers() -> int:
        experiment = jcls.build(tiny)
        lowered = experiment.train_step.lower(experiment.state_shapes(), experiment.train_shapes())
        return lowered.as_text().count('optimization_barrier')

    usual = barriers()
    monkeypatch.setattr(compiler, 'MUST_MATERIALISE', ('cpu',))
    assert barriers() == usual + 1  # two stages: one convolution has a stride


CACHE = """
import json, sys
import jax, jcls
config = json.loads(sys.argv[1])
for word in sys.argv[2].split():
    jcls.build({**config, 'compiler': {'cache': word == 'yes'}})
print(json.dumps(jax.config.jax_compilation_cache_dir))
"""


@pytest.mark.parametrize('asked', ['yes', 'no', 'yes no', 'elsewhere'])
def test_compiled_programs_are_kept(
    asked: str, tiny: dict[str, Any], run_python: Callable[..., list[str]], tmp_path: Path
) -> None:
    """In the user's cache, unless the config or the environment says otherwise."""
    env = {'XDG_CACHE_HOME': str(tmp_path)}
    if asked == 'elsewhere':
        env['JAX_COMPILATION_CACHE_DIR'] = str(tmp_path / 'mine')
    given = 'yes' if asked == 'elsewhere' else asked
    (output,) = run_python(CACHE, json.dumps(tiny), given, **env)
    found = json.loads(output.strip().split('\n')[-1])
    if asked == 'yes':
        assert Path(found).parent == tmp_path / 'jcls' / 'xla'
    else:
        assert found == (str(tmp_path / 'mine') if asked == 'elsewhere' else None)


@pytest.mark.parametrize('mix', [{}, {'mixup': 0.2, 'batch_size': 4}])
def test_shapes_are_those_of_batches(tiny: dict[str, Any], mix: dict[str, Any]) -> None:
    """What steps are planned with is what the pipeline delivers: shape, dtype and sharding."""
    experiment = jcls.build({**tiny, 'mix': mix})
    held_out = experiment.data.val
    for shapes, batches in (
        (experiment.train_shapes(), experiment.train_batches(0, 1)),
        (experiment.eval_shapes(), experiment.eval_batches(held_out, np.arange(3))),
    ):
        batch = next(iter(batches))
        assert shapes.keys() == batch.keys()
        for name, leaf in batch.items():
            assert (leaf.shape, leaf.dtype) == (shapes[name].shape, shapes[name].dtype), name
            assert leaf.sharding.is_equivalent_to(shapes[name].sharding, leaf.ndim), name


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        ({'cpu': ('xla_cpu_nonsense=true',)}, r'config\.compiler\.cpu=.*No such compile option'),
        ({'tpu': ('fast',)}, r"config\.compiler\.tpu: 'fast' is not written as option=value"),
        ({'gpu': ('=3',)}, r"config\.compiler\.gpu: '=3' is not written"),
    ],
)
def test_bad_options(tiny: dict[str, Any], section: dict[str, Any], message: str) -> None:
    """Refused when the run is built."""
    with pytest.raises(ValueError, match=message):
        jcls.build({**tiny, 'compiler': section})

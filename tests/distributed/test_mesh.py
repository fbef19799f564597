"""Devices and hosts: what is found, what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import pytest

import jcls
from jcls.training.report import describe


@pytest.mark.parametrize('platform', ['tpu', 'gpu'])
def test_a_platform_that_is_not_there_is_refused(platform: str, tiny: dict[str, Any]) -> None:
    """platform='tpu' on a CPU says what JAX found and how to get one; 'cpu' and 'any' take it."""
    with pytest.raises(ValueError, match=rf"platform='{platform}', but JAX found 1 CPU device"):
        jcls.build({**tiny, 'platform': platform})
    assert jcls.build({**tiny, 'platform': 'cpu'}).mesh.size == 1
    assert 'devices: 1 CPU device' in describe(jcls.build(tiny))


def test_a_batch_that_does_not_divide_over_the_devices_is_refused(
    run_python: Callable[..., list[str]],
) -> None:
    """12 examples do not divide over 8 devices: the error says so, for training and evaluation."""
    code = """
import sys, jcls
for change in ({'batch_size': 12}, {'batch_size': 8, 'evaluate': {'batch_size': 12}}):
    try:
        jcls.build({'data': {'name': 'digits'}, 'model': {'name': 'resnet20'}, **change})
    except ValueError as error:
        print(error)
"""
    first, second, _ = run_python(code, devices=8)[0].split('\n')
    assert 'batch_size=12 does not divide over 8 CPU devices; use a multiple of 8' in first
    assert 'config.evaluate.batch_size=12 does not divide over 8 devices' in second


def test_deterministic_sets_the_flags_or_says_that_it_is_too_late(
    tiny: dict[str, Any], run_python: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a new process XLA gets the flags and runs with them; once JAX has its devices, asking for
    them is an error."""
    code = """
import os, jcls
exp = jcls.build({'data': {'name': 'digits'}, 'model': {'name': 'resnet20', 'blocks': (1,)},
                  'augment': (), 'evaluate': {'preprocess': ()}, 'deterministic': True})
print(os.environ['XLA_FLAGS'], int(exp.init().step))
"""
    flags = run_python(code)[0]
    assert '--xla_gpu_deterministic_ops=true' in flags
    jax.devices()
    monkeypatch.setenv('XLA_FLAGS', os.environ.get('XLA_FLAGS', ''))
    with pytest.raises(ValueError, match=r'deterministic=True comes too late.*XLA_FLAGS'):
        jcls.build({**tiny, 'deterministic': True})


@pytest.mark.parametrize(
    ('has_tpu', 'env', 'looks'),
    [
        (False, {}, False),
        (True, {}, True),
        (False, {'TPU_WORKER_HOSTNAMES': 'a,b'}, True),
        (False, {'JAX_PLATFORMS': 'tpu,cpu'}, True),
    ],
)
def test_jax_looks_for_a_tpu_only_where_there_may_be_one(
    has_tpu: bool, env: dict[str, str], looks: bool, run_python: Callable[..., list[str]]
) -> None:
    """Without one, what JAX knows of TPUs is left out, and the environment stays as it is."""
    code = f"""
import os
for name in ('JAX_PLATFORMS', 'TPU_WORKER_HOSTNAMES'):
    os.environ.pop(name, None)
os.environ.update({env})
import jax
from jax._src import xla_bridge
from jcls.distributed import mesh
before = dict(os.environ)
mesh.may_have_tpu = lambda: {has_tpu}
mesh.ignore_absent_tpu()
print('tpu' in xla_bridge._backend_factories, os.environ == before)
"""
    assert run_python(code)[0].split() == [str(looks), 'True']

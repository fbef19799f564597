"""ResNet image classifiers in JAX.

    config = jcls.load_config('configs/quickstart.py', {'batch_size': 128})
    jcls.explain(config)
    jcls.preview(config, 'preview.png')
    result = jcls.train(config, 'runs/quickstart')
    jcls.evaluate('runs/quickstart')
    model, variables = jcls.load('runs/quickstart')

Importing this package imports neither JAX nor TensorFlow; the first use of one of its names does.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for type checkers and editors, which do not run `__getattr__`
    from jcls import models as models
    from jcls.assembly import build as build
    from jcls.assembly import load_config as load_config
    from jcls.tools.config.explain import explain as explain
    from jcls.tools.evaluate import evaluate as evaluate
    from jcls.tools.export import export as export
    from jcls.tools.import_ import import_weights as import_weights
    from jcls.tools.plan import plan as plan
    from jcls.tools.predict import predict as predict
    from jcls.tools.preview import preview as preview
    from jcls.tools.train import train as train
    from jcls.weights.load import load as load

_HOMES = {
    'build': 'jcls.assembly',
    'load_config': 'jcls.assembly',
    'evaluate': 'jcls.tools.evaluate',
    'explain': 'jcls.tools.config.explain',
    'export': 'jcls.tools.export',
    'import_weights': 'jcls.tools.import_',
    'load': 'jcls.weights.load',
    'plan': 'jcls.tools.plan',
    'predict': 'jcls.tools.predict',
    'preview': 'jcls.tools.preview',
    'train': 'jcls.tools.train',
}
__all__ = ['models', *_HOMES]


def __getattr__(name: str) -> Any:
    if name == '__version__':
        from importlib.metadata import version

        return version('jcls')
    if name == 'models':
        return importlib.import_module('jcls.models')
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

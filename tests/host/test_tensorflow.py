"""TensorFlow is imported without Keras, which is still found when somebody asks for it."""

from __future__ import annotations

from collections.abc import Callable


def test_keras_is_left_out_until_it_is_used(run_python: Callable[..., list[str]]) -> None:
    """Loading imports no Keras and leaves no trace of how; tf.keras works afterwards."""
    script = """
import sys
from jcls.host import tensorflow
tensorflow.load()
print('keras' in sys.modules, 'keras.src.optimizers' in sys.modules)
print(tensorflow.tf.keras.layers.Dense(3).units)
"""
    assert run_python(script)[0].split() == ['False', 'False', '3']

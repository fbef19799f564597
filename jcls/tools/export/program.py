"""A trained model as a program for other systems: StableHLO or a TensorFlow SavedModel.

The program contains the preprocessing of model.json. In StableHLO it is arithmetic on the pixels of
images of any size, with Pillow's resize: the width first, a triangle or cubic filter, rounding to
whole levels after each direction. In a SavedModel it begins with the bytes of image files.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import export
from jax.extend.mlir.dialects import stablehlo as dialect

from jcls.data.augment.operation import Rng
from jcls.host.tensorflow import call_module, tf
from jcls.models import ResNet
from jcls.tools.predict import chain_of
from jcls.training.step import normalise
from jcls.weights.metadata import resize_and_crop

logger = logging.getLogger(__name__)

PLATFORMS = ('cpu', 'cuda', 'tpu')


def stablehlo(model: ResNet, variables: Any, metadata: Mapping[str, Any]) -> bytes:
    """The exported program from images uint8 [b, h, w, C] to logits float32 [b, classes].

    b, h and w may be any. ``jax.export.deserialize(blob).call(images)`` runs it, without jcls or
    Flax.
    """
    size, crop, method = resize_and_crop(metadata, 'StableHLO')
    if metadata.get('exif'):
        logger.warning('note: the images are to be turned upright before, as their EXIF data say')

    @jax.jit
    def logits(images: jax.Array) -> jax.Array:
        pixels = resize_then_crop(images, size, crop, method)
        values = normalise(pixels, tuple(metadata['mean']), tuple(metadata['std']))
        return model.apply(variables, values, train=False)

    shape = export.symbolic_shape(f'b, h, w, {len(metadata["mean"])}')
    exported = export.export(logits, platforms=PLATFORMS)(jax.ShapeDtypeStruct(shape, jnp.uint8))
    return bytes(exported.serialize())


def resize_then_crop(images: jax.Array, size: int, crop: int, method: str) -> jax.Array:
    """Resize the shorter side to `size`, crop the centre: [b, h, w, C] -> [b, crop, crop, C]."""
    height, width = (jnp.asarray(side, jnp.int32) for side in images.shape[1:3])
    short, long = jnp.minimum(height, width), jnp.maximum(height, width)
    other = size * long // short
    portrait = height >= width
    across = _filter(width, jnp.where(portrait, size, other), images.shape[2], crop, method)
    down = _filter(height, jnp.where(portrait, other, size), images.shape[1], crop, method)

    def levels(values: jax.Array) -> jax.Array:
        return jnp.floor(jnp.clip(values, 0, 255) + 0.5)

    exact = jax.lax.Precision.HIGHEST
    values = levels(
        jnp.einsum('bhwc,ow->bhoc', images.astype(jnp.float32), across, precision=exact)
    )
    return levels(jnp.einsum('bhwc,oh->bowc', values, down, precision=exact)).astype(jnp.uint8)


def _filter(before: Any, after: Any, places: Any, crop: int, method: str) -> jax.Array:
    """Weights [crop, places] that make the central `crop` of `after` pixels from `before` pixels.

    If the image is smaller than the crop, rows outside the image are 0, which is black.
    """
    offset = jnp.round((after - crop) / 2).astype(jnp.int32)  # half to even, as in torchvision
    out = jnp.arange(crop) + offset
    scale = before / after
    stretch = jnp.maximum(scale, 1)
    centre = (out[:, None] + 0.5) * scale
    x = jnp.abs((jnp.arange(places)[None] + 0.5 - centre) / stretch)
    if method == 'bilinear':
        weights = jnp.maximum(1 - x, 0)
    else:  # Keys 1981 with a = -0.5
        near = (1.5 * x - 2.5) * x * x + 1
        far = ((-0.5 * x + 2.5) * x - 4) * x + 2
        weights = jnp.where(x < 1, near, jnp.where(x < 2, far, 0))
    weights = weights / weights.sum(1, keepdims=True)
    inside = (out >= 0) & (out < after)
    return jnp.where(inside[:, None], weights, 0).astype(jnp.float32)


def saved_model(folder: Path, model: ResNet, variables: Any, metadata: Mapping[str, Any]) -> None:
    """Write a SavedModel with two signatures, each of which gives logits and probabilities.

    'serving_default' takes ``images``, string [N], the contents of JPEG or PNG files. 'pixels'
    takes ``pixels``, uint8 [N, H, W, C], which are resized and cropped already.
    """
    if metadata.get('exif'):
        raise ValueError(
            'a SavedModel cannot turn images upright as their EXIF data say, which these weights '
            "expect (exif in model.json); format='stablehlo' takes pixels, which you turn before"
        )
    chain = chain_of(metadata)
    size = chain.output_size(None)
    if size is None:
        raise ValueError('model.json does not bring images to one size')
    shape = (*size, len(metadata['mean']))

    def logits(variables: Any, pixels: jax.Array) -> jax.Array:
        values = normalise(pixels, tuple(metadata['mean']), tuple(metadata['std']))
        return model.apply(variables, values, train=False)

    batch = export.symbolic_shape(f'b, {shape[0]}, {shape[1]}, {shape[2]}')
    exported = export.export(jax.jit(logits), platforms=PLATFORMS)(
        jax.eval_shape(lambda: variables), jax.ShapeDtypeStruct(batch, jnp.uint8)
    )
    module = tf.Module()
    module.leaves = [tf.Variable(leaf) for leaf in jax.tree.leaves(jax.device_get(variables))]

    def results(pixels: Any) -> dict[str, Any]:
        logits = _call(exported, [*module.leaves, pixels])
        return {'logits': logits, 'probabilities': tf.nn.softmax(logits)}

    def prepare(content: Any) -> Any:
        image = tf.cond(
            tf.io.is_jpeg(content),
            lambda: tf.io.decode_jpeg(content, channels=shape[2], dct_method='INTEGER_ACCURATE'),
            lambda: tf.io.decode_png(content, channels=shape[2]),
        )
        for operation in chain.operations:
            image = operation.apply(image, Rng(tf.zeros([2], tf.int64)))
        return tf.ensure_shape(image, shape)

    def from_files(images: Any) -> dict[str, Any]:
        return results(tf.map_fn(prepare, images, fn_output_signature=tf.uint8))

    def signature(function: Any, spec: Any) -> Any:
        return tf.function(function, input_signature=[spec], autograph=False)

    signatures = {
        'serving_default': signature(from_files, tf.TensorSpec([None], tf.string, 'images')),
        'pixels': signature(results, tf.TensorSpec([None, *shape], tf.uint8, 'pixels')),
    }
    tf.saved_model.save(module, str(folder), signatures=signatures)


def _call(exported: export.Exported, arguments: list[Any]) -> Any:
    """The result of an exported program, as an operation of TensorFlow on flat arguments.

    `jax.experimental.jax2tf` writes a StableHLO version of four weeks ago, which no released
    TensorFlow may read. This writes the oldest version that has the operations.
    """
    oldest = dialect.StablehloCompatibilityRequirement.MAX
    version = dialect.get_version_from_compatibility_requirement(oldest)
    (result,) = exported.out_avals
    (output,) = call_module(
        [arguments[i] for i in exported.module_kept_var_idx],
        version=exported.calling_convention_version,
        module=dialect.serialize_portable_artifact_str(str(exported.mlir_module()), version),
        Tout=[result.dtype],
        Sout=[[None, *result.shape[1:]]],
        platforms=[platform.upper() for platform in exported.platforms],
    )
    return output

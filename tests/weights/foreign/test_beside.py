"""What lies beside a network: what it may compute with is an error, and the rest is listed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.foreign import below, state, without_head
from helpers.weights import assert_same
from jcls.tools.import_ import import_weights
from jcls.weights import artifact, imported
from jcls.weights.foreign import convert
from jcls.weights.foreign.beside import own_name
from jcls.weights.foreign.edits import Edits

NET = below('model.', state())


def ones(**shapes: Any) -> dict[str, np.ndarray]:
    """Tensors of ones of these shapes; __ stands for a dot."""
    return {name.replace('__', '.'): np.ones(shape, np.float32) for name, shape in shapes.items()}


def norm(module: str, channels: int) -> dict[str, np.ndarray]:
    leaves = ('weight', 'bias', 'running_mean', 'running_var')
    return ones(**{f'{module}.{leaf}': (channels,) for leaf in leaves})


BEHIND = {
    'a head on the head': ones(classifier__weight=(5, 3), classifier__bias=(5,)),
    'a neck': norm('bottleneck', 8),
    'a power of a pool': ones(pool__p=(1,)),
    'a convolution': ones(decoder__weight=(8, 8, 3, 3)),
    'heads': ones(heads__0__weight=(2, 8), heads__1__weight=(4, 8)),
}
BEFORE = {
    'a normalisation layer': norm('normalize', 3),
    'a convolution to colours': ones(adapter__weight=(3, 13, 1, 1)),
    'a mean alone': ones(mean=(1, 3, 1, 1)),
    'a scale of colours': ones(scale=(3, 1, 1), prototypes=(5, 8)),
    'two means': ones(a__mean=(3,), a__std=(3,), b__mean=(3,), b__std=(3,)),
}


@pytest.mark.parametrize('case', [*BEHIND, *BEFORE])
@pytest.mark.parametrize('root', ['model.', ''])
def test_layers_of_the_users_own_are_not_left_out(
    file: Any, tmp_path: Path, case: str, root: str
) -> None:
    """Each is named with what to do, which then works; at the network's root, too."""
    others = {**BEHIND, **BEFORE}[case]
    path = file({**below(root, state()), **others})
    with pytest.raises(ValueError, match=next(iter(others)).replace('.', r'\.')) as error:
        import_weights(path, tmp_path / 'out')
    assert '--drop PATTERN' in str(error.value)
    import_weights(path, tmp_path / 'out', drop=[f'^{name}$' for name in others])
    assert_same(artifact.read(tmp_path / 'out')[1], convert.convert(state()).variables)
    if root:
        assert ', --prefix model all of them' in str(error.value)
        assert_same(imported.read(path, prefix='model').variables, convert.convert(NET).variables)


@pytest.mark.parametrize('case', [*BEHIND, *BEFORE])
def test_a_new_classifier_needs_what_lies_before_the_network(case: str) -> None:
    """Not what lies behind it."""
    others = {**BEHIND, **BEFORE}[case]
    if case in BEFORE:
        with pytest.raises(ValueError, match=r'before or behind the network(.|\n)*--drop PATTERN'):
            convert.convert({**NET, **others}, classifier=False)
    else:
        found = convert.convert({**NET, **others}, classifier=False)
        assert {*others} <= {row.name for row in found.report.skipped}


TRAINING = [
    *ones(criterion__weight=(3,), loss__weight=(3,), ce_loss__0__pos_weight=(3,)),
    *ones(arc_loss__W=(8, 3), train_acc__correct=(3,), val_metrics__f1__tp=(3,)),
    *ones(ema__proj__weight=(8, 8), model_ema__conv1_weight=(4, 3, 7, 7), class_weights=(3,)),
    *ones(teacher__patch_embed__weight=(8, 3, 4, 4), momentum_projector__0__weight=(8, 8)),
    *ones(target_encoder__fc__weight=(8, 8), queue=(8, 16), temperature=(), perceptual_loss__mean=(
        1, 3, 1, 1), perceptual_loss__std=(1, 3, 1, 1)),
]  # fmt: skip


@pytest.mark.parametrize('name', TRAINING)
@pytest.mark.parametrize('root', ['model.', ''])
def test_what_trained_the_network_is_listed(name: str, root: str) -> None:
    """Losses, metrics and what follows the network; whole numbers, too."""
    shape = () if name == 'temperature' else (3,)
    others = {name: np.ones(shape, np.float32), 'queue_ptr': np.zeros(1, np.int64)}
    found = convert.convert({**below(root, state()), **others})
    assert {*others} <= {row.name for row in found.report.skipped}
    assert found.moments == {}


def test_a_classifier_beside_the_network_is_no_neck(file: Any, tmp_path: Path) -> None:
    """The renaming that the first message names does not leave out what stands between."""
    head = {'classifier.weight': state()['fc.weight'], 'classifier.bias': state()['fc.bias']}
    path = file({**below('base.', without_head(state())), **norm('bottleneck', 8), **head})
    with pytest.raises(ValueError, match=r"--rename '\^classifier\[\.\]=base\.fc\."):
        import_weights(path, tmp_path / 'out')
    with pytest.raises(ValueError, match=r'bottleneck\.weight'):
        import_weights(path, tmp_path / 'out', rename={'^classifier[.]': 'base.fc.'})


def test_layers_that_are_saved_by_themselves(file: Any, tmp_path: Path) -> None:
    """{'encoder': ..., 'classifier': ...}: read as if they were in one dictionary."""
    head = {name: state()[f'fc.{name}'] for name in ('weight', 'bias')}
    wanted = convert.convert(state()).variables
    for name, rename in (('classifier', {}), ('mine', {'^mine[.]': 'fc.'})):
        path = file({'encoder': without_head(state()), name: head, 'optimizer': {'mine': head}})
        if rename:
            with pytest.raises(ValueError, match=r"--rename '\^mine\[\.\]=fc\."):
                imported.read(path)
        import_weights(path, tmp_path / name, rename=rename)
        assert_same(artifact.read(tmp_path / name)[1], wanted)
    path = file({'encoder': state(), 'classifier': head, 'loss': head})
    with pytest.raises(ValueError, match=r'before or behind the network(.|\n)*classifier\.weight'):
        imported.read(path)
    for part in ({'prefix': 'encoder'}, {'edits': Edits({}, ('^classifier',))}):
        assert_same(imported.read(path, **part).variables, wanted)
    with pytest.raises(ValueError, match=r'has fc\.bias twice, in encoder and beside it'):
        imported.read(file({'encoder': state(), 'fc': head}))


@pytest.mark.parametrize('unit', [1, 255])
@pytest.mark.parametrize(
    'names', [('mean', 'std'), ('normalize.pixel_mean', 'normalize.pixel_std')]
)
def test_the_mean_and_deviation_of_a_model_are_taken(
    file: Any, tmp_path: Path, names: Any, unit: int
) -> None:
    """In either unit, unless the user says other ones; of blue, green, red they are turned."""
    mean, std = ([0.5, 0.4, 0.3], [0.2, 0.3, 0.25])
    buffers = {
        name: np.array(values, np.float32).reshape(1, 3, 1, 1) * unit
        for name, values in zip(names, (mean, std), strict=True)
    }
    path = file({**NET, **buffers})
    metadata = imported.read(path).metadata
    np.testing.assert_allclose([metadata['mean'], metadata['std']], [mean, std], rtol=1e-6)
    assert not metadata['assumed'].keys() & {'mean', 'std'}
    assert 'imported' not in metadata
    turned = imported.read(path, bgr=True).metadata
    np.testing.assert_allclose(turned['mean'], mean[::-1], rtol=1e-6)
    import_weights(path, tmp_path / 'out', mean=[0.5] * 3)
    assert artifact.read(tmp_path / 'out')[0]['mean'] == [0.5] * 3


def test_a_mean_and_deviation_of_no_images() -> None:
    buffers = {'mean': np.zeros(3, np.float32), 'std': np.zeros(3, np.float32)}
    with pytest.raises(
        ValueError, match=r'mean and std normalise no images: std=.*positive numbers'
    ):
        convert.convert({**NET, **buffers})


def test_a_head_belongs_to_the_nearest_network(file: Any) -> None:
    """That of the network which is not taken is left out with it."""
    raw = {**below('model.backbone.', state()), **ones(model__neck__weight=(8, 8))}
    averaged = below('ema.backbone.', state())
    imported.read(file({**raw, **averaged}))
    path = file({**raw, **averaged, **ones(ema__neck__weight=(8, 8))})
    with pytest.raises(ValueError, match=r'ema\.neck\.weight'):
        imported.read(path)


def test_the_own_name_of_a_tensor() -> None:
    assert own_name('ema.module.neck.weight', 'ema.module.backbone.') == 'neck.weight'
    assert own_name('neck.weight', 'backbone.') == own_name('neck.weight', '') == 'neck.weight'

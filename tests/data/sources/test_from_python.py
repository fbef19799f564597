"""Images given from Python: arrays, lists of dicts, paths, bytes, Pillow's."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jcls
from jcls.data import decode
from jcls.data.sources.from_python import checksum_of, from_python
from jcls.host.tensorflow import tf

RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (40, 8, 8, 3), np.uint8)
LABELS = np.arange(40) % 4


def pixels_of(source: Any, index: int) -> np.ndarray:
    """The decoded image of an example."""
    return decode.pixels(source.read(tf.constant(index))[0]).numpy()


def test_arrays_are_read_as_they_are() -> None:
    """A tenth of each class is held out; every image is on one side, with its label."""
    train, val = from_python({'image': PIXELS, 'label': LABELS})
    assert (len(train), len(val), train.classes) == (36, 4, tuple('0123'))
    seen = {}
    for source in (train, val):
        for i in range(len(source)):
            seen[pixels_of(source, i).tobytes()] = int(source.read(tf.constant(i))[1])
    assert seen == {
        image.tobytes(): label for image, label in zip(PIXELS, LABELS.tolist(), strict=True)
    }


def test_images_of_every_kind_are_the_same_images(tmp_path: Path) -> None:
    """Paths, bytes, Pillow images and arrays of different sizes, with names for labels."""
    images = [RANDOM.integers(0, 256, (9 + i, 8, 3), np.uint8) for i in range(4)]
    file = io.BytesIO()
    Image.fromarray(images[1]).save(file, 'PNG')
    Image.fromarray(images[0]).save(tmp_path / 'a.png')
    given: list[Any] = [
        tmp_path / 'a.png',
        file.getvalue(),
        Image.fromarray(images[2]),
        images[3],
    ]
    examples = [
        {'image': image, 'label': label}
        for image, label in zip(given, ['dog', 'cat', 'dog', 'cat'], strict=True)
    ]
    train, val = from_python({'train': examples, 'val': examples[:2]})
    assert train.classes == val.classes == ('cat', 'dog')
    assert train.labels.tolist() == [1, 0, 1, 0]
    for i, image in enumerate(images):
        np.testing.assert_array_equal(pixels_of(train, i), image)
    files, _ = from_python({'train': examples[:1], 'val': examples[:1]})
    assert files.name(0) == str(tmp_path / 'a.png')
    np.testing.assert_array_equal(pixels_of(files, 0), images[0])


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (None, r'give them again: jcls\.train\(config, workdir, data=\.\.\.\)'),
        ([], 'data is empty'),
        ({'images': PIXELS, 'label': LABELS}, 'got the keys images, label'),
        ({'image': PIXELS, 'label': LABELS[1:]}, '40 images, but 39 labels'),
        ({'image': PIXELS, 'label': LABELS / 2}, 'all names or all whole numbers'),
        ({'image': PIXELS, 'label': LABELS - 1}, 'label -1; numbers count from 0'),
        ({'image': PIXELS / 255, 'label': LABELS}, 'image 0: .*got float64'),
        ({'train': [], 'test': []}, "{'train': set, 'val': set}; got train, test"),
        ([(PIXELS[0], 1)], r"a list of {'image', 'label'}; TypeError"),
    ],
)
def test_what_is_no_set_of_images_is_named(data: Any, message: str) -> None:
    """With what was given and what is taken."""
    with pytest.raises(ValueError, match=message):
        from_python(data)


def test_images_of_pillow_in_every_mode() -> None:
    """Of 16 bits the upper ones count, palettes are looked up; what has no range is refused."""
    wide = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    palette = Image.fromarray(PIXELS[0]).quantize(4)
    given = [Image.fromarray(wide), palette, Image.fromarray(PIXELS[0, :, :, 0] > 99)]
    expected = [wide >> 8, np.asarray(palette.convert('RGB')), PIXELS[0, :, :, 0] > 99]
    source, _ = from_python(
        {part: {'image': given, 'label': [0, 1, 0]} for part in ('train', 'val')}
    )
    np.testing.assert_array_equal(pixels_of(source, 0)[..., 0], expected[0])
    np.testing.assert_array_equal(pixels_of(source, 1), expected[1])
    np.testing.assert_array_equal(pixels_of(source, 2)[..., 0], 255 * expected[2])
    for kind in (np.int32, np.float32):
        with pytest.raises(ValueError, match=r'image 0: pixels .*store them with 8 or 16 bits'):
            from_python({'image': [Image.fromarray(wide.astype(kind))] * 4, 'label': [0, 0, 1, 1]})


def test_labels_of_both_sets(tmp_path: Path) -> None:
    """Names with accents, composed or not, are one class; names and numbers do not mix."""
    one, other = 'caf\u00e9', 'cafe\u0301'
    sets = [{'image': PIXELS[:2], 'label': [name, 'tea']} for name in (one, other)]
    train, val = from_python(dict(zip(('train', 'val'), sets, strict=True)))
    assert (train.classes, val.labels.tolist()) == ((one, 'tea'), [0, 1])
    with pytest.raises(ValueError, match='names in one of'):
        from_python({'train': sets[0], 'val': {'image': PIXELS[:2], 'label': [0, 1]}})
    file = tmp_path / os.fsdecode(b'\xff.png')
    Image.fromarray(PIXELS[0]).save(tmp_path / 'a.png')
    (tmp_path / 'a.png').rename(file)
    data = {'image': [file] * 40, 'label': LABELS}
    np.testing.assert_array_equal(pixels_of(from_python(data)[0], 0), PIXELS[0])
    assert checksum_of(data)


def test_a_run_goes_on_with_the_same_images_only(tiny: dict[str, Any], tmp_path: Path) -> None:
    """The checksum of the images is part of the config; evaluate asks for them again."""
    config = {**tiny, 'duration': '2 steps'}
    data = {'image': PIXELS, 'label': LABELS}
    assert checksum_of(data) != checksum_of({'image': PIXELS[::-1], 'label': LABELS})
    jcls.train(config, tmp_path / 'run', data=data, summary=False)
    longer = {**config, 'duration': '4 steps'}
    assert jcls.train(longer, tmp_path / 'run', data=data, summary=False).step == 4
    other = {'image': PIXELS[::-1], 'label': LABELS}
    with pytest.raises(ValueError, match=r'data\.checksum'):
        jcls.train(longer, tmp_path / 'run', data=other, summary=False)
    assert jcls.evaluate(tmp_path / 'run', data=data)['examples'] == 4
    with pytest.raises(ValueError, match='were given from Python'):
        jcls.evaluate(tmp_path / 'run')

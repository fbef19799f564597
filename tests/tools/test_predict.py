"""`jcls predict`: files in, names and probabilities out, prepared as model.json says."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import jcls
from helpers import golden_path
from jcls.main import main
from jcls.tools.import_ import import_weights

GOLDEN = golden_path('weights')
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
NAMES = list('abcdefg')


def photo(height: int, width: int, seed: int = 0) -> Image.Image:
    """Something smooth, with some noise."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8).astype(np.uint8))
    smooth = np.asarray(small.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noisy = smooth + rng.integers(-8, 9, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


@pytest.fixture(scope='module')
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported network of 7 named classes that looks at 64 pixels."""
    out = tmp_path_factory.mktemp('weights') / 'out'
    import_weights(GOLDEN / 'tv_basic.pth', out, classes=NAMES, resize=72, crop=64)
    return out


@pytest.fixture(scope='module')
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of several sizes and formats, and a file that is none."""
    folder = tmp_path_factory.mktemp('images')
    (folder / 'sub').mkdir()
    photo(190, 251).save(folder / 'a.jpg', quality=95)
    photo(133, 305, 1).save(folder / 'b.png')
    photo(200, 181, 2).save(folder / 'sub' / 'c.JPEG')
    (folder / 'notes.txt').write_text('no image')
    return folder


def by_hand(weights: Path, file: Path) -> dict[str, float]:
    """The probabilities by Pillow's resize and a plain forward pass."""
    model, variables = jcls.load(weights)
    image = Image.open(file).convert('RGB')
    width, height = image.size
    short = min(width, height)
    image = image.resize((72 * width // short, 72 * height // short), Image.Resampling.BILINEAR)
    width, height = image.size
    left, top = round((width - 64) / 2), round((height - 64) / 2)
    pixels = np.asarray(image.crop((left, top, left + 64, top + 64)))[None]
    logits = model.apply(variables, ((pixels / 255 - MEAN) / STD).astype(np.float32), train=False)
    return dict(zip(NAMES, np.asarray(jax.nn.softmax(logits))[0].tolist(), strict=True))


def table(prediction: dict[str, Any]) -> dict[str, float]:
    return {entry['name']: entry['probability'] for entry in prediction['classes']}


def test_images_that_say_they_are_turned(weights: Path, tmp_path: Path, caplog: Any) -> None:
    """They are read as stored, as in training, and counted; exif=True turns them."""
    photo(100, 120).save(tmp_path / 'upright.png')
    turn = Image.Exif()
    turn[0x0112] = 3
    photo(100, 120).rotate(180).save(tmp_path / 'turned.png', exif=turn)
    turned, upright = jcls.predict(weights, tmp_path, top=7)
    assert max(abs(table(turned)[name] - table(upright)[name]) for name in NAMES) > 1e-3
    assert caplog.text.count('1 of the 2 images say that they are turned') == 1
    assert '--exif turns them' in caplog.text
    caplog.clear()
    turned, upright = jcls.predict(weights, tmp_path, top=7, exif=True)
    assert table(turned) == pytest.approx(table(upright), abs=1e-5)
    assert caplog.text == ''


def test_probabilities_are_those_of_pillow_and_a_forward_pass(weights: Path, folder: Path) -> None:
    """To 1e-3; the most probable first; a folder's images by name, in sub-folders, too."""
    found = jcls.predict(weights, [folder], top=7)
    files = [folder / 'a.jpg', folder / 'b.png', folder / 'sub' / 'c.JPEG']
    assert [prediction['image'] for prediction in found] == [str(file) for file in files]
    for prediction, file in zip(found, files, strict=True):
        wanted = by_hand(weights, file)
        assert table(prediction) == pytest.approx(wanted, abs=1e-3)
        values = list(table(prediction).values())
        assert values == sorted(values, reverse=True)
        assert sum(values) == pytest.approx(1, abs=1e-5)


def test_batches_do_not_matter(weights: Path, folder: Path) -> None:
    """One by one, padded or all at once."""
    whole = jcls.predict(weights, [folder])
    for size in (1, 2):
        for one, other in zip(jcls.predict(weights, [folder], batch_size=size), whole, strict=True):
            assert table(one) == pytest.approx(table(other), abs=1e-5)


def test_flip_averages_with_the_mirror_image(weights: Path, tmp_path: Path) -> None:
    """The mean of two predictions, of the image and of its mirror image."""
    image = photo(72, 72, 5)  # needs no resize, whose rounding would tell left from right
    image.save(tmp_path / 'a.png')
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / 'b.png')
    one, other = (table(p) for p in jcls.predict(weights, [tmp_path], top=7))
    flipped = table(jcls.predict(weights, [tmp_path / 'a.png'], top=7, flip=True)[0])
    assert one != pytest.approx(other, abs=1e-3)
    assert flipped == pytest.approx({k: (one[k] + other[k]) / 2 for k in one}, abs=1e-5)


def test_the_command(weights: Path, folder: Path, capsys: Any) -> None:
    """A table, and with --json a list; --top so many classes."""
    words = ['predict', str(weights), str(folder / 'a.jpg'), '--top', '2', '--json']
    assert main(words) == 0
    lines = capsys.readouterr().out.rstrip().split('\n')
    found = json.loads(lines[-1])
    assert [set(entry) for entry in found] == [{'image', 'classes'}]
    assert len(found[0]['classes']) == 2
    best = found[0]['classes'][0]
    assert f'{best["name"]}' in lines[-3]
    assert f'{best["probability"]:.4f}' in lines[-3]


def test_a_run_predicts(tmp_path: Path, tiny: Any) -> None:
    """A folder to a trained model to predictions on it, with the classes' names."""
    for name, colour in (('blue', (0, 0, 255)), ('red', (255, 0, 0))):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for i in range(10):
            shade = tuple(max(channel - 4 * i, 0) for channel in colour)
            Image.new('RGB', (12, 12), shade).save(tmp_path / 'data' / name / f'{i}.png')
    size = {'name': 'center_crop', 'size': 12}
    tiny |= {'data': {'name': 'folder', 'dir': str(tmp_path / 'data')}, 'augment': (size,)}
    tiny['evaluate'] = {'every': 'never', 'preprocess': (size,)}
    jcls.train(tiny, tmp_path / 'run')
    found = jcls.predict(tmp_path / 'run', [tmp_path / 'data'], top=1)
    assert [p['classes'][0]['name'] for p in found] == ['blue'] * 10 + ['red'] * 10


def test_every_damaged_image_is_told_once(
    weights: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of all batches, in one message of some lines, and not in the log as well."""
    for i in range(18):
        (tmp_path / f'{i:02d}.jpg').write_text('no image')
    with pytest.raises(ValueError, match='18 of 18 images cannot be used') as error:
        jcls.predict(weights, tmp_path, batch_size=4)
    lines = str(error.value).split('\n')
    assert [Path(line.strip().split(': ')[0]).name for line in lines[1:3]] == ['00.jpg', '01.jpg']
    assert lines[1].endswith('00.jpg: not a readable image: its content is of no known format')
    assert (len(lines), lines[-1]) == (14, '  ... and 6 more')
    assert 'damaged' not in caplog.text


def test_what_cannot_be_read_costs_nothing_else(
    weights: Path, folder: Path, tmp_path: Path, capsys: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The others have their results; each that has none is named with its reason, in the list as
    well; and the exit code says that some failed."""
    wanted = jcls.predict(weights, folder)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'no.jpg').write_bytes(b'')
    whole = (folder / 'a.jpg').read_bytes()
    (tmp_path / 'half.jpg').write_bytes(whole[: len(whole) // 2])
    at = whole.index(b'\xff\xc0') + 5  # of the height, in the header
    (tmp_path / 'huge.jpg').write_bytes(whole[:at] + b'\x75\x30\x75\x30' + whole[at + 4 :])
    (tmp_path / 'gone.jpg').symlink_to('nowhere')
    os.mkfifo(tmp_path / 'pipe.jpg')
    names = {
        'empty': 'the folder has no images',
        'gone.jpg': 'no such file or folder',
        'half.jpg': 'jpeg::Uncompress failed',
        'huge.jpg': '30000 x 30000 pixels, more than the 134,217,728 that are decoded',
        'no.jpg': 'not a readable image',
        'pipe.jpg': 'neither a file nor a folder',
    }
    words = ['predict', str(weights), *(str(tmp_path / name) for name in names), str(folder)]
    assert main([*words, '--json', '--batch_size', '2']) == 1
    found = json.loads(capsys.readouterr().out.rstrip().split('\n')[-1])
    good = [prediction for prediction in found if 'classes' in prediction]
    for one, other in zip(good, wanted, strict=True):
        assert one['image'] == other['image']
        assert table(one) == pytest.approx(table(other), abs=1e-5)
    bad = {Path(entry['image']).name: entry['error'] for entry in found if 'error' in entry}
    assert sorted(bad) == sorted(names)
    assert '6 of 9 images cannot be used' in caplog.text
    for name, reason in names.items():
        assert reason in bad[name]
        assert f'{tmp_path / name}: {bad[name]}' in caplog.text


def test_names_with_brackets_are_printed_as_they_are(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """They are no markup; and a single path is a path."""
    file = tmp_path / 'cat[bold].png'
    photo(64, 64).save(file)
    monkeypatch.chdir(tmp_path)
    assert main(['predict', str(weights), file.name]) == 0
    assert 'cat[bold].png' in capsys.readouterr().out
    for one in (file, str(file), tmp_path):
        assert [found['image'] for found in jcls.predict(weights, one)] == [str(file)]


def test_a_run_without_a_fixed_size_takes_images_of_its_own(
    tmp_path: Path, tiny: Any, run_python: Any
) -> None:
    """The digits are not resized: 8 x 8 it must be, and others are told so. TensorFlow may have
    been used before."""
    tiny |= {'duration': '2 steps'}
    jcls.train(tiny, tmp_path / 'run', summary=False)
    assert json.loads((tmp_path / 'run' / 'model.json').read_text())['image_shape'] == [8, 8, 3]
    photo(8, 8).save(tmp_path / 'good.png')
    photo(10, 8).save(tmp_path / 'tall.png')
    code = """
import sys, tensorflow
tensorflow.zeros([1]) + 1
import jcls
print(len(jcls.predict(sys.argv[1], sys.argv[2])))
"""
    out = run_python(code, str(tmp_path / 'run'), str(tmp_path / 'good.png'))
    assert out[0].split()[-1] == '1'
    good, tall = jcls.predict(tmp_path / 'run', [tmp_path / 'good.png', tmp_path / 'tall.png'])
    assert 'classes' in good
    assert tall['error'].endswith('height and width 8 8, not 10 8')


def test_the_size_in_model_json_is_that_of_evaluation(tiny: Any) -> None:
    """Training crops may be smaller."""
    crop = {'name': 'center_crop', 'size': 12}
    tiny['evaluate'] |= {'preprocess': (crop,)}
    assert jcls.build(tiny).metadata()['image_shape'] == (12, 12, 3)


@pytest.mark.parametrize(
    ('images', 'arguments', 'message'),
    [
        (['broken.jpg'], {}, r'1 of 1 images cannot be used:\n  .*broken.jpg: '),
        (['notes.jpg', 'broken.jpg'], {}, 'notes.jpg: not a readable image.*\n.*broken.jpg'),
        (['empty'], {}, 'empty: the folder has no images'),
        (['nowhere.jpg'], {}, 'nowhere.jpg: no such file or folder'),
        ([], {}, 'no images were named'),
        (['good.png'], {'top': 0}, 'top=0'),
        (['good.png'], {'step': 3}, 'step=3, but .* holds one set of weights'),
    ],
)
def test_bad_input(
    weights: Path, tmp_path: Path, images: Any, arguments: Any, message: str
) -> None:
    """Every mistake has its message; every file that is no image is named."""
    photo(64, 64).save(tmp_path / 'whole.jpg')
    data = (tmp_path / 'whole.jpg').read_bytes()
    (tmp_path / 'broken.jpg').write_bytes(data[: len(data) // 2])
    (tmp_path / 'notes.jpg').write_text('no image')
    (tmp_path / 'empty').mkdir()
    photo(64, 64).save(tmp_path / 'good.png')
    with pytest.raises(ValueError, match=message):
        jcls.predict(weights, [tmp_path / image for image in images], **arguments)

"""Image files with damaged headers, and what reading them takes: python -m helpers.mutated DIR."""

from __future__ import annotations

import io
import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

# Everything that a header says in another way: (extension, mode, options of Pillow's `save`).
KINDS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ('jpg', 'RGB', {}),
    ('jpg', 'L', {'progressive': True}),
    ('jpg', 'CMYK', {'subsampling': 0}),
    ('mpo', 'RGB', {'save_all': True}),
    ('png', 'RGB', {}),
    ('png', 'P', {}),
    ('png', 'I;16', {}),
    ('bmp', 'RGB', {}),
    ('bmp', 'P', {}),
    ('dib', 'RGB', {}),
    ('gif', 'P', {'save_all': True}),
    ('webp', 'RGB', {}),
    ('webp', 'RGBA', {'lossless': True}),
    ('tif', 'RGB', {}),
    ('tif', 'L', {'compression': 'tiff_lzw'}),
    ('tif', 'RGB', {'compression': 'jpeg'}),
    ('tif', 'I;16', {'compression': 'tiff_adobe_deflate'}),
    ('avif', 'RGB', {}),
    ('jp2', 'RGB', {}),
    ('ppm', 'RGB', {}),
    ('pgm', 'L', {}),
    ('tga', 'RGB', {'compression': 'tga_rle'}),
    ('pcx', 'RGB', {}),
    ('sgi', 'RGB', {}),
    ('qoi', 'RGB', {}),
)
EXTREME = (0, 1, 255, 1 << 15, (1 << 16) - 1, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)
HEADER = 96  # bytes, in which most of the damage is done


def whole(extension: str, mode: str, options: dict[str, Any]) -> bytes:
    """An image file of 24 x 16 pixels; empty if this Pillow does not write such a one."""
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (16, 24, 3), np.uint8))
    image = image.convert('I').convert(mode) if mode == 'I;16' else image.convert(mode)
    if options.get('save_all'):
        options = {**options, 'append_images': [image.rotate(180)]}
    file = io.BytesIO()
    kind = Image.registered_extensions().get(f'.{extension}')
    if kind not in Image.SAVE:
        return b''
    image.save(file, kind, **options)
    return file.getvalue()


def mutated(content: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """The content with one kind of damage; `other` is another file of the format."""
    data = bytearray(content)
    at = int(rng.integers(2, min(len(data), HEADER)))
    match rng.integers(8):
        case 0:  # other bytes in the header
            for i in rng.integers(2, min(len(data), HEADER), rng.integers(1, 5)):
                data[i] = rng.integers(256)
        case 1:  # other bytes anywhere
            for i in rng.integers(0, len(data), rng.integers(1, 17)):
                data[i] = rng.integers(256)
        case 2:  # an extreme number in the header, in either order
            code = str(rng.choice(['<H', '>H', '<I', '>I']))
            value = int(rng.choice(EXTREME)) % (1 << 8 * struct.calcsize(code))
            data[at : at + struct.calcsize(code)] = struct.pack(code, value)
        case 3:  # the end is lost
            del data[int(rng.integers(1, len(data))) :]
        case 4:  # almost all is lost
            del data[at:]
        case 5:  # some bytes are lost
            del data[at : at + int(rng.integers(1, 9))]
        case 6:  # some bytes are there twice
            data[at:at] = data[at : at + int(rng.integers(1, 33))]
        case _:  # the end of another file
            data[at:] = other[at:]
    return bytes(data)


def write(folder: Path, count: int, seed: int = 0) -> int:
    """Write `count` damaged files of each of the `KINDS`; returns the number of files."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [(kind[0], whole(*kind)) for kind in KINDS]
    written = 0
    for number, (extension, content) in enumerate(files):
        if not content:
            continue
        others = [data for end, data in files if end == extension and data]
        rng = np.random.default_rng((seed, number))
        for i in range(count):
            data = mutated(content, others[int(rng.integers(len(others)))], rng)
            (folder / f'{number:02}_{i:05}.{extension}').write_bytes(data)
            written += 1
    return written


def measured(folder: Path) -> Iterator[dict[str, Any]]:
    """Of each file: its name, seconds, the memory in MB that it took for a time, and the reason
    why it cannot be read, or ''."""
    from jcls.data import decode
    from jcls.host.tensorflow import tf

    def status(key: str) -> float:
        lines = Path('/proc/self/status').read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1000

    paths = sorted(folder.iterdir())
    decode.resize(decode.pixels(tf.constant(whole(*KINDS[0]))), 8, 8)  # TensorFlow warms up
    for path in paths:
        Path('/proc/self/clear_refs').write_text('5')  # the peak is measured anew
        before, began, reason = status('VmRSS'), time.perf_counter(), ''
        try:
            decode.resize(decode.pixels(tf.io.read_file(str(path))), 8, 8)
        except tf.errors.OpError as error:
            reason = error.message.splitlines()[0]
        seconds, peak = time.perf_counter() - began, status('VmHWM') - before
        yield {'name': path.name, 'seconds': seconds, 'megabytes': peak, 'reason': reason}


if __name__ == '__main__':
    for line in measured(Path(sys.argv[1])):
        print(json.dumps(line), flush=True)

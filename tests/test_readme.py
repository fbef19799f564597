"""What README shows in Python runs as it stands there."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import jcls
from helpers import TESTS

PAGE = (TESTS.parent / 'README.md').read_text()


def block(first_line: str) -> str:
    """The Python block of README that begins so."""
    blocks = re.findall(r'```python\n(.*?)```', PAGE, re.DOTALL)
    (found,) = [text for text in blocks if text.startswith(first_line)]
    return found


def test_own_parts(tiny: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """README's module, in the working directory, used as the comments beside its functions say."""
    text = block('# my_parts.py')
    (tmp_path / 'my_parts.py').write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, 'path', [*sys.path])
    uses = dict(
        re.findall(r"# (schedule|loss|optimizer|mix|data|model)\.name='(my_parts:\w+)'", text)
    )
    metrics = re.search(r'# evaluate\.metrics=\((.+)\)', text)
    operation = re.search(r"# augment\[0\]\.name='(my_parts:\w+)'", text)
    assert len(uses) == 6
    assert metrics
    assert operation
    names = tuple(re.findall(r"'([\w:]+)'", metrics[1]))
    config = {
        **tiny,
        **{section: {'name': name} for section, name in uses.items()},
        'optimizer': {**tiny['optimizer'], 'name': uses['optimizer']},
        'augment': ({'name': operation[1]}, *tiny['augment']),
        'evaluate': {**tiny['evaluate'], 'metrics': names},
    }
    jcls.train({**config, 'duration': '4 steps'}, tmp_path / 'run', summary=False)
    result = jcls.train(config, tmp_path / 'run', summary=False)
    assert result.metrics['eval/top1'] <= result.metrics['eval/top3'] <= 1
    described = json.loads((tmp_path / 'run' / 'model.json').read_text())
    functions = re.findall(r'^def (\w+)\(', text, re.MULTILINE)
    model, variables = jcls.load(tmp_path / 'run')
    logits = model.apply(variables, np.zeros((2, 8, 8, 3), np.float32), train=False)
    assert logits.shape == (2, 10)
    with pytest.raises(ValueError, match=r"format='timm' has names for ResNets only"):
        jcls.export(tmp_path / 'run', tmp_path / 'timm', format='timm')
    assert {name.split(':')[1] for name in described['own_parts']} == set(functions)
    (command,) = re.findall(r'^jcls (--config .+\\\n.+my_parts.+)$', PAGE, re.MULTILINE)
    words = shlex.split(command.replace('\\\n', ''))
    changes = dict(word[len('--config.') :].split('=') for word in words if '=' in word)
    schedule = jcls.load_config(words[1], changes).schedule
    assert (schedule.name, schedule.at) == (uses['schedule'], '0.25 run')
    sys.modules.pop('my_parts')


def test_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lines on the use from Python, for a run of four steps instead of a minute."""
    text = block('import jcls')
    assert "{'batch_size': 128, " in text
    short = (
        "'duration': '4 steps', 'schedule.warmup': '1 step', 'batch_size': 16, "
        "'model.blocks': (1, 1, 1), "
    )
    text = text.replace("'batch_size': 128, ", short)
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (60, 8, 8, 3), np.uint8)
    Image.fromarray(images[0]).save('digit.png')
    names: dict[str, Any] = {'images': images, 'labels': ['even', 'odd'] * 30}
    exec(compile(text, 'README.md', 'exec'), names)
    assert names['logits'].shape == (60, 10)
    assert int(names['state'].step) == names['result'].step == 4

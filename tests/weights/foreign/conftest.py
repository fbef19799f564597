"""Files of other systems, written without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jcls.weights import artifact
from jcls.weights.foreign import files


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Writes tensors as .safetensors, and any other content as a file whose pickle is that."""
    contents: dict[Path, Any] = {}
    monkeypatch.setattr(files, 'read_pickle', lambda path: contents[path])

    def write(content: Any, name: str = 'net') -> Path:
        if all(isinstance(value, np.ndarray) for value in content.values()):
            path = tmp_path / f'{name}.safetensors'
            artifact.save_tensors(path, content)
        else:
            path = tmp_path / f'{name}.pth'
            path.write_bytes(b'\x80\x02N.')
            contents[path] = content
        return path

    return write

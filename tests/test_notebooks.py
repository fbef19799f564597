"""The notebooks of colab/ run from top to bottom, are thin, and say what each form field means."""

from __future__ import annotations

import ast
import inspect
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient

import jcls

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / 'colab').glob('*.ipynb'))
FIELD = re.compile(r'^(\w+) = (.+?)(  # @param .+)$', re.MULTILINE)


class Kernel(AsyncKernelManager):
    """Runs this very interpreter, whatever kernels are installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        argv = [sys.executable, '-m', 'ipykernel_launcher', '-f', '{connection_file}']
        return KernelSpec(argv=argv, language='python', display_name='this one')


@pytest.fixture(autouse=True)
def _own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's Jupyter counts, and figures are shown inline."""
    monkeypatch.setenv('IPYTHONDIR', str(tmp_path / 'ipython'))
    monkeypatch.setenv('JUPYTER_CONFIG_DIR', str(tmp_path / 'jupyter'))
    monkeypatch.delenv('MPLBACKEND', raising=False)


def notebook(name: str) -> Any:
    return nbformat.read(ROOT / 'colab' / f'{name}.ipynb', as_version=4)


def run(name: str, folder: Path, probe: str, **fields: Any) -> tuple[dict[str, Any], Any]:
    """Execute a notebook in `folder` with other values of its form `fields`, and no other change.

    Returns its code cells by id, and the value (a literal) of `probe` at its end.
    """
    made = notebook(name)
    known = {field for cell in made.cells for field, _, _ in FIELD.findall(cell.source)}
    assert fields.keys() <= known
    for cell in made.cells:
        cell.source = FIELD.sub(
            lambda found: f'{found[1]} = {fields.get(found[1], ast.literal_eval(found[2]))!r}',
            cell.source,
        )
    made.cells.append(nbformat.v4.new_code_cell(probe, id='probe'))
    client = NotebookClient(
        made,
        timeout=300,
        kernel_manager_class=Kernel,
        resources={'metadata': {'path': str(folder)}},
    )
    client.execute()
    cells = {cell.id: cell for cell in made.cells if cell.cell_type == 'code'}
    return cells, ast.literal_eval(text(cells.pop('probe')))


def text(cell: Any) -> str:
    """All that a cell has printed and shown as text."""
    return '\n'.join(
        output.text if output.output_type == 'stream' else output.data.get('text/plain', '')
        for output in cell.outputs
    )


def figures(cells: dict[str, Any]) -> list[str]:
    """The cells that show a picture."""
    return [
        name
        for name, cell in cells.items()
        if any('image/png' in output.get('data', {}) for output in cell.outputs)
    ]


def complaints(cells: dict[str, Any]) -> list[str]:
    """What went to standard error; but the first cell's, which is pip's."""
    return [
        output.text
        for name, cell in cells.items()
        for output in cell.outputs
        if output.get('name') == 'stderr' and name != 'install'
    ]


def last_top1(workdir: Path) -> float:
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    return [line['eval/top1'] for line in lines if 'eval/top1' in line][-1]


@pytest.mark.slow
def test_train(tmp_path: Path) -> None:
    """A network learns the digits, and the notebook shows rate, images, curves and predictions."""
    cells, right = run(
        'train_on_tpu',
        tmp_path,
        'float((guesses == labels).mean())',
        duration='5 epochs',
        changes={'model.blocks': (1, 1, 1), 'model.width': 8, 'log.tensorboard': False},
    )
    assert figures(cells) == ['rate', 'preview', 'curves', 'grid']
    assert 'jax' in text(cells['install'])
    assert 'learning rate' in text(cells['explain'])
    assert last_top1(tmp_path / 'runs/quickstart') > 0.7  # chance is a tenth
    assert right > 0.7
    evaluated = ast.literal_eval(text(cells['evaluate']))
    assert evaluated['top1'] == last_top1(tmp_path / 'runs/quickstart')
    assert not complaints(cells)


@pytest.mark.slow
def test_finetune(tmp_path: Path) -> None:
    """Weights of digits learn shapes: report, curves, predictions, and an export that loads."""
    cells, predicted = run(
        'finetune_on_your_images',
        tmp_path,
        '[(one["image"], one["classes"][0]["name"]) for one in predictions]',
        resolution=16,
        epochs=8,
        changes={'augment[0].scale': (0.5, 1.0), 'evaluate.every': '4 epochs'},
    )
    assert figures(cells) == ['preview', 'curves', 'grid']
    assert 'new head' in text(cells['explain'])
    assert 'freezing report' in text(cells['train'])
    assert last_top1(tmp_path / 'runs/finetuned') > 0.5  # chance is a quarter
    right = [Path(image).parent.name == name for image, name in predicted]
    assert len(right) == 12
    assert sum(right) > 5
    assert (tmp_path / 'exported/jcls.zip').exists()
    model, _ = jcls.load(tmp_path / 'exported/jcls')
    assert model.num_classes == 4
    assert not complaints(cells)


@pytest.mark.slow
def test_explore(tmp_path: Path) -> None:
    """Four grids; a mixed image is made of the two that stand above it, with the lam below it."""
    probe = """
    own, other, new = (np.stack([one.pixels for one in row]).astype(float) for row in rows)
    shares = np.array([float(one.caption.split()[0]) for one in rows[2]])
    blends = [abs(s * a + (1 - s) * b - c).max() for s, a, b, c in zip(shares, own, other, new)]
    pastes = [
        (((c == a) | (c == b)).all(), (c == a).all(-1).mean()) for a, b, c in zip(own, other, new)
    ]
    [shares.tolist(), [float(e) for e in blends], [(bool(p), float(q)) for p, q in pastes]]
    """
    cells, (shares, blends, pastes) = run(
        'explore_augmentations',
        tmp_path,
        inspect.cleandoc(probe),
        recipe='configs/resnet50_v1.py',
        recipes='resnet50_v2',
    )
    assert figures(cells) == ['preview', 'recipes', 'operations', 'pairs']
    kinds = Counter()
    for share, error, (pasted, own) in zip(shares, blends, pastes, strict=True):
        kinds['paste' if pasted else 'blend'] += 1
        # The share is shown with two digits; and where the two agree by chance, a pixel is own.
        assert own >= share - 0.006 if pasted else error <= 0.006 * 255 + 0.51
    assert min(kinds['paste'], kinds['blend']) > 0
    assert not complaints(cells)


def test_the_kernel_is_this_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Jupyter's python3 is another one: the tests are about the code beside them."""
    other = tmp_path / 'kernels/python3'
    other.mkdir(parents=True)
    spec = {'argv': ['/bin/false'], 'display_name': 'another', 'language': 'python'}
    (other / 'kernel.json').write_text(json.dumps(spec))
    monkeypatch.setenv('JUPYTER_PATH', str(tmp_path))
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell('import sys; sys.prefix')])
    NotebookClient(made, kernel_manager_class=Kernel).execute()
    assert Path(ast.literal_eval(text(made.cells[0]))).samefile(sys.prefix)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.stem)
class TestAsStored:
    """What holds for the files, without running them."""

    def test_clean(self, file: Path) -> None:
        """No outputs and no counts are stored; cells have ids that say what they are for."""
        made = nbformat.read(file, as_version=nbformat.NO_CONVERT)
        nbformat.validate(made)
        assert (made.nbformat, made.nbformat_minor) >= (4, 5)
        for cell in made.cells:
            assert re.fullmatch('[a-z]+(-[a-z]+)*', cell.id)
            assert cell.cell_type == 'markdown' or not (cell.outputs or cell.execution_count)

    def test_thin(self, file: Path) -> None:
        """Short cells without functions, classes or private names: the work is done by jcls."""
        cells = [cell.source for cell in code(file)]
        assert max(source.count('\n') for source in cells) < 20
        assert sum(len(source.splitlines()) for source in cells) <= 130
        for node in ast.walk(ast.parse('\n'.join(cells).replace('%pip', '# '))):
            assert not isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Lambda)
            assert not (isinstance(node, ast.Attribute) and node.attr[0] == '_')

    def test_fields_are_documented(self, file: Path) -> None:
        """Every form field has its line, '- `name`: ...', in the text above its cell."""
        above: list[str] = []
        for cell in nbformat.read(file, as_version=4).cells:
            if cell.cell_type == 'markdown':
                above += re.findall(r'^- `(\w+)`: ', cell.source, re.MULTILINE)
                continue
            fields = [field for field, _, _ in FIELD.findall(cell.source)]
            assert set(fields) <= set(above[-len(fields) :] if fields else [])
            assert cell.source.count('@param') == len(fields)

    def test_what_is_named_exists(self, file: Path) -> None:
        """Configs load, and other notebooks are there."""
        every = '\n'.join(cell.source for cell in nbformat.read(file, as_version=4).cells)
        for path in set(re.findall(r'configs/\w+\.py(?::[\w=]+)?', every)):
            jcls.load_config(path)
        for name in re.findall(r'\w+\.ipynb', every):
            assert (file.parent / name).exists()


def code(file: Path) -> list[Any]:
    return [c for c in nbformat.read(file, as_version=4).cells if c.cell_type == 'code']


def test_they_begin_alike() -> None:
    """The first cell installs jcls, and is the same in all of them."""
    assert len(FILES) == 3
    (first,) = {code(file)[0].source for file in FILES}
    assert '%pip install' in first

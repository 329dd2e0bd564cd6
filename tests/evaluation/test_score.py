"""The score command: a column a scorer, no row lost, every problem named."""

import sys
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation.__main__ import main
from evaluation.errors import MissingWeights
from evaluation.scorers import load


class Brightness:
    """Mean grey, plus the length of the prompt."""

    def score(self, prompts, images):
        grey = [np.asarray(image.convert("L"), dtype=float).mean() for image in images]
        return np.array(grey) + [len(prompt) for prompt in prompts]


@pytest.fixture
def scorers(monkeypatch):
    def absent(source):
        raise MissingWeights("clip: no weights: put them somewhere")

    monkeypatch.setitem(load.LOADERS, "pickscore", lambda source: Brightness())
    monkeypatch.setitem(load.LOADERS, "clip", absent)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "made"
    folder.mkdir()
    rows = []
    for policy in ("base", "arenapo"):
        for k in range(70):  # more than one batch
            name = f"{policy}-{k}.png"
            Image.new("L", (4, 4), k).save(folder / name)
            rows.append(f'{policy},"a seven, bold",{k},{name}')
    path = folder / "images.csv"
    path.write_text("policy,prompt,seed,image\n" + "\n".join(rows) + "\n")
    return path


def run(*arguments) -> int:
    return main(["score", *map(str, arguments)])


def test_scores_are_a_column_beside_the_rows(images, scorers, tmp_path, capsys):
    out = tmp_path / "scores.parquet"
    assert run(images, "--scorer", "pickscore", "--out", out) == 0
    table = pq.read_table(out)
    assert table.column_names == ["policy", "prompt", "seed", "image", "pickscore"]
    assert table["seed"].to_pylist() == [*range(70)] * 2
    expected = np.tile(np.arange(70.0), 2) + len("a seven, bold")
    np.testing.assert_allclose(table["pickscore"].to_numpy(), expected)
    assert "arenapo" in capsys.readouterr().out


def test_several_tables_become_one(images, scorers, tmp_path):
    assert run(images, "--scorer", "pickscore", "--out", tmp_path / "first.parquet") == 0
    both = tmp_path / "both.parquet"
    assert run(images, tmp_path / "first.parquet", "--scorer", "pickscore", "--out", both) == 0
    assert pq.read_table(both).num_rows == 280


def test_a_broken_image_keeps_its_row_and_is_named(images, scorers, tmp_path, capsys):
    (images.parent / "base-3.png").write_bytes(b"not a picture")
    (images.parent / "arenapo-69.png").unlink()
    out = tmp_path / "scores.parquet"
    assert run(images, "--scorer", "pickscore", "--out", out) == 1
    error = capsys.readouterr().err
    assert "images.csv: row 4: image" in error
    assert "images.csv: row 140: image" in error
    assert "not an image" in error
    assert "no such file" in error
    scores = pq.read_table(out)["pickscore"]
    assert [i for i, value in enumerate(scores.to_pylist()) if value is None] == [3, 139]


def test_an_image_that_a_scorer_has_no_number_for_costs_no_other_its_score(
    images, scorers, tmp_path, monkeypatch, capsys
):
    class Choosy(Brightness):
        def score(self, prompts, images):
            grey = super().score(["" for _ in prompts], images)
            if 5 in grey:
                raise ValueError("five is not a number\nthat it knows")
            return np.where(grey == 7, np.nan, grey)

    monkeypatch.setitem(load.LOADERS, "aesthetic", lambda source: Choosy())
    out = tmp_path / "scores.parquet"
    assert run(images, "--scorer", "aesthetic", "--scorer", "pickscore", "--out", out) == 1
    error = capsys.readouterr().err
    assert "images.csv: row 6: aesthetic: failed: five is not a number\n" in error
    assert "images.csv: row 78: aesthetic: gave nan" in error
    table = pq.read_table(out)
    lost = [i for i, value in enumerate(table["aesthetic"].to_pylist()) if value is None]
    assert lost == [5, 7, 75, 77]
    assert table["pickscore"].null_count == 0


def test_a_scorer_without_weights_is_named_and_the_rest_go_on(images, scorers, tmp_path, capsys):
    out = tmp_path / "scores.parquet"
    assert run(images, "--scorer", "clip", "--scorer", "pickscore", "--out", out) == 1
    assert "clip: no weights: put them somewhere" in capsys.readouterr().err
    assert "pickscore" in pq.read_table(out).column_names
    out.unlink()
    assert run(images, "--scorer", "clip", "--out", out) == 1
    assert not out.exists()


def test_the_miniature_scorer_is_found_by_name(images, tmp_path, monkeypatch):
    module = ModuleType("examples.miniature.scorer")

    class MiniatureScorer(Brightness):
        def __init__(self, source):
            self.source = source

    module.MiniatureScorer = MiniatureScorer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "examples.miniature.scorer", module)
    assert load.load_scorer("miniature=some/folder").source == "some/folder"


def test_bad_tables_are_named(images, scorers, tmp_path, capsys):
    out = ("--out", tmp_path / "scores.parquet", "--scorer", "pickscore")
    assert run(tmp_path / "absent.csv", *out) == 1
    assert "absent.csv: no such file" in capsys.readouterr().err
    (tmp_path / "x.csv").write_text("policy,prompt\nbase,seven\n")
    assert run(tmp_path / "x.csv", *out) == 1
    assert "x.csv: lacks the column 'image'" in capsys.readouterr().err
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and then nothing")
    assert run(tmp_path / "x.parquet", *out) == 1
    assert "x.parquet: not a readable parquet table" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run(images, "--scorer", "pickscore", "--out", tmp_path / "file" / "scores.parquet") == 1
    assert f"{tmp_path / 'file'}: " in capsys.readouterr().err
    assert run(images, "--scorer", "pickscore", *out) == 1
    assert "each scorer once" in capsys.readouterr().err

"""The score command: a column for each scorer, no row lost, every problem named, nothing twice."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest
from PIL import Image

from evaluation.__main__ import main
from evaluation.comparison.scores import scores_of
from evaluation.errors import MissingWeights

ROOT = Path(__file__).parents[2]
CASES = ROOT / ".." / "shared" / "cases" / "images"


class Brightness:
    """Mean grey, plus the length of the prompt; counts the images that it saw."""

    seen = 0

    def score(self, prompts, images):
        Brightness.seen += len(images)
        grey = [np.asarray(image.convert("L"), dtype=float).mean() for image in images]
        return np.array(grey) + [len(prompt) for prompt in prompts]


@pytest.fixture
def scorers(monkeypatch):
    """Scorers that stand for the real ones, by name; clip has no weights."""
    Brightness.seen = 0
    table = {"pickscore": Brightness}

    def load(named, **more):
        if named.kind not in table:
            raise MissingWeights(f"{named.label}: no weights: put them somewhere")
        return table[named.kind]()

    monkeypatch.setattr("evaluation.scorers.naming.load", load)
    return table


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
    names = ["policy", "prompt", "seed", "image", "pickscore", "brightness", "saturation"]
    assert table.column_names == [*names, "embedding"]
    assert scores_of(table).scorers == ["pickscore"]
    made_by = json.loads(table.schema.metadata[b"versions"])
    assert {"torch", "transformers", "pillow"} <= {*made_by}
    assert len(json.loads(table.schema.metadata[b"weights"])["pickscore"]) == 64
    np.testing.assert_allclose(table["brightness"].to_numpy()[:70], np.arange(70) / 255, atol=1e-6)
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
    assert "no picture of a known format" in error
    assert "No such file" in error
    scores = pq.read_table(out)["pickscore"]
    assert [i for i, value in enumerate(scores.to_pylist()) if value is None] == [3, 139]


def test_an_image_that_a_scorer_has_no_number_for_costs_no_other_its_score(
    images, scorers, tmp_path, capsys
):
    class Choosy(Brightness):
        def score(self, prompts, images):
            grey = super().score(["" for _ in prompts], images)
            if 5 in grey:
                raise ValueError("five is not a number\nthat it knows")
            return np.where(grey == 7, np.nan, grey)

    scorers["aesthetic"] = Choosy
    out = tmp_path / "scores.parquet"
    assert run(images, "--scorer", "aesthetic", "--scorer", "pickscore", "--out", out) == 1
    error = capsys.readouterr().err
    assert "images.csv: row 6: aesthetic: failed: five is not a number\n" in error
    assert "images.csv: row 78: aesthetic: gave nan" in error
    table = pq.read_table(out)
    lost = [i for i, value in enumerate(table["aesthetic"].to_pylist()) if value is None]
    assert lost == [5, 7, 75, 77]
    assert table["pickscore"].null_count == 0


def test_a_scorer_without_weights_is_a_column_of_nulls_and_the_rest_go_on(
    images, scorers, tmp_path, capsys
):
    out = tmp_path / "scores.parquet"
    assert run(images, "--scorer", "clip", "--scorer", "pickscore", "--out", out) == 1
    assert "clip: no weights: put them somewhere" in capsys.readouterr().err
    table = pq.read_table(out)
    assert table["pickscore"].null_count == 0
    assert table["clip"].null_count == 140
    (images.parent / "base-3.png").write_bytes(b"not a picture")
    assert run(images, "--scorer", "clip", "--scorer", "pickscore", "--out", out, "--warn") == 0
    assert "no picture" in capsys.readouterr().err
    assert pq.read_table(out)["pickscore"].null_count == 1


def test_nothing_is_scored_twice(images, scorers, tmp_path):
    """A repeat scores nothing, a baseline is scored once for all tables that hold it."""
    out = tmp_path / "scores.parquet"
    kept = ("--kept", tmp_path / "kept.sqlite")
    assert run(images, "--scorer", "pickscore", "--out", out, *kept) == 0
    first = Brightness.seen
    assert first == 70  # both policies drew the same 70 images
    assert run(images, "--scorer", "pickscore", "--out", out, *kept) == 0
    assert Brightness.seen == first
    Image.new("L", (4, 4), 200).save(images.parent / "arenapo-0.png")
    other = tmp_path / "other.parquet"
    assert run(images, "--scorer", "pickscore", "--out", other, *kept) == 0
    assert Brightness.seen == first + 1
    scores = pl.read_parquet(other)["pickscore"]
    assert scores[70] - scores[0] == pytest.approx(200)
    # Other weights, another scorer: scored anew.
    assert run(images, "--scorer", "x=pickscore:somewhere", "--out", out, *kept) == 0
    assert Brightness.seen == first + 1 + 71


def test_further_numbers_are_there_too_where_all_was_kept(images, scorers, tmp_path):
    class Sure(Brightness):
        also = ("sigma",)

        def score(self, prompts, images):
            found = super().score(prompts, images)
            return np.stack([found, 2 * found], axis=1)

    scorers["hps_v3"] = Sure
    out = tmp_path / "scores.parquet"
    for _ in range(2):  # the second time nothing is loaded
        assert run(images, "--scorer", "hps_v3", "--out", out) == 0
        table = pl.read_parquet(out)
        assert (table["hps_v3.sigma"] == 2 * table["hps_v3"]).all()
    assert Brightness.seen == 70
    assert scores_of(pq.read_table(out)).scorers == ["hps_v3"]


def test_every_row_of_a_broken_image_is_named(images, scorers, tmp_path, capsys):
    for name in ("base-3.png", "arenapo-3.png"):
        (images.parent / name).write_bytes(b"the same rubbish")
    out = tmp_path / "scores.parquet"
    assert run(images, "--scorer", "pickscore", "--out", out) == 1
    said = capsys.readouterr().err
    assert "images.csv: row 4: image" in said
    assert "images.csv: row 74: image" in said


def test_an_interrupted_scoring_goes_on(images, scorers, tmp_path, monkeypatch):
    class Tired(Brightness):
        def score(self, prompts, images):
            if Brightness.seen >= 32:
                raise KeyboardInterrupt
            return super().score(prompts, images)

    out = tmp_path / "scores.parquet"
    scorers["pickscore"] = Tired
    arguments = (images, "--scorer", "pickscore", "--out", out, "--batch-size", 16)
    assert run(*arguments) == 130
    assert Brightness.seen == 32
    scorers["pickscore"] = Brightness
    assert run(*arguments) == 0
    assert Brightness.seen == 70
    assert pq.read_table(out)["pickscore"].null_count == 0


def test_one_scorer_is_in_memory_at_a_time_and_those_on_one_clip_together(
    images, scorers, tmp_path
):
    alive, most = set(), []

    def heavy(name):
        class Heavy(Brightness):
            def __init__(self):
                alive.add(name)
                most.append(frozenset(alive))

            def __del__(self):
                alive.discard(name)

        return Heavy

    for name in ("clip", "hps_v3", "aesthetic", "imagereward"):
        scorers[name] = heavy(name)
    chosen = [f"--scorer={name}" for name in ("clip", "hps_v3", "aesthetic", "imagereward")]
    assert run(images, *chosen, "--limit", 1, "--out", tmp_path / "scores.parquet") == 0
    assert {"clip", "aesthetic"} in most
    assert {"hps_v3"} in most
    assert {"imagereward"} in most
    assert max(map(len, most)) == 2


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
def test_every_spelling_of_one_picture_has_one_score(scorers, tmp_path, capsys):
    """Turned by EXIF, transparent, 16 bits, CMYK, palette, without an extension: as their twins."""
    twins = {
        "exif6.png": "upright.png", "alpha.png": "alpha_on_white.png", "grey16.png": "grey8.png",
        "cmyk.jpg": "cmyk_rgb.png", "palette.png": "palette_rgb.png",
    }  # fmt: skip
    broken = ("animated.webp", "empty.png", "truncated.jpg", "page.jpg")
    names = [*twins, *twins.values(), "noext", *broken]
    rows = [f"base,p{i},{CASES / name}" for i, name in enumerate(names)]
    (tmp_path / "images.csv").write_text("policy,prompt,image\n" + "\n".join(rows) + "\n")
    out = tmp_path / "scores.parquet"
    assert run(tmp_path / "images.csv", "--scorer", "pickscore", "--out", out) == 1
    found = dict(zip(names, pl.read_parquet(out)["pickscore"], strict=True))
    for name, twin in twins.items():
        lossy = 0.1 if name.endswith(".jpg") else 1e-9
        assert found[name] == pytest.approx(found[twin], abs=lossy), name
    assert found["noext"] is not None
    said = capsys.readouterr().err
    for name in broken:
        assert found[name] is None
        assert f"image {CASES / name}: " in said


OWN = """
def score(prompts, images):
    return [float(image.getpixel((0, 0))[0]) for image in images]
"""


@pytest.mark.slow
def test_processes_that_are_launched_together_share_the_images_out(
    images, tmp_path, warm_python
):
    (tmp_path / "grey_scorer.py").write_text(OWN)
    out = tmp_path / "scores.parquet"
    command = [*warm_python, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += ["--no_python", *warm_python]
    command += ["-m", "evaluation", "score", str(images), "--out", str(out)]
    command += ["--scorer", "mine=grey_scorer:score"]
    path = f"{tmp_path}{os.pathsep}{ROOT}"
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("140 images:") == 1  # one of them speaks
    assert pl.read_parquet(out)["mine"].to_list() == [float(i) for i in range(70)] * 2


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

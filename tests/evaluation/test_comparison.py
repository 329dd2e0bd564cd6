"""The comparison's files: numbers, a page that loads nothing from elsewhere, figures that fit."""

import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from evaluation.__main__ import main
from evaluation.comparison.drift import drifts, frechet_distance
from evaluation.comparison.figures import image_grid, ksort_chart, win_rate_chart
from evaluation.comparison.page import SHOWN, pairs_of, write_comparison
from evaluation.comparison.scores import scores_of

PROMPTS = 12
NASTY = "<script>alert('prompt')</script> & co"


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> pl.DataFrame:
    """Three policies, two images a prompt; `better` gains 1, `worse` loses 1, with noise."""
    folder = tmp_path_factory.mktemp("scored")
    rng = np.random.default_rng(0)
    rows = []
    for policy, gain in (("base", 0.0), ("better", 1.0), ("worse", -1.0)):
        for i in range(PROMPTS):
            for k in range(2):
                path = folder / f"{policy}-{i}-{k}.png"
                pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(path)
                score = gain + 0.5 * rng.normal() + i / 10
                prompt = NASTY if i == 3 else f"prompt {i}"
                rows.append((policy, f"p{i}", prompt, k, str(path), score, 2 * score))
    names = ("policy", "prompt_id", "prompt", "seed", "image", "clip", "hps_v2.1")
    return pl.DataFrame(rows, schema=names, orient="row")


class Links(HTMLParser):
    """Collects every address and every opened script of a page."""

    def __init__(self):
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]


def test_the_command_writes_numbers_page_and_figures(scores, tmp_path, capsys):
    scores.write_parquet(tmp_path / "scores.parquet")
    ksort = {
        "mu": 26.0, "sigma": 0.7, "score": 23.5,
        "rounds": [{"instance": "a", "ranks": [0, 1, 2, 3, 4], "rho": 1, "mu": 26, "sigma": 0.7}],
    }  # fmt: skip
    (tmp_path / "ksort.json").write_text(json.dumps(ksort))
    out = tmp_path / "out"
    arguments = ["compare", tmp_path / "scores.parquet", "--baseline", "base", "--out", out]
    arguments += ["--ksort", f"better={tmp_path / 'ksort.json'}"]
    assert main([str(argument) for argument in arguments]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"better +1\.\d+ +9\d\.\d%|better +1\.\d+ +100\.0%", printed)

    numbers = json.loads((out / "comparison.json").read_text())
    assert numbers["scorers"] == ["clip", "hps_v2.1"]
    rows = {(row["scorer"], row["policy"]): row for row in numbers["comparisons"]}
    assert len(rows) == 6
    better = rows["clip", "better"]
    assert better["prompts"] == PROMPTS
    assert better["images"] == 2 * PROMPTS
    assert 0.5 < better["win_rate_low"] <= better["win_rate"] <= better["win_rate_high"] <= 1
    assert rows["clip", "worse"]["win_rate_high"] < 0.5

    page = (out / "comparison.html").read_text()
    links = Links()
    links.feed(page)
    assert all(source.startswith("data:image/") for source in links.sources)
    assert len(links.sources) >= 2 * 2 * 12 + 1
    assert "script" not in links.tags
    assert "<b>better</b> beats base" in page
    assert "<b>worse</b> falls behind base" in page
    pngs = {path.name for path in out.glob("*.png")}
    assert pngs == {"win_rates_clip.png", "win_rates_hps_v2.1.png", "ksort.png"}
    assert {"torch", "numpy"} <= {*numbers["made_by"]["versions"]}
    assert rows["clip", "better"]["verdict"] == "better"
    for path in out.glob("*.png"):
        Image.open(path).load()


def test_a_baseline_that_is_not_there_is_one_sentence(scores, tmp_path, capsys):
    scores.write_parquet(tmp_path / "scores.parquet")
    arguments = ["compare", str(tmp_path / "scores.parquet"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--baseline", "sdxl"]) == 1
    assert "no image of the baseline 'sdxl'" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_lost_images_and_scores_are_shown_as_lost(scores, tmp_path):
    lost = scores.with_columns(
        pl.when((pl.col("policy") == "better") & (pl.col("seed") == 1))
        .then(None)
        .otherwise(pl.col("clip"))
        .alias("clip"),
        pl.when(pl.col("policy") == "worse")
        .then(pl.lit("/nowhere/at-all.png"))
        .otherwise(pl.col("image"))
        .alias("image"),
    )
    write_comparison(lost, "base", tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    assert f"{PROMPTS} images of a policy had no score" in page
    assert "not readable" in page


def test_what_failed_is_named_with_its_reason(scores, tmp_path):
    (tmp_path / "broken.png").write_bytes(b"no image")
    lost = scores.with_columns(
        pl.when(pl.int_range(pl.len()) == 3)
        .then(pl.lit(str(tmp_path / "broken.png")))
        .otherwise(pl.col("image"))
        .alias("image"),
        *(
            pl.when(pl.int_range(pl.len()).is_in(rows)).then(None).otherwise(pl.col(c)).alias(c)
            for c, rows in (("clip", [3]), ("hps_v2.1", [3, 7]))
        ),
    )
    (*_, first), (*_, second) = scores_of(lost).failures()
    assert (first, second) == (["clip", "hps_v2.1"], ["hps_v2.1"])
    write_comparison(lost, "base", tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "2 images without a score" in page
    assert "not readable, so no score by clip, hps_v2.1" in page


def test_scorers_that_disagree_and_prompts_trained_on_are_shown(scores, tmp_path):
    turned = scores.with_columns(other=-pl.col("clip"))
    named = ["clip", "hps_v2.1", "other"]
    write_comparison(turned, "base", tmp_path, None, ["Prompt 2!", "unseen"], named)
    numbers = json.loads((tmp_path / "comparison.json").read_text())
    agreement = numbers["scorers_name_the_same_winner"]
    assert agreement["scorers"] == ["clip", "hps_v2.1", "other"]
    assert agreement["matrix"] == [[None, 1, 0], [1, None, 0], [0, 0, None]]
    assert numbers["prompts_in_training"] == ["prompt 2"]
    page = (tmp_path / "comparison.html").read_text()
    assert "Do the scorers agree?" in page
    assert "1 of the prompts occur among the training prompts" in page


def test_a_policy_is_only_said_to_win_where_the_corrected_test_says_so(scores, tmp_path):
    """Twenty equal policies: uncorrected, one of them would be said to differ."""
    rng = np.random.default_rng(0)
    rows = []
    for policy in ("base", *(f"equal{i:02d}" for i in range(20))):
        for i in range(40):
            rows.append((policy, f"p{i}", f"prompt {i}", "none.png", float(rng.normal())))
    names = ("policy", "prompt_id", "prompt", "image", "clip")
    write_comparison(pl.DataFrame(rows, schema=names, orient="row"), "base", tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    assert page.count("is not told apart from base") == 20


def test_one_policy_alone_still_makes_a_page(scores, tmp_path):
    write_comparison(scores.filter(pl.col("policy") == "base"), "base", tmp_path)
    assert "1 policy, " in (tmp_path / "comparison.html").read_text()


def test_a_policy_that_darkens_or_collapses_is_found_out(tmp_path):
    """One draws dark images, one draws two nearly equal images where the base draws unlike ones."""
    rng = np.random.default_rng(0)
    rows = []
    for policy, light, spread in (("base", 0.5, 1.0), ("dark", 0.3, 1.0), ("same", 0.5, 0.1)):
        for i in range(40):
            middle = rng.normal(size=6)
            for k in range(2):
                seen = (middle + spread * rng.normal(size=6)).astype(np.float16).tobytes()
                bright = light + 0.05 * rng.normal()
                rows.append((policy, f"prompt {i}", k, rng.normal(), bright, 0.4, seen))
    names = ("policy", "prompt", "seed", "clip", "brightness", "saturation", "embedding")
    frame = pl.DataFrame(rows, schema=names, orient="row")
    found = {(one.policy, one.measure): one for one in drifts(scores_of(frame), "base")}
    assert {key for key, one in found.items() if one.fallen} == {
        ("dark", "brightness"), ("same", "diversity"),
    }  # fmt: skip
    darker = found["dark", "brightness"]
    assert darker.low < -0.2 < darker.high < 0
    assert (darker.prompts, len(found)) == (40, 6)
    write_comparison(frame, "base", tmp_path)
    page = (tmp_path / "comparison.html").read_text()
    assert re.search(r"diversity fell from [\d.]+\s+by \d\d% in <b>same</b>\.", page)
    numbers = json.loads((tmp_path / "comparison.json").read_text())
    assert {*numbers["frechet_distance"]} == {"dark", "same"}


def test_diversity_is_paired_as_scores_are():
    """New's images lie at 0, 3 and 6, the base has none to compare with the last: (4.5 + 3) / 2."""
    rows = [("base", i, 0) for i in (0, 1)] + [("base", i, 1) for i in (0, 1)]
    rows += [("new", 3 * i, k) for i in (0, 1, 2) for k in (0, 1)]
    rows = [(p, f"prompt {k}", np.array([x, 0], np.float16).tobytes(), 1.0) for p, x, k in rows]
    frame = pl.DataFrame(rows, schema=("policy", "prompt", "embedding", "clip"), orient="row")
    (found,) = drifts(scores_of(frame), "base")
    assert (found.measure, found.prompts, found.baseline) == ("diversity", 2, 1)
    assert found.difference == 3.75 - 1


def test_the_frechet_distance_of_gaussians_is_its_closed_form():
    """|a - b|^2 + sum (s - t)^2 for diagonal covariances s^2 and t^2 (Dowson and Landau 1982)."""
    rng = np.random.default_rng(0)
    a = rng.normal(0, [1, 2, 3], (200_000, 3))
    b = rng.normal([1, 0, 0], [1, 1, 1], (200_000, 3))
    assert frechet_distance(a, b) == pytest.approx(1 + 0 + 1 + 4, rel=0.02)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)


def test_extremes_are_what_they_say_and_never_repeat(scores):
    frame = scores.pivot("policy", index=["prompt", "seed"], values="clip")
    differences = sorted((frame["better"] - frame["base"]).to_list(), reverse=True)
    found = pairs_of(scores_of(scores), "base", "better", "clip")
    gains = [pair["scores"][1] - pair["scores"][0] for pair in found["gains"]]
    assert gains == differences[:SHOWN]
    assert all(pair["scores"][1] < pair["scores"][0] for pair in found["losses"])
    shown = [tuple(pair["images"]) for kind in found.values() for pair in kind]
    assert len(shown) == len(set(shown)) > SHOWN


def test_a_grid_shows_every_policy_and_fits_the_limit(tmp_path):
    rng = np.random.default_rng(1)
    tables = {}
    for policy in ("base", "sft", "dpo", "fixed_margin", "arenapo"):
        folder = tmp_path / policy
        folder.mkdir()
        rows = []
        for i in range(9):
            pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)  # the worst to compress
            Image.fromarray(pixels).save(folder / f"{i}.png")
            rows.append((policy, f"p{i}", f"a rather long prompt number {i}", 0, f"{i}.png"))
        names = ("policy", "prompt_id", "prompt", "seed", "image")
        tables[policy] = folder / "images.parquet"
        pl.DataFrame(rows, schema=names, orient="row").write_parquet(tables[policy])
    (tmp_path / "dpo" / "0.png").unlink()  # a crossed field, in red
    small = image_grid(tables, prompts=6)
    assert len(small) < 45_000
    full = Image.open(io.BytesIO(image_grid(tables, prompts=6, limit=None))).convert("RGB")
    assert full.width > 6 * 96
    assert full.height > 5 * 96
    assert (224, 122, 95) in {colour for _, colour in full.getcolors(1 << 20)}


def test_charts_take_what_the_report_has():
    table = pl.DataFrame(
        {
            "policy": ["base", "dpo", "arenapo"],
            "win_rate": [None, 0.5, 0.7],
            "win_rate_low": [None, 0.4, 0.6],
            "win_rate_high": [None, 0.6, 0.8],
            "verdict": ["open", "open", "better"],
        }
    )
    for png in (win_rate_chart(table, "base"), win_rate_chart(table.head(1), "base")):
        assert len(png) < 45_000
        Image.open(io.BytesIO(png)).load()
    rounds = [{"mu": 25.0 + i, "sigma": 8 / (i + 1)} for i in range(5)]
    Image.open(io.BytesIO(ksort_chart({"dpo": {"rounds": rounds}}))).load()


def test_help_is_instant_and_bad_arguments_are_one_sentence(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "evaluation", *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    for command in ("generate", "score", "compare", "ksort"):
        done = run(command, "--help")
        assert done.returncode == 0
        assert "example" in done.stdout
        assert not re.search(r"\| +(torch|numpy|pyarrow|diffusers)$", done.stderr, re.MULTILINE)
    done = subprocess.run(
        [sys.executable, "-m", "evaluation", "score"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("python -m evaluation score: the following arguments")
    assert "Traceback" not in done.stderr


def test_under_pipes_the_command_reports_a_materialization(scores, tmp_path):
    from dagster import AssetExecutionContext, PipesSubprocessClient, asset, materialize

    scores.write_parquet(tmp_path / "scores.parquet")
    command = [sys.executable, "-m", "evaluation", "compare", str(tmp_path / "scores.parquet")]
    command += ["--baseline", "base", "--out", str(tmp_path / "out")]

    @asset
    def scorecard(context: AssetExecutionContext, pipes: PipesSubprocessClient):
        root = str(Path(__file__).parents[2])
        return pipes.run(
            context=context, command=command, cwd=root, env=dict(os.environ)
        ).get_materialize_result()

    result = materialize([scorecard], resources={"pipes": PipesSubprocessClient()})
    (event,) = result.asset_materializations_for_node("scorecard")
    assert event.metadata["prompts"].value == PROMPTS
    assert event.metadata["win_rate_better_clip"].value > 0.5
    assert len(event.tags["dagster/data_version"]) == 64


def test_policies_that_were_drawn_for_other_prompts_cannot_be_compared(tmp_path, capsys) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("policy,prompt,image,mark\nbase,a cat,1.png,1\nnew,a dog,2.png,2\n")
    arguments = ["compare", str(path), "--baseline=base", "--scorer=mark", f"--out={tmp_path}"]
    assert main(arguments) == 1
    assert "no policy has a score where base has one; images are paired" in capsys.readouterr().err
    path.write_text(path.read_text() + "new,a cat,3.png,3\n")
    assert main(arguments) == 0

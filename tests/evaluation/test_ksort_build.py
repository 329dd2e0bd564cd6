"""A K-Sort data set built from K-wise votes: read back whole, and rated by K-Sort Eval."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import trueskill
from PIL import Image

from evaluation.__main__ import main
from evaluation.errors import EvaluationError
from evaluation.human_votes import Ranking, read_rankings
from evaluation.ksort.build import fours_of, names_on_disk, rate_models, read_ratings
from evaluation.ksort.dataset import read_dataset

MODELS = [f"model_{i}" for i in range(6)]  # the layout cuts names at "_"


def votes_of(rng: np.random.Generator, count: int, size: int = 4) -> list[dict]:
    """Votes on images "prompt/model"; lower models are better, with noise."""
    rows = []
    for i in range(count):
        drawn = [int(m) for m in rng.choice(len(MODELS), size, replace=False)]
        seen = np.array(drawn) + rng.normal(0, 1, size)
        rows.append(
            {
                "vote_id": str(i),
                "prompt": f"prompt {i % 5}",
                "models": [MODELS[m] for m in drawn],
                "images": [f"{i % 5}-{m}" for m in drawn],
                "ranks": [int(rank) + 1 for rank in seen.argsort().argsort()],
            }
        )
    return rows


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    """votes.parquet and images.parquet (image, bytes)."""
    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    pl.DataFrame(votes_of(rng, 60)).write_parquet(folder / "votes.parquet")
    names, contents = [], []
    for prompt in range(5):
        for model in range(len(MODELS)):
            sink = io.BytesIO()
            Image.new("RGB", (16, 16), (40 * model, 50 * prompt, 0)).save(sink, "PNG")
            names.append(f"{prompt}-{model}")
            contents.append(sink.getvalue())
    table = pl.DataFrame({"image": names, "bytes": contents})
    table.write_parquet(folder / "images.parquet")
    return folder


def build(study: Path, out: Path, *more) -> int:
    arguments = ["dataset", study / "votes.parquet", "--images", study / "images.parquet"]
    return main([str(one) for one in [*arguments, "--out", out, *more]])


def test_the_data_set_says_what_the_votes_said(study, tmp_path, capsys):
    assert build(study, tmp_path / "ksort") == 0
    assert "instances from 60 votes over 6 models" in capsys.readouterr().out
    dataset = read_dataset(tmp_path / "ksort")
    rankings = read_rankings(study / "votes.parquet")
    ratings = {name.replace("_", "-"): rating for name, rating in rate_models(rankings).items()}
    for i, name in enumerate(dataset.names):
        instance = dataset.instance(i)
        colours = []
        for image in instance.images:
            red, green, _ = Image.open(image).getpixel((8, 8))
            colours.append((round(red / 40), round(green / 50)))
        assert [f"model-{model}" for model, _ in colours] == list(instance.models), name
        assert len({prompt for _, prompt in colours}) == 1
        assert instance.prompt == f"prompt {colours[0][1]}"
        shown = {f"{prompt}-{model}" for model, prompt in colours}
        said = [
            [one.ranks[one.images.index(f"{prompt}-{model}")] - 1 for model, prompt in colours]
            for one in rankings
            if set(one.images) == shown
        ]
        assert instance.human_ranks == pytest.approx(np.mean(said, axis=0))
        assert dataset.capacity[i] == pytest.approx(
            np.mean([ratings[model][0] for model in instance.models])
        )
    assert dataset.leaderboard == {
        name: (pytest.approx(mu, abs=1e-6), pytest.approx(sigma, abs=1e-6))
        for name, (mu, sigma) in ratings.items()
    }
    assert next(iter(dataset.leaderboard)) == "model-0"


def test_models_are_rated_by_one_free_for_all_update_a_vote():
    votes = [
        Ranking("p", ("x", "y", "z"), (2.0, 1.0, 2.0), ("a", "b", "c")),
        Ranking("p", ("x", "w"), (0.0, 1.0), ("a", "d")),
        Ranking("p", ("x", "v"), (0.0, 1.0), ("a", "a")),  # a model against itself: nothing
    ]
    environment = trueskill.TrueSkill()
    a, b, c, d = (environment.create_rating() for _ in "abcd")
    (a,), (b,), (c,) = environment.rate([(a,), (b,), (c,)], [2, 1, 2])
    (a,), (d,) = environment.rate([(a,), (d,)], [0, 1])
    expected = {name: (r.mu, r.sigma) for name, r in zip("abcd", (a, b, c, d), strict=True)}
    assert rate_models(votes) == expected


def test_a_longer_ranking_gives_disjoint_fours_whoever_ranked_it():
    rng = np.random.default_rng(2)
    images, models = [f"i{k}" for k in range(9)], [f"m{k}" for k in range(9)]
    votes = []
    for _ in range(3):
        order = rng.permutation(9)
        votes.append(
            Ranking(
                "p", tuple(images[k] for k in order), tuple(map(float, order)),
                tuple(models[k] for k in order),
            )
        )  # fmt: skip
    fours = fours_of(votes, seed=0)
    assert len(fours) == 2
    assert [four.votes for four in fours] == [3, 3]
    assert not set(fours[0].images) & set(fours[1].images)
    for four in fours:  # everybody ranked by the image's number
        assert four.ranks == tuple(sorted(four.ranks)) or sorted(four.ranks) == [0, 1, 2, 3]


def test_given_ratings_are_the_leaderboard_and_instances_are_limited(study, tmp_path):
    pl.DataFrame(
        {"model": MODELS, "mu": [30.0 - i for i in range(6)], "sigma": [0.9] * 6, "votes": [1] * 6}
    ).write_parquet(tmp_path / "ratings.parquet")
    out = tmp_path / "ksort"
    assert build(study, out, "--ratings", tmp_path / "ratings.parquet", "--instances", 7) == 0
    dataset = read_dataset(out)
    assert len(dataset.names) == 7
    assert dataset.leaderboard["model-3"] == (27.0, 0.9)
    assert read_ratings(tmp_path / "ratings.parquet")["model_0"] == (30.0, 0.9)


def test_ksort_eval_runs_on_what_was_built(study, tmp_path):
    assert build(study, tmp_path / "ksort") == 0
    new = tmp_path / "new"
    new.mkdir()
    lines = []
    for folder in (tmp_path / "ksort" / "Image").iterdir():
        Image.new("RGB", (16, 16)).save(new / f"{folder.name}.png")
        ranks = json.loads((folder / "result.json").read_text())["img_rank"]
        lines.append(json.dumps({"instance": folder.name, "ranks": [*ranks, -1]}))
    (tmp_path / "judge.jsonl").write_text("\n".join(lines))
    arguments = ["ksort", "--dataset", tmp_path / "ksort", "--images", new]
    arguments += ["--judge", f"recorded:{tmp_path / 'judge.jsonl'}", "--out", tmp_path / "r.json"]
    assert main([str(one) for one in arguments]) == 0
    result = json.loads((tmp_path / "r.json").read_text())
    best = max(mu for mu, _ in read_dataset(tmp_path / "ksort").leaderboard.values())
    assert result["mu"] > best  # it won every time


def test_bad_votes_are_one_sentence(study, tmp_path, capsys):
    path = tmp_path / "votes.jsonl"

    def said(*rows: dict) -> str:
        path.write_text("\n".join(json.dumps(row) for row in rows))
        assert main(["dataset", str(path), "--out", str(tmp_path / "out")]) == 1
        return capsys.readouterr().err

    good = {"prompt": "p", "models": list("abcd"), "images": list("wxyz"), "ranks": [1, 2, 3, 4]}
    assert "row 2: ranks not a list of numbers" in said(good, good | {"ranks": ["first", 2, 3, 4]})
    assert "no vote names a prompt and the images judged" in said(
        {"prompt": "p", "model_a": "a", "model_b": "b", "outcome": "a"}
    )
    assert "no vote ranks four images of four models" in said(
        {"prompt": "p", "models": ["a", "b"], "images": ["x", "y"], "ranks": [1, 2]}
    )
    assert "image 'w': cannot be read (No such file or directory); give --images" in said(good)
    assert not (tmp_path / "out").exists()
    absent = ["dataset", str(tmp_path / "absent.jsonl"), "--out", str(tmp_path / "out")]
    assert main(absent) == 1
    assert "absent.jsonl" in capsys.readouterr().err
    assert build(study, study) == 1
    assert "is not empty" in capsys.readouterr().err
    with pytest.raises(EvaluationError, match="both called 'a-b'"):
        names_on_disk(["a_b", "a-b"])


def test_pairwise_votes_are_rankings_of_two(tmp_path, capsys):
    rows = [("a", "b", "a"), ("a", "b", "b"), ("a", "c", "tie")]
    names = ("model_a", "model_b", "outcome")
    frame = pl.DataFrame(rows, schema=names, orient="row").with_columns(
        prompt=pl.lit("p"), image_a=pl.lit("x.png"), image_b=pl.lit("y.png")
    )
    frame.write_csv(tmp_path / "votes.csv")
    found = read_rankings(tmp_path / "votes.csv")
    assert [one.ranks for one in found] == [(0, 1), (1, 0), (0, 0)]
    assert found[2].models == ("a", "c")
    frame.with_columns(outcome=pl.Series(["a", "perhaps", "b"])).write_csv(tmp_path / "votes.csv")
    assert len(read_rankings(tmp_path / "votes.csv")) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'votes.csv'}: row 2: outcome not a, b or tie\n"

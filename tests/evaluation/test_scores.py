"""One table of scores: which images are pairs, which columns are scores, what is missing."""

import json

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from evaluation.comparison.page import pairs_of, write_comparison
from evaluation.comparison.scores import scores_of
from evaluation.comparison.statistics import compare, compare_all, scorer_agreement
from evaluation.errors import EvaluationError


def named(table: pa.Table, *scorers: str) -> pa.Table:
    """The table with its scorers in the metadata, as `score` writes it."""
    return table.replace_schema_metadata({"scorers": json.dumps(scorers)})


def test_a_generated_table_beside_a_plain_one_is_compared():
    """policy, prompt, image of a rival's own pictures beside a table with ids and seeds."""
    ours = pa.table(
        {
            "policy": ["base"] * 3, "prompt_id": ["p1", "p2", "p3"],
            "prompt": ["a dog", "a cat", "a cow"], "seed": [0, 0, 0], "image": list("abc"),
            "clip": [1.0, 2.0, 3.0],
        }
    )  # fmt: skip
    theirs = pa.table(
        {
            "policy": ["rival"] * 3, "prompt": ["a cow", "a dog", "a cat"], "image": list("xyz"),
            "clip": [4.0, 0.0, 5.0],
        }
    )  # fmt: skip
    both = pa.concat_tables([ours, theirs], promote_options="permissive")
    rival = compare(both, "base", "clip")["rival"]
    assert (rival.prompts, rival.images, rival.missing) == (3, 3, 0)
    assert rival.win_rate == pytest.approx(2 / 3)
    assert rival.mean_difference == pytest.approx((1 - 1 + 3) / 3)
    pairs = pairs_of(scores_of(both, ["clip"]), "base", "rival", "clip")
    found = [(p["prompt"], p["scores"]) for kind in ("gains", "losses") for p in pairs[kind]]
    assert found == [("a cat", [2, 5]), ("a cow", [3, 4]), ("a dog", [1, 0])]


def test_a_text_with_two_ids_pairs_with_nothing_that_has_none():
    rows = [("base", "1", "a dog"), ("base", "2", "a dog"), ("new", None, "a dog")]
    frame = pl.DataFrame(rows, schema=("policy", "prompt_id", "prompt"), orient="row")
    with pytest.raises(EvaluationError, match="has the ids 1, 2 in some rows and none in others"):
        scores_of(frame.with_columns(clip=pl.lit(1.0)))
    frame = frame.with_columns(prompt_id=pl.lit("1"), prompt=pl.Series(["a", "a", "b"]))
    with pytest.raises(EvaluationError, match="'1' stands for two prompts, 'a' and 'b'"):
        scores_of(frame.with_columns(clip=pl.lit(1.0)))


def test_scores_are_what_the_metadata_says_whatever_their_type():
    """Integer scores count, a float setting does not, and a scorer without scores is there."""
    table = pa.table(
        {
            "policy": ["base", "new"] * 2, "prompt": ["a", "a", "b", "b"],
            "guidance": [7.5] * 4, "mark": [3, 4, 5, 4], "hps_v3": pa.nulls(4, pa.float64()),
            "hps_v3.sigma": [0.1] * 4,
        }
    )  # fmt: skip
    scores = scores_of(named(table, "mark", "hps_v3"))
    assert scores.scorers == ["mark", "hps_v3"]
    found = compare_all(scores, "base", scores.scorers)
    new = {row.scorer: row for row in found if row.policy == "new"}
    assert (new["mark"].win_rate, new["mark"].images) == (0.5, 2)
    assert new["hps_v3"].images == 0
    assert np.isnan(new["hps_v3"].win_rate)
    assert new["hps_v3"].verdict == "open"
    with pytest.raises(EvaluationError, match=r"name it with --scorer \(it has guidance, mark"):
        scores_of(table.drop_columns("hps_v3"))
    assert scores_of(table).scorers == ["hps_v3"]  # called as a known scorer
    words = table.set_column(3, "mark", pa.array(["good"] * 4))
    with pytest.raises(EvaluationError, match="the column 'mark' holds no scores"):
        scores_of(words, ["mark"])


def test_a_scorer_is_no_further_number_of_another(tmp_path):
    frame = pl.DataFrame(
        {"policy": ["base"], "prompt": ["a"], "hps_v2": [1.0], "hps_v2.1": [2.0], "vqa.x": [3.0]}
    ).with_columns(vqa=pl.lit(0.5))
    numbers, _ = write_comparison(frame, "base", tmp_path)
    assert numbers["further"] == {"vqa.x": {"base": 3.0}}


def test_a_policy_without_one_scorer_costs_no_page(tmp_path):
    rows = [
        (policy, f"prompt {i}", "none.png", float(i), None if policy == "new" else 1.0 * i)
        for policy in ("base", "new", "other")
        for i in range(4)
    ]
    names = ("policy", "prompt", "image", "clip", "hps_v2")
    frame = pl.DataFrame(rows, schema=names, orient="row")
    write_comparison(frame, "base", tmp_path, scorers=["clip", "hps_v2"])
    page = (tmp_path / "comparison.html").read_text()
    assert "no image in common with base that hps_v2 scored" in page
    numbers = json.loads((tmp_path / "comparison.json").read_text())
    (row,) = (
        row for row in numbers["comparisons"] if (row["policy"], row["scorer"]) == ("new", "hps_v2")
    )
    assert (row["images"], row["win_rate"], row["p_holm"]) == (0, None, None)


def test_whoever_wins_every_pair_ranks_first_also_where_hard_prompts_are_missing():
    """The base's mean is over easy prompts only; the new policy beats it on each of them."""
    base = [("base", f"p{i}", 10.0 + i) for i in range(6)]
    new = [("new", f"p{i}", 11.0 + i) for i in range(6)] + [("new", f"hard{i}", 0.0) for i in "ab"]
    frame = pl.DataFrame([*base, *new], schema=("policy", "prompt", "clip"), orient="row")
    first, second = compare_all(scores_of(frame), "base", ["clip"])
    assert (first.policy, second.policy) == ("new", "base")
    assert (first.win_rate, first.images, first.missing) == (1.0, 6, 2)


def test_without_seeds_statistics_and_page_pair_alike():
    rng = np.random.default_rng(0)
    rows = [(p, f"prompt {i}", rng.normal()) for p in ("base", "new") for i in (0, 0, 1, 1, 1)]
    scores = scores_of(pl.DataFrame(rows, schema=("policy", "prompt", "clip"), orient="row"))
    kinds = pairs_of(scores, "base", "new", "clip")
    pairs = [pair for kind in kinds.values() for pair in kind]
    new = compare(scores, "base", "clip")["new"]
    assert len(pairs) == new.images == 5
    by_prompt: dict[str, list[float]] = {}
    for pair in pairs:
        old, score = pair["scores"]
        by_prompt.setdefault(pair["prompt"], []).append(score - old)
    means = [np.mean(values) for values in by_prompt.values()]
    assert new.mean_difference == pytest.approx(np.mean(means))


def test_categories_are_compared_by_themselves():
    rng = np.random.default_rng(1)
    rows = []
    for i in range(60):
        category, gain = ("animals", 3.0) if i % 2 else ("texts", -3.0)
        rows.append(("base", f"p{i}", category, rng.normal()))
        rows.append(("new", f"p{i}", category, gain + rng.normal()))
    names = ("policy", "prompt", "category", "clip")
    scores = scores_of(pl.DataFrame(rows, schema=names, orient="row"))
    rows = compare_all(scores, "base", ["clip"], by_category=True)
    found = {row.category: row for row in rows}
    assert found["animals"].verdict == "better"
    assert found["texts"].verdict == "worse"
    assert [row.prompts for row in found.values()] == [30, 30]
    sure = min(found.values(), key=lambda row: row.p_value)
    assert sure.p_holm == pytest.approx(2 * sure.p_value)  # corrected over both categories


def test_scorers_agree_where_both_name_a_winner():
    rows = [("base", "a", 0, 0.0), ("new", "a", 1, 1.0), ("base", "b", 0, 0.0), ("new", "b", 1, -1)]
    rows += [("base", "c", 2, 5.0), ("new", "c", 2, 6.0)]  # a tie says nothing
    names = ("policy", "prompt", "clip", "hps_v2")
    frame = pl.DataFrame(rows, schema=names, orient="row", strict=False)
    matrix = scorer_agreement(scores_of(frame), "base")
    assert matrix[0, 1] == matrix[1, 0] == 0.5

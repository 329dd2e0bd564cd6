"""The joint gap in simulated worlds, on real people and on hostile graphs."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from arena.gaps.graph import Graph
from arena.gaps.joint import NotConvergedError, expected_distance, infer_settings, joint_gaps
from arena.gaps.pairwise import UnratedModelError
from arena.ratings.table import Ratings
from arena.ratings.trueskill import TrueSkill
from arena.schema import GAPS

DATA = Path(__file__).parents[3] / ".." / "shared" / "data"


def panel(seed, prompts, rho=0.5, taste=0.3, epsilon=0.5, raters=3):
    """Votes of raters over all pairs of four images a prompt, and the images' true quality."""
    rng = np.random.default_rng(seed)
    mu, slip = np.array([0.6, 0.2, -0.2, -0.6]), 1.0 - rho - taste
    x = mu + np.sqrt(rho) * rng.normal(size=(prompts, 4))
    rows = []
    for r in range(raters):
        seen = x + np.sqrt(taste) * rng.normal(size=x.shape)
        for p in range(prompts):
            for i in range(4):
                for j in range(i + 1, 4):
                    d = seen[p, i] - seen[p, j] + np.sqrt(2 * slip) * rng.normal()
                    outcome = "tie" if abs(d) <= epsilon else "a" if d > 0 else "b"
                    rows.append((f"m{i}", f"m{j}", outcome, f"{p}/{i}", f"{p}/{j}", f"r{r}"))
    columns = ["model_a", "model_b", "outcome", "image_a", "image_b", "rater"]
    votes = pl.DataFrame(rows, schema=columns, orient="row")
    return votes.with_columns(vote_id=pl.int_range(pl.len()).cast(pl.String)), x


def rated(votes):
    return TrueSkill(draw_probability="auto").fit(votes)


def settings_of(votes, ratings):
    return infer_settings(Graph.of(votes, pl.Enum(ratings.table["model"]))[0], ratings)


def test_shares_come_out_of_the_votes():
    votes, _ = panel(0, prompts=200)
    ratings = rated(votes)
    found = settings_of(votes, ratings)
    assert found.rho == pytest.approx(0.5, abs=0.08)
    assert found.taste == pytest.approx(0.3, abs=0.08)
    assert found.slip == pytest.approx(0.2, abs=0.08)
    assert found.epsilon == pytest.approx(0.5, abs=0.05)
    assert found.mu - found.mu.mean() == pytest.approx(
        [{"m0": 0.6, "m1": 0.2, "m2": -0.2, "m3": -0.6}[m] for m in ratings.table["model"]],
        abs=0.15,
    )


def test_what_one_rater_alone_says_shrinks_towards_the_models():
    votes, _ = panel(4, prompts=60, raters=1)
    found = settings_of(votes, rated(votes))
    assert found.taste / (found.rho + found.taste) == pytest.approx(0.4, abs=0.01)


def test_gaps_are_calibrated_and_nearer_to_the_truth_than_the_vote_alone():
    votes, x = panel(1, prompts=150)
    ratings = rated(votes)
    gaps, report = joint_gaps(votes, ratings, signed=True)
    beta = ratings.parameters["beta"]

    def quality(image):
        prompt, model = image.split("/")
        return beta * x[int(prompt), int(model)]

    sides = votes.select(
        a=pl.col("image_a").map_elements(quality, pl.Float64),
        b=pl.col("image_b").map_elements(quality, pl.Float64),
    )
    sign = votes["outcome"].replace_strict({"a": 1.0, "b": -1.0, "tie": 1.0}).to_numpy()
    truth = sign * (sides["a"] - sides["b"]).to_numpy()
    z = (gaps["gap"].to_numpy() - truth) / gaps["gap_sd"].to_numpy()
    assert np.mean(np.abs(z) < 1.96) == pytest.approx(0.95, abs=0.03)
    assert np.corrcoef(gaps["gap"].to_numpy(), truth)[0, 1] > 0.75
    assert report.converged


def small_votes():
    rows = [
        ("v0", "p", "q", "a", "p1", "q1"),
        ("v1", "p", "q", "a", "p1", "q1"),
        ("v2", "p", "q", "a", "p1", "q1"),
        ("v3", "q", "p", "a", "q1", "p1"),  # against the three before
        ("v4", "p", "q", "tie", "p2", "q1"),
        ("v5", "p", "p", "b", "p2", "p2"),  # an image that met itself
        ("v6", "q", "p", "b", "q2", "p2"),
    ] * 1
    columns = ["vote_id", "model_a", "model_b", "outcome", "image_a", "image_b"]
    return pl.DataFrame(rows, schema=columns, orient="row")


def test_one_row_a_vote_in_input_order_with_the_sign_that_the_others_give():
    votes = small_votes()
    signed, _ = joint_gaps(votes, rated(votes), signed=True)
    cut, _ = joint_gaps(votes, rated(votes))
    assert dict(signed.schema) == GAPS
    assert signed["vote_id"].to_list() == votes["vote_id"].to_list()
    assert signed["winner"].to_list() == ["p", "p", "p", "q", "p", "p", "p"]
    assert signed["loser"].to_list() == ["q", "q", "q", "p", "q", "p", "q"]
    assert signed["gap"][3] == pytest.approx(-signed["gap"][0])
    assert signed["gap"][3] < 0.0
    assert cut["gap"][3] == 0.0
    assert cut["gap"][0] == signed["gap"][0]
    assert cut["gap"][4] > abs(signed["gap"][4])
    assert (signed["gap"][5], signed["gap_sd"][5]) == (0.0, 0.0)
    assert signed["probability"].is_between(0.0, 1.0).all()
    # The vote against three others is the least expected of the four.
    assert signed["probability"][3] < signed["probability"][0]


def test_sides_do_not_matter():
    votes, _ = panel(2, prompts=20)
    mirrored = votes.select(
        "vote_id",
        "rater",
        model_a="model_b",
        model_b="model_a",
        image_a="image_b",
        image_b="image_a",
        outcome=pl.col("outcome").replace({"a": "b", "b": "a"}),
    )
    one, _ = joint_gaps(votes, rated(votes))
    other, _ = joint_gaps(mirrored, rated(votes))
    assert one["gap"].to_numpy() == pytest.approx(other["gap"].to_numpy(), abs=2e-3)


def hostile(name):
    row = {
        "a hundred duplicates": [("x1", "y1", "a")] * 100,
        "a hundred against a hundred": [("x1", "y1", "a"), ("x1", "y1", "b")] * 100,
        "only images that met themselves": [("x1", "x1", "a"), ("x2", "x2", "tie")],
        "a circle of sixty": [(f"x{k}", f"x{(k + 1) % 60}", "a") for k in range(60)],
        "all against all in circles": [
            (f"x{i}", f"x{j}", "a" if (j - i) % 3 else "b") for i in range(60) for j in range(i)
        ],
        "one tie": [("x1", "y1", "tie")],
        "one vote": [("x1", "y1", "b")],
    }[name]
    return pl.DataFrame(
        [(str(k), a[0], b[0], o, a, b) for k, (a, b, o) in enumerate(row)],
        schema=["vote_id", "model_a", "model_b", "outcome", "image_a", "image_b"],
        orient="row",
    )


@pytest.mark.parametrize(
    "name",
    [
        "a hundred duplicates",
        "a hundred against a hundred",
        "only images that met themselves",
        "a circle of sixty",
        "all against all in circles",
        "one tie",
        "one vote",
    ],
)
def test_hostile_graphs_converge_to_finite_gaps(name):
    votes = hostile(name)
    gaps, report = joint_gaps(votes, rated(votes), signed=True)
    assert report.converged
    assert gaps["gap"].is_finite().all()
    assert gaps["gap_sd"].is_finite().all()
    assert gaps["probability"].is_between(0.0, 1.0).all()
    assert gaps.height == votes.height


def test_too_few_sweeps_are_said():
    votes, _ = panel(3, prompts=10)
    _, report = joint_gaps(votes, rated(votes), sweeps=1)
    assert not report.converged
    assert report.sweeps == 1
    assert report.change > 1e-4
    assert "NOT converged" in str(report)
    with pytest.raises(NotConvergedError, match="after 1 sweeps a gap still moved by"):
        report.check()


def met_at_random(images, votes, noise=1.0, pairs=None, raters=None, margin=0.3, seed=0):
    """Votes on pairs of images at random (or on as many pairs); noise 0: one consistent order."""
    rng = np.random.default_rng(seed)
    i = rng.integers(0, images, votes)
    j = (i + rng.integers(1, images, votes)) % images
    if pairs:
        pair = rng.integers(0, pairs, votes)
        i, j = i[pair], j[pair]
    x = rng.normal(size=images)
    d = x[i] - x[j] + noise * rng.normal(size=votes)
    sign = np.where(np.abs(d) < margin, 0, np.sign(d)).astype(int)
    table = {
        "model_a": [f"m{k % 4}" for k in i],
        "model_b": [f"m{k % 4}" for k in j],
        "outcome": np.array(["tie", "a", "b"])[sign],
        "image_a": i.astype(str),
        "image_b": j.astype(str),
    }
    if raters:
        table["rater"] = rng.integers(0, raters, votes).astype(str)
    return pl.DataFrame(table)


@pytest.mark.parametrize(
    "world",
    [
        {"images": 6, "votes": 180},
        {"images": 20, "votes": 180, "pairs": 30},
        {"images": 10, "votes": 4_500},
        {"images": 60, "votes": 4_500},
        {"images": 60, "votes": 1_000, "noise": 0.0, "margin": 0.0},
        {"images": 60, "votes": 1_000, "noise": 0.0},
        {"images": 60, "votes": 1_000, "noise": 0.0, "margin": 0.0, "raters": 1},
        {"images": 60, "votes": 1_000, "noise": 0.0, "margin": 0.0, "raters": 5},
        {"images": 300, "votes": 3_000, "noise": 0.0, "margin": 0.0},
        {"images": 60, "votes": 1_000, "noise": 1e9},
        {"images": 2, "votes": 200_000},
    ],
    ids=str,
)
def test_repeated_consistent_and_contradictory_votes_converge(world):
    votes = met_at_random(**world)
    gaps, report = joint_gaps(votes, rated(votes), signed=True)
    assert report.converged
    assert gaps["gap"].is_finite().all()
    assert gaps["gap_sd"].is_finite().all()
    assert gaps["probability"].is_between(0.0, 1.0).all()
    if world.get("noise") == 0.0 and "raters" not in world:  # nothing but the image decides
        strict = gaps.filter(pl.col("outcome") != "tie")
        assert (strict["gap"] > 0.0).mean() > 0.99


def test_the_order_of_the_votes_and_of_images_names_does_not_matter():
    votes = met_at_random(12, 400).with_row_index("vote_id")
    renamed = votes.sample(fraction=1.0, shuffle=True, seed=1).with_columns(
        image_a="z" + pl.col("image_a").str.reverse(), image_b="z" + pl.col("image_b").str.reverse()
    )
    ratings = rated(votes)
    one, _ = joint_gaps(votes, ratings, signed=True)
    other, _ = joint_gaps(renamed, ratings, signed=True)
    both = one.join(other, on="vote_id")
    assert both["gap"].to_numpy() == pytest.approx(both["gap_right"].to_numpy(), abs=2e-3)


def test_the_images_of_the_cases_have_the_gap_that_was_found_for_them():
    """shared/cases, `ids`: whole floats are the images that integers are."""
    cases = DATA.parent / "cases" / "votes" / "ids"
    if not cases.exists():
        pytest.skip(f"{cases} is not here")
    gaps = []
    for second in ("images_2", "images_2_float"):
        parts = [pl.read_parquet(cases / f"{name}.parquet") for name in ("images_1", second)]
        votes = pl.concat([part.cast({pl.Float64: pl.Int64}) for part in parts])
        gaps.append(joint_gaps(votes, TrueSkill(draw_probability=0.1).fit(votes))[0]["gap"].mean())
    assert gaps[0] == gaps[1]
    assert gaps[0] == pytest.approx(13.7337, rel=1e-4)


def test_an_upset_of_forty_standard_deviations_stays_finite():
    votes = hostile("one vote")
    ratings = rated(votes)
    table = ratings.table.with_columns(
        mu=pl.when(pl.col("model") == "x").then(1000.0).otherwise(0.0), sigma=pl.lit(1e-3)
    )
    gaps, report = joint_gaps(votes, Ratings(table, "given", ratings.parameters), signed=True)
    assert report.converged
    assert np.isfinite(gaps.select("gap", "gap_sd", "probability").to_numpy()).all()


def test_a_sample_keeps_the_meetings_of_its_images():
    votes = met_at_random(3_000, 6_000)
    graph = Graph.of(votes, pl.Enum([f"m{k}" for k in range(4)]))[0]
    sample = graph.sample(500)
    assert len(sample.ends) == 500
    assert sample.factor_start[-1] == 500
    assert sample.variable_start[-1] == len(sample.model)
    # Of 6,000 meetings 500 at random would leave an image 1.08 of its 4; a neighbourhood more.
    assert np.bincount(sample.ends[:, :2].ravel()).mean() > 1.5


def test_a_vote_without_an_image_has_no_gap_and_changes_no_others():
    votes = small_votes()
    extra = votes[:2].with_columns(
        vote_id=pl.Series(["w0", "w1"]),
        image_a=pl.Series([None, "p1"], dtype=pl.String),
        image_b=pl.Series(["q1", None], dtype=pl.String),
    )
    ratings = rated(votes)
    alone, _ = joint_gaps(votes, ratings)
    more, report = joint_gaps(pl.concat([extra[:1], votes, extra[1:]]), ratings)
    assert more[1:-1].equals(alone)
    assert report.without == 2
    assert "2 votes lack an image" in str(report)
    assert more["vote_id"].to_list() == ["w0", *votes["vote_id"], "w1"]
    assert more["winner"][0] == "p"
    for name in ("gap", "gap_sd", "probability"):
        assert more[name].is_null().to_list() == [True, *[False] * len(votes), True]


def test_an_image_under_two_models_names_is_two_images():
    votes = small_votes().with_columns(pl.col("image_a", "image_b").replace("q2", "p2"))
    gaps, report = joint_gaps(votes, rated(votes), signed=True)
    expected, _ = joint_gaps(small_votes(), rated(votes), signed=True)
    assert report.two_models == 1
    assert "1 images have two models' names" in str(report)
    assert gaps["gap"].to_list() == expected["gap"].to_list()


def test_a_pandas_frame_with_a_leaderboard_alone_gives_the_same_gaps():
    votes = small_votes()
    ratings = rated(votes)
    bare = Ratings(ratings.table.select("model", "mu", "sigma"), "given")
    whole = Ratings(ratings.table, "trueskill", {"beta": 25 / 6, "epsilon": 0.7404666})
    found, _ = joint_gaps(votes.to_pandas(), bare)
    expected, _ = joint_gaps(votes, whole)
    assert pl.from_pandas(found).equals(expected)


def test_votes_that_cannot_be_used_are_named():
    votes = small_votes()
    ratings = rated(votes)
    with pytest.raises(ValueError, match="needs image_a and image_b and no vote has both"):
        joint_gaps(votes.with_columns(image_b=pl.lit(None, pl.String)), ratings)
    with pytest.raises(ValueError, match="the votes have no column image_a"):
        joint_gaps(votes.drop("image_a"), ratings)
    with pytest.raises(UnratedModelError, match="model 'z' has no rating"):
        joint_gaps(votes.with_columns(model_a=pl.lit("z")), ratings)


def test_expected_distance_is_that_of_a_folded_gaussian():
    rng = np.random.default_rng(0)
    for mean, sd in ((0.0, 1.0), (0.7, 0.5), (-2.0, 1.5)):
        said = expected_distance(np.array([mean]), np.array([sd]))[0]
        assert said == pytest.approx(np.abs(rng.normal(mean, sd, 400_000)).mean(), rel=5e-3)
    assert expected_distance(np.array([-2.0]), np.array([0.0])) == 2.0


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize(("name", "least"), [("genai_bench", 0.28), ("tifa160", 0.37)])
def test_one_raters_votes_tell_what_the_others_think(name, least):
    """GenAI-Bench (TIGER-AI-Lab, Apache-2.0), TIFA160 (Hu et al., Apache-2.0)."""
    from benchmarks import joint_gap

    truth, gaps, prompt, report = joint_gap.measure(getattr(joint_gap, name)(), (0,))
    found = joint_gap.correlations(truth, gaps, prompt, resamples=500)
    assert report.converged
    assert found["joint"][0] > least
    for other in ("pairwise", "pairwise, predictive", "Borda"):
        assert np.quantile(found["joint"][1:] - found[other][1:], 0.025) > 0.0

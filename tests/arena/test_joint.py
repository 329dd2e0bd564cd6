"""The joint gap against exact integration, simulated worlds, real people and hostile graphs."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from scipy.special import ndtr

from arena.gap import UnratedModelError
from arena.image_graph import Layout, Meetings, neighbourhoods
from arena.joint import Evidence, Inference, Settings, expected_distance, infer_settings, joint_gaps
from arena.ratings import Ratings
from arena.trueskill import TrueSkill
from arena.votes.schema import GAPS

DATA = Path(__file__).parents[2] / ".." / "shared" / "data"

# Graphs over three images of three models: (winner, loser, tie).
GRAPHS = {
    "one vote": [(0, 1, False)],
    "chain": [(0, 1, False), (1, 2, False)],
    "ranking": [(0, 1, False), (1, 2, False), (0, 2, False)],
    "circle": [(0, 1, False), (1, 2, False), (2, 0, False)],
    "contradiction": [(0, 1, False), (1, 0, False), (0, 2, False)],
    "ties": [(0, 1, True), (1, 2, True), (0, 2, False)],
    "ten duplicates": [(0, 1, False)] * 10 + [(1, 2, True)],
    "ten and four against them": [(0, 1, False), (1, 0, True)] * 4 + [(1, 0, False)] * 4,
    "upset": [(2, 0, False), (2, 1, False)],
}
MU = np.array([0.9, 0.1, -1.0])


def settings(rho=0.5, taste=0.0, epsilon=0.4, mu=MU):
    return Settings(rho, taste, 1.0 - rho - taste, epsilon, np.ones(len(mu)), mu)


def meetings(votes, rater=None, images=3):
    winner, loser, tie = (np.array(column) for column in zip(*votes, strict=True))
    rater = np.full(len(votes), -1) if rater is None else np.asarray(rater)
    return Meetings(winner, loser, tie, rater, np.arange(images))


def exact(votes, s):
    """Integrate the product of the votes over a grid: (gaps, their sds, log evidence)."""
    axis = np.linspace(-4.8, 4.8, 97)
    x = np.stack(np.meshgrid(axis, axis, axis, indexing="ij")).reshape(3, -1)
    density = np.exp(-0.5 * (x**2).sum(0)) * (0.1 / np.sqrt(2 * np.pi)) ** 3
    x = s.mu[:, None] + np.sqrt(s.rho * s.spread)[:, None] * x
    noise = np.sqrt(2.0 * (s.slip + s.taste))
    for w, l, tie in votes:
        d = x[w] - x[l]
        won = ndtr((d - s.epsilon) / noise)
        density = density * (ndtr((d + s.epsilon) / noise) - won if tie else won)
    total = density.sum()
    d = np.array([x[w] - x[l] for w, l, _ in votes]).reshape(-1, len(density))
    mean = d @ density / total
    return mean, np.sqrt(((d - mean[:, None]) ** 2) @ density / total), np.log(total)


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("graph", GRAPHS)
def test_small_graphs_agree_with_exact_integration(graph, rho):
    votes, s = GRAPHS[graph], settings(rho)
    run = Inference.of(meetings(votes))
    found = run.run(s, sweeps=200)
    gap, variance, log_probability = run.of_votes(found, s)
    mean, sd, evidence = exact(votes, s)
    # 2% of the gap, or of its standard deviation where the gap itself is about zero.
    assert np.all(np.abs(gap - mean) < 0.02 * np.maximum(np.abs(mean), sd))
    assert np.sqrt(variance) == pytest.approx(sd, rel=0.05)
    # What the others say of a vote is read off one cavity: further from exact than the posterior.
    for vote in set(votes):
        k = votes.index(vote)
        others = exact(votes[:k] + votes[k + 1 :], s)[2]
        assert log_probability[k] == pytest.approx(evidence - others, rel=0.1, abs=0.15)
    assert found.evidence == pytest.approx(evidence, abs=0.03)
    assert found.change < 1e-4


# With another rater who has one vote; with nobody else; with another who judged the same twice.
@pytest.mark.parametrize("rater", [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
def test_a_raters_shared_taste_agrees_with_sampling(rater):
    votes = [(0, 1, False), (1, 2, False), (0, 2, True), (1, 0, False)]
    s = settings(rho=0.4, taste=0.4)
    run = Inference.of(meetings(votes, rater))
    gap, variance, _ = run.of_votes(run.run(s, sweeps=200), s)
    rng = np.random.default_rng(0)
    x = s.mu + np.sqrt(s.rho) * rng.normal(size=(1_000_000, 3))
    seen = [x + np.sqrt(s.taste) * rng.normal(size=x.shape) for _ in range(2)]
    weight = np.ones(len(x))
    for r, (w, l, tie) in zip(rater, votes, strict=True):
        d = seen[r][:, w] - seen[r][:, l]
        won = ndtr((d - s.epsilon) / np.sqrt(2.0 * s.slip))
        weight *= ndtr((d + s.epsilon) / np.sqrt(2.0 * s.slip)) - won if tie else won
    d = np.stack([x[:, w] - x[:, l] for w, l, _ in votes])
    mean = d @ weight / weight.sum()
    sd = np.sqrt(((d - mean[:, None]) ** 2) @ weight / weight.sum())
    assert np.all(np.abs(gap - mean) < 0.02 * np.maximum(np.abs(mean), sd))
    assert np.sqrt(variance) == pytest.approx(sd, rel=0.05)


def test_what_one_rater_alone_says_shrinks_towards_the_models():
    votes, _ = panel(4, prompts=60, raters=1)
    found = infer_settings(Meetings.of(votes, pl.Enum(rated(votes).table["model"])), rated(votes))
    assert found.taste / (found.rho + found.taste) == pytest.approx(0.4, abs=0.01)


def test_a_ranking_by_one_rater_says_less_than_as_many_raters():
    votes, s = GRAPHS["ranking"], settings(rho=0.4, taste=0.4, mu=np.zeros(3))

    def last_gap(rater):
        run = Inference.of(meetings(votes, rater))
        return run.of_votes(run.run(s, sweeps=200), s)[0][2]

    assert last_gap([0, 0, 0]) < last_gap([0, 1, 2])


def random_meetings(rng, images, votes, raters=3):
    a = rng.integers(0, images, votes)
    b = (a + rng.integers(1, images, votes)) % images
    return Meetings(
        a.astype(np.int32),
        b.astype(np.int32),
        rng.random(votes) < 0.3,
        rng.integers(0, raters, votes).astype(np.int32),
        rng.integers(0, 3, images).astype(np.int32),
    )


def test_without_cycles_sparse_and_dense_sweeps_end_in_the_same_posterior():
    # A tree: every image after the first beats or ties with an earlier one.
    rng = np.random.default_rng(5)
    child = np.arange(1, 30)
    tree = Meetings(
        child,
        np.array([rng.integers(0, k) for k in child]),
        rng.random(29) < 0.3,
        np.full(29, -1),
        rng.integers(0, 3, 30),
    )
    layout = Layout.of(tree)
    assert not layout.graph.dense.any()
    dense = replace(layout, graph=replace(layout.graph, dense=np.array([True])))
    results = []
    for one in (layout, dense):
        run = Inference.of(tree)
        run.layout = one
        results.append(run.run(settings(), sweeps=500, tolerance=1e-9))
    sparse, full = results
    assert sparse.mean == pytest.approx(full.mean, abs=1e-6)
    assert sparse.variance == pytest.approx(full.variance, rel=1e-6)
    assert sparse.gap == pytest.approx(full.gap, abs=1e-6)
    assert sparse.gap_variance == pytest.approx(full.gap_variance, rel=1e-6)
    assert sparse.evidence == pytest.approx(full.evidence, abs=1e-6)
    assert sparse.log_probability == pytest.approx(full.log_probability, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("images", [8, 200])  # dense, sparse
def test_the_evidences_slopes_are_its_differences(images):
    met = random_meetings(np.random.default_rng(1), images, 3 * images)
    start = settings(1 / 3, 1 / 3)
    evidence = Evidence(Inference.of(met), start, np.full(3, 0.5), ties=True)
    point = evidence.first_point() + np.linspace(-0.3, 0.3, len(evidence.first_point()))
    tight = evidence.inference.run
    evidence.inference.run = lambda s, sweeps, tolerance: tight(s, 1000, 1e-10)
    slopes = evidence.at(point)[1]
    for k, step in enumerate(1e-4 * np.eye(len(point))):
        difference = (evidence.at(point + step)[0] - evidence.at(point - step)[0]) / 2e-4
        assert slopes[k] == pytest.approx(difference, rel=1e-3, abs=1e-3)


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


def test_shares_come_out_of_the_votes():
    votes, _ = panel(0, prompts=200)
    ratings = rated(votes)
    found = infer_settings(Meetings.of(votes, pl.Enum(ratings.table["model"])), ratings)
    assert found.rho == pytest.approx(0.5, abs=0.08)
    assert found.taste == pytest.approx(0.3, abs=0.08)
    assert found.slip == pytest.approx(0.2, abs=0.08)
    assert found.epsilon == pytest.approx(0.5, abs=0.05)
    assert found.mu - found.mu.mean() == pytest.approx(
        [{"m0": 0.6, "m1": 0.2, "m2": -0.2, "m3": -0.6}[m] for m in ratings.table["model"]],
        abs=0.15,
    )


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
    assert report.dense == 1.0


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
    met = random_meetings(np.random.default_rng(4), 3000, 6000)
    kept = neighbourhoods(met, 500, seed=0)
    assert len(kept) == 500
    sample = met.only(kept)
    seen = np.bincount(np.concatenate([sample.winner, sample.loser]))
    # Of 6,000 meetings 500 at random would leave an image 1.08 of its 4; a neighbourhood more.
    assert seen.mean() > 1.5


def test_votes_that_cannot_be_used_are_named():
    votes = small_votes()
    ratings = rated(votes)
    with pytest.raises(ValueError, match="joint gap needs image_b in every vote"):
        joint_gaps(votes.with_columns(image_b=pl.lit(None, pl.String)), ratings)
    with pytest.raises(ValueError, match="image 'q1' comes from two models"):
        joint_gaps(votes.with_columns(image_a=pl.lit("q1")), ratings)
    with pytest.raises(UnratedModelError, match="model 'z' has no rating"):
        joint_gaps(votes.with_columns(model_a=pl.lit("z")), ratings)


def test_expected_distance_is_that_of_a_folded_gaussian():
    rng = np.random.default_rng(0)
    for mean, sd in ((0.0, 1.0), (0.7, 0.5), (-2.0, 1.5)):
        said = expected_distance(np.array([mean]), np.array([sd]))[0]
        assert said == pytest.approx(np.abs(rng.normal(mean, sd, 400_000)).mean(), rel=5e-3)
    assert expected_distance(np.array([-2.0]), np.array([0.0])) == 2.0


@pytest.mark.skipif(not DATA.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize(("name", "least"), [("genai_bench", 0.27), ("tifa160", 0.36)])
def test_one_raters_votes_tell_what_the_others_think(name, least):
    """GenAI-Bench (TIGER-AI-Lab, Apache-2.0), TIFA160 (Hu et al., Apache-2.0)."""
    from benchmarks import joint_gap

    truth, gaps, prompt, report = joint_gap.measure(getattr(joint_gap, name)(), (0,))
    found = joint_gap.correlations(truth, gaps, prompt, resamples=500)
    assert report.converged
    assert found["joint"][0] > least
    for other in ("pairwise", "pairwise, predictive", "Borda"):
        assert np.quantile(found["joint"][1:] - found[other][1:], 0.025) > 0.0

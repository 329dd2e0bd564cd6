"""Expectation propagation against exact integration, sampling, and itself."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from scipy.special import log_ndtr, ndtr

from arena.gaps.graph import Graph
from arena.gaps.inference import Inference, Settings
from arena.gaps.joint import Evidence

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


def table(votes, rater=None, models=None):
    """Votes (winner, loser, tie) between numbered images; image k is model k's, or models[k]'s."""
    model = (lambda k: str(k)) if models is None else (lambda k: str(models[k]))
    rows = [
        (model(w), model(l), "tie" if tie else "a", str(w), str(l), rater and str(rater[k]))
        for k, (w, l, tie) in enumerate(votes)
    ]
    columns = ["model_a", "model_b", "outcome", "image_a", "image_b", "rater"]
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def laid_out(votes, rater=None, models=None):
    """Their graph and places, over three models."""
    return Graph.of(table(votes, rater, models), pl.Enum(["0", "1", "2"]))


def inferred(votes, s, rater=None, models=None, sweeps=200):
    """Return (gap, variance, log probability) of each vote, and the posterior."""
    graph, places = laid_out(votes, rater, models)
    run = Inference(graph)
    found = run.run(s, sweeps)
    return *run.of_votes(places, found, s), found


def exact(votes, s, models=(0, 1, 2)):
    """Integrate the product of the votes over a grid: (gaps, their sds, log evidence).

    Votes know differences alone: one dimension less than there are images, independent ones after
    the Cholesky factor of their covariance.
    """
    images, model = len(models), np.array(models)
    axis = np.linspace(-5.0, 5.0, {2: 2001, 3: 401, 4: 101}[images])
    z = np.stack(np.meshgrid(*[axis] * (images - 1), indexing="ij")).reshape(images - 1, -1)
    step = (axis[1] - axis[0]) / np.sqrt(2 * np.pi)
    density = np.exp(-0.5 * (z**2).sum(0)) * step ** (images - 1)
    less_first = np.hstack([-np.ones((images - 1, 1)), np.eye(images - 1)])
    covariance = less_first @ np.diag(s.rho * s.spread[model]) @ less_first.T
    x = (less_first @ s.mu[model])[:, None] + np.linalg.cholesky(covariance) @ z
    x = np.vstack([np.zeros(x.shape[1]), x])
    noise = np.sqrt(2.0 * (s.slip + s.taste))
    for w, l, tie in votes:
        d = x[w] - x[l]
        won = ndtr((d - s.epsilon) / noise)
        density = density * (ndtr((d + s.epsilon) / noise) - won if tie else won)
    total = density.sum()
    gaps = [x[w] - x[l] for w, l, _ in votes]
    mean = np.array([d @ density for d in gaps]) / total
    second = [(d - m) ** 2 @ density for d, m in zip(gaps, mean, strict=True)]
    return mean, np.sqrt(np.array(second) / total), np.log(total)


def random_votes(rng, images, votes):
    a = rng.integers(0, images, votes)
    b = (a + rng.integers(1, images, votes)) % images
    tie = rng.random(votes) < 0.3
    return list(zip(a.tolist(), b.tolist(), tie.tolist(), strict=True))


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("graph", GRAPHS)
def test_small_graphs_agree_with_exact_integration(graph, rho):
    votes, s = GRAPHS[graph], settings(rho)
    gap, variance, log_probability, found = inferred(votes, s)
    mean, sd, evidence = exact(votes, s)
    # 2% of the gap, or of its standard deviation where the gap itself is about zero.
    assert np.all(np.abs(gap - mean) < 0.02 * np.maximum(np.abs(mean), sd))
    assert np.sqrt(variance) == pytest.approx(sd, rel=0.05)
    # What the others say of a vote is read off one cavity: further from exact than the posterior.
    for k in (votes.index(vote) for vote in set(votes)):
        others = exact(votes[:k] + votes[k + 1 :], s)[2]
        assert log_probability[k] == pytest.approx(evidence - others, rel=0.1, abs=0.15)
    assert found.evidence == pytest.approx(evidence, abs=0.03)
    assert found.change < 1e-4


@pytest.mark.parametrize(
    ("images", "rho", "off"),
    # Next to no noise makes EP's standard deviations too small where votes hem a difference in.
    [
        (3, 0.5, 0.03),
        (3, 0.8, 0.05),
        (3, 0.9, 0.08),
        (3, 0.97, 0.13),
        (3, 0.99, 0.16),
        (4, 0.5, 0.03),
        (4, 0.9, 0.08),
    ],
)
def test_random_small_graphs_agree_with_exact_integration(images, rho, off):
    rng = np.random.default_rng(images)
    worst = 0.0
    for _ in range(60 if images == 3 else 8):
        votes = random_votes(rng, images, rng.integers(1, 10))
        models = rng.integers(0, 3, images)
        spread, mu = np.exp(rng.normal(0.0, 0.25, 3)), rng.normal(0.0, 0.7, 3)
        s = Settings(rho, 0.0, 1.0 - rho, 0.3, spread, mu)
        gap, variance, _, found = inferred(votes, s, models=models)
        mean, sd, evidence = exact(votes, s, models)
        close = 0.02 if rho < 0.98 else 0.03
        assert np.all(np.abs(gap - mean) < close * np.maximum(np.abs(mean), sd))
        assert found.evidence == pytest.approx(evidence, abs=0.1)
        assert found.change < 1e-4
        worst = max(worst, np.abs(np.sqrt(variance) / sd - 1.0).max())
    assert worst < off


@pytest.mark.parametrize("wins", [1, 7, 60, 4_000])
def test_many_votes_on_two_images_are_one_exact_factor(wins):
    # Wins, losses and ties at 4:2:1 between two images: one integral over their difference.
    votes, s = [(0, 1, False)] * wins + [(1, 0, False)] * (wins // 2), settings()
    votes += [(0, 1, True)] * (wins // 4)
    gap, variance, _, found = inferred(votes, s)
    d = np.linspace(-8.0, 8.0, 400_001)
    log_density = -0.25 * (d - MU[0] + MU[1]) ** 2 / s.rho
    n = np.sqrt(2.0 * s.slip)
    log_density += wins * log_ndtr((d - s.epsilon) / n)
    log_density += (wins // 2) * log_ndtr((-d - s.epsilon) / n)
    if wins // 4:
        between = ndtr((d + s.epsilon) / n) - ndtr((d - s.epsilon) / n)
        log_density += (wins // 4) * np.log(np.maximum(between, 1e-300))
    density = np.exp(log_density - log_density.max())
    mean = d @ density / density.sum()
    sd = np.sqrt((d - mean) ** 2 @ density / density.sum())
    assert gap[0] == pytest.approx(mean, abs=1e-4 * sd)
    assert np.sqrt(variance[0]) == pytest.approx(sd, rel=1e-4)
    log_total = np.log(density.sum() * (d[1] - d[0])) + log_density.max()
    log_total -= 0.5 * np.log(4.0 * np.pi * s.rho)
    assert found.evidence == pytest.approx(log_total, abs=1e-3)


def test_a_row_of_counts_is_as_many_votes():
    rows = [(0, 1, False)] * 3 + [(1, 0, False)] * 2 + [(0, 1, True)] * 4 + [(1, 2, False)]
    summed = table([(1, 0, False), (1, 2, False)]).with_columns(
        votes_a=pl.Series([2, None]), votes_b=pl.Series([3, None]), votes_tie=pl.Series([4, None])
    )
    s = settings()
    gap, variance, log_probability, found = inferred(rows, s)
    graph, places = Graph.of(summed, pl.Enum(["0", "1", "2"]))
    run = Inference(graph)
    once = run.run(s)
    of_rows = run.of_votes(places, once, s)
    assert once.evidence == pytest.approx(found.evidence, abs=1e-9)
    for k, vote in ((0, 3), (1, 9)):  # the row says that 1 beat 0, as the fourth vote does
        assert [one[k] for one in of_rows] == pytest.approx(
            [gap[vote], variance[vote], log_probability[vote]], abs=1e-9
        )


# With another rater who has one vote; with nobody else; with another who judged the same twice.
@pytest.mark.parametrize("rater", [[0, 0, 0, 1], [0, 0, 0, 0], [0, 0, 1, 1]])
def test_a_raters_shared_taste_agrees_with_sampling(rater):
    votes = [(0, 1, False), (1, 2, False), (0, 2, True), (1, 0, False)]
    s = settings(rho=0.4, taste=0.4)
    gap, variance, _, _ = inferred(votes, s, rater)
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


def test_a_ranking_by_one_rater_says_less_than_as_many_raters():
    votes, s = GRAPHS["ranking"], settings(rho=0.4, taste=0.4, mu=np.zeros(3))
    assert inferred(votes, s, [0, 0, 0])[0][2] < inferred(votes, s, [0, 1, 2])[0][2]


def with_covariance(graph, dense):
    return replace(graph, dense=np.full(len(graph.dense), dense))


def both_ways(votes, s, models, rater=None, sweeps=200, tolerance=1e-4):
    graph = laid_out(votes, rater, models)[0]
    return [
        Inference(with_covariance(graph, dense)).run(s, sweeps, tolerance)
        for dense in (False, True)
    ]


def test_without_cycles_sparse_and_dense_sweeps_end_in_the_same_posterior():
    # A tree: every image after the first beats or ties with an earlier one.
    rng = np.random.default_rng(5)
    tree = [(k, int(rng.integers(0, k)), bool(rng.random() < 0.3)) for k in range(1, 30)]
    models = rng.integers(0, 3, 30)
    sparse, full = both_ways(tree, settings(), models, sweeps=500, tolerance=1e-9)
    assert sparse.mean == pytest.approx(full.mean, abs=1e-6)
    assert sparse.evidence == pytest.approx(full.evidence, abs=1e-6)
    assert sparse.variance == pytest.approx(full.variance, abs=1e-6)
    for one, other in zip(sparse.factors, full.factors, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


@pytest.mark.parametrize("votes", [200, 600])
def test_with_long_cycles_sparse_and_dense_sweeps_nearly_agree(votes):
    rng = np.random.default_rng(6)
    met = random_votes(rng, 200, votes)
    sparse, full = (one.factors for one in both_ways(met, settings(), rng.integers(0, 3, 200)))
    assert np.abs(sparse.gap - full.gap).max() < 0.02 * np.sqrt(full.gap_variance).min()
    assert np.sqrt(sparse.gap_variance) == pytest.approx(np.sqrt(full.gap_variance), rel=0.02)


@pytest.mark.parametrize("dense", [True, False])
def test_the_evidences_slopes_are_its_differences(dense):
    rng = np.random.default_rng(1)
    images = 8 if dense else 200
    votes, models = random_votes(rng, images, 3 * images), rng.integers(0, 3, images)
    graph = laid_out(votes, rng.integers(0, 3, len(votes)).tolist(), models)[0]
    inference = Inference(with_covariance(graph, dense))
    correlated = np.linalg.inv(0.2 * np.eye(3) + 0.1)
    evidence = Evidence(inference, settings(1 / 3, 1 / 3), correlated, ties=True)
    point = evidence.first_point() + np.linspace(-0.3, 0.3, len(evidence.first_point()))
    tight = {"sweeps": 1000, "tolerance": 1e-10}
    slopes = evidence.at(point, **tight)[1]
    for k, step in enumerate(1e-4 * np.eye(len(point))):
        up, down = (evidence.at(point + move, **tight)[0] for move in (step, -step))
        assert slopes[k] == pytest.approx((up - down) / 2e-4, rel=1e-3, abs=1e-3)

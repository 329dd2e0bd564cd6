"""Expectation propagation against exact integration, sampling, and itself."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import ndtr

from arena.gaps.graph import Layout, Meetings
from arena.gaps.joint_evidence import Evidence, Inference, Settings
from arena.gaps.sweeps import NOBODY

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


def exact(met, s):
    """Integrate the product of the votes over a grid: (gaps, their sds, log evidence).

    Votes know differences alone: one dimension less than there are images, independent ones after
    the Cholesky factor of their covariance.
    """
    images = len(met.model)
    axis = np.linspace(-5.0, 5.0, {2: 2001, 3: 401, 4: 101}[images])
    z = np.stack(np.meshgrid(*[axis] * (images - 1), indexing="ij")).reshape(images - 1, -1)
    step = (axis[1] - axis[0]) / np.sqrt(2 * np.pi)
    density = np.exp(-0.5 * (z**2).sum(0)) * step ** (images - 1)
    less_first = np.hstack([-np.ones((images - 1, 1)), np.eye(images - 1)])
    covariance = less_first @ np.diag(s.rho * s.spread[met.model]) @ less_first.T
    x = (less_first @ s.mu[met.model])[:, None] + np.linalg.cholesky(covariance) @ z
    x = np.vstack([np.zeros(x.shape[1]), x])
    noise = np.sqrt(2.0 * (s.slip + s.taste))
    for w, l, tie in zip(met.winner, met.loser, met.tie, strict=True):
        d = x[w] - x[l]
        won = ndtr((d - s.epsilon) / noise)
        density = density * (ndtr((d + s.epsilon) / noise) - won if tie else won)
    total = density.sum()
    gaps = [x[w] - x[l] for w, l in zip(met.winner, met.loser, strict=True)]
    mean = np.array([d @ density for d in gaps]) / total
    second = [(d - m) ** 2 @ density for d, m in zip(gaps, mean, strict=True)]
    return mean, np.sqrt(np.array(second) / total), np.log(total)


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


def without(met, k):
    """The meetings but one, over the same images."""
    winner, loser, tie, rater = (
        np.delete(a, k) for a in (met.winner, met.loser, met.tie, met.rater)
    )
    return Meetings(winner, loser, tie, rater, met.model)


@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("graph", GRAPHS)
def test_small_graphs_agree_with_exact_integration(graph, rho):
    votes, s = GRAPHS[graph], settings(rho)
    met = meetings(votes)
    run = Inference.of(met)
    found = run.run(s, sweeps=200)
    gap, variance, log_probability = run.of_votes(found, s)
    mean, sd, evidence = exact(met, s)
    # 2% of the gap, or of its standard deviation where the gap itself is about zero.
    assert np.all(np.abs(gap - mean) < 0.02 * np.maximum(np.abs(mean), sd))
    assert np.sqrt(variance) == pytest.approx(sd, rel=0.05)
    # What the others say of a vote is read off one cavity: further from exact than the posterior.
    for vote in set(votes):
        k = votes.index(vote)
        others = exact(without(met, k), s)[2]
        assert log_probability[k] == pytest.approx(evidence - others, rel=0.1, abs=0.15)
    assert found.evidence == pytest.approx(evidence, abs=0.03)
    assert found.change < 1e-4


@pytest.mark.parametrize(
    ("images", "rho"), [(3, 0.5), (3, 0.8), (3, 0.9), (3, 0.97), (3, 0.99), (4, 0.5), (4, 0.9)]
)
def test_random_small_graphs_agree_with_exact_integration(images, rho):
    rng = np.random.default_rng(images)
    off = []
    for _ in range(60 if images == 3 else 8):
        met = random_meetings(rng, images, rng.integers(1, 10))
        met = replace(met, rater=np.full(len(met), NOBODY))
        spread, mu = np.exp(rng.normal(0.0, 0.25, 3)), rng.normal(0.0, 0.7, 3)
        s = Settings(rho, 0.0, 1.0 - rho, 0.3, spread, mu)
        run = Inference.of(met)
        found = run.run(s, sweeps=200)
        gap, variance, _ = run.of_votes(found, s)
        mean, sd, evidence = exact(met, s)
        assert np.all(np.abs(gap - mean) < 0.02 * np.maximum(np.abs(mean), sd))
        assert found.evidence == pytest.approx(evidence, abs=0.1)
        assert found.change < 1e-4
        off.append(np.abs(np.sqrt(variance) / sd - 1.0).max())
    assert max(off) < 0.05


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


def test_a_ranking_by_one_rater_says_less_than_as_many_raters():
    votes, s = GRAPHS["ranking"], settings(rho=0.4, taste=0.4, mu=np.zeros(3))

    def last_gap(rater):
        run = Inference.of(meetings(votes, rater))
        return run.of_votes(run.run(s, sweeps=200), s)[0][2]

    assert last_gap([0, 0, 0]) < last_gap([0, 1, 2])


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


@pytest.mark.parametrize("votes", [200, 600])
def test_with_long_cycles_sparse_and_dense_sweeps_nearly_agree(votes):
    met = random_meetings(np.random.default_rng(6), 200, votes)
    met = replace(met, rater=np.full(votes, NOBODY))
    results = []
    for dense in (False, True):
        run = Inference.of(met)
        graph = replace(run.layout.graph, dense=np.full(len(run.layout.graph.dense), dense))
        run.layout = replace(run.layout, graph=graph)
        results.append(run.run(settings(), sweeps=200))
    sparse, full = results
    assert np.abs(sparse.gap - full.gap).max() < 0.02 * np.sqrt(full.gap_variance).min()
    assert np.sqrt(sparse.gap_variance) == pytest.approx(np.sqrt(full.gap_variance), rel=0.02)


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

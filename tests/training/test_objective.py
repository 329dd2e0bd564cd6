"""Losses and logits against closed forms, their gradients against finite differences."""

import math

import pytest
import torch

from training import objective
from training.objective import Asked

INSIDE = torch.tensor([-30.0, -2.0, 0.0, 0.7, 4.0, 30.0], dtype=torch.float64)
GAP = torch.tensor([0.1, 3.0, 1.0, 0.0, 2.0, 0.5], dtype=torch.float64)
PROBABILITY = torch.tensor([0.5, 0.9, 0.2, 0.7, 0.99, 0.01], dtype=torch.float64)


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def sigmoid(x: float) -> float:
    return math.exp(-softplus(-x))


FORMULAS = {  # (inside, gap, probability, gamma) -> (loss, margin), with softplus(-x) = -log s(x)
    "dpo": lambda x, g, p, y: (softplus(-x), 0.0),
    "sdpo": lambda x, g, p, y: (softplus(-x), 0.0),
    "fixed_margin": lambda x, g, p, y: (softplus(y - x), y),
    "arenapo": lambda x, g, p, y: (softplus(y * g - x), y * g),
    "arenapo_weighted": lambda x, g, p, y: (g * softplus(-x), 0.0),
    "arenapo_regression": lambda x, g, p, y: ((x - y * g) ** 2, y * g),
    "ipo": lambda x, g, p, y: ((x - 0.5) ** 2, 0.5),
    "cdpo": lambda x, g, p, y: (p * softplus(-x) + (1 - p) * softplus(x), math.log(p / (1 - p))),
    "hinge": lambda x, g, p, y: (max(0.0, 1 - x), 1.0),
    "poly_dpo": lambda x, g, p, y: (softplus(-x) + 0.01 * sigmoid(-x), 0.0),
    "dmpo": lambda x, g, p, y: (
        sigmoid(x) * (-softplus(-x) - math.log(0.99))
        + sigmoid(-x) * (-softplus(x) - math.log(0.01)),
        math.log(0.99 / 0.01),
    ),
    "alpha_dpo": lambda x, g, p, y: (
        (math.exp(-0.01 * softplus(-x)) - 0.99 - 0.01 * sigmoid(x)) / (0.01 * -0.99),
        0.0,
    ),
}


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
@pytest.mark.parametrize("name", objective.PREFERENCE)
def test_a_loss_is_its_formula(name, gamma):
    loss, margins = objective.PREFERENCE[name](INSIDE, Asked(GAP, PROBABILITY, gamma))
    for i, values in enumerate(zip(INSIDE, GAP, PROBABILITY, strict=True)):
        expected, margin = FORMULAS[name](*(v.item() for v in values), gamma)
        assert margins[i].item() == pytest.approx(margin)
        assert loss[i].item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_arenapo_with_equal_gaps_of_one_is_the_fixed_margin_and_without_gamma_dpo():
    ones = torch.ones_like(GAP)
    arenapo, _ = objective.arenapo(INSIDE, Asked(ones, PROBABILITY, 1.7))
    fixed, _ = objective.fixed_margin(INSIDE, Asked(GAP, PROBABILITY, 1.7))
    torch.testing.assert_close(arenapo, fixed)
    dpo, _ = objective.dpo(INSIDE, Asked(GAP, PROBABILITY, 0.0))
    torch.testing.assert_close(objective.arenapo(INSIDE, Asked(GAP, PROBABILITY, 0.0))[0], dpo)
    weighted, _ = objective.arenapo_weighted(INSIDE, Asked(ones, PROBABILITY, 1.7))
    torch.testing.assert_close(weighted, dpo)


def test_ipo_is_the_papers_up_to_the_square_of_its_temperature():
    tau, errors = 8.0, torch.rand(4, 5, dtype=torch.float64)
    h = -((errors[0] - errors[2]) - (errors[1] - errors[3])) / 2  # log-ratio's stand-in
    inside = objective.inside(*errors, beta_dpo=tau)
    loss, _ = objective.ipo(inside, Asked(h, h, 1.0))
    torch.testing.assert_close(loss / tau**2, (h - 1 / (2 * tau)).square())


def test_cdpo_is_least_where_the_implicit_reward_agrees_with_the_label():
    inside = torch.logit(PROBABILITY).requires_grad_()
    objective.cdpo(inside, Asked(GAP, PROBABILITY, 1.0))[0].sum().backward()
    torch.testing.assert_close(inside.grad, torch.zeros_like(GAP))
    certain, _ = objective.cdpo(INSIDE, Asked(GAP, torch.ones_like(GAP)))
    torch.testing.assert_close(certain, objective.dpo(INSIDE, Asked(GAP, GAP))[0])


@pytest.mark.parametrize("gap", [-1.0, 0.0])
def test_a_pair_whose_vote_was_a_slip_weighs_nothing(gap):
    loss, _ = objective.arenapo_weighted(INSIDE, Asked(torch.full_like(GAP, gap), PROBABILITY, 1.0))
    assert loss.abs().max() == 0


@pytest.mark.parametrize("name", objective.PREFERENCE)
def test_the_gradient_in_every_error_matches_finite_differences(name):
    random = torch.Generator().manual_seed(0)
    errors = [torch.rand(5, generator=random, dtype=torch.float64) for _ in range(4)]
    gap = torch.rand(5, generator=random, dtype=torch.float64)
    probability = torch.rand(5, generator=random, dtype=torch.float64)
    trained = [e.requires_grad_() for e in errors[:2]]

    def loss(winner, loser):
        inside = objective.inside(winner, loser, *errors[2:], beta_dpo=6.0)
        return objective.PREFERENCE[name](inside, Asked(gap, probability, 0.8))[0]

    assert torch.autograd.gradcheck(loss, trained)


def test_the_gradient_pushes_the_winner_by_half_beta_times_sigmoid():
    winner = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    inside = objective.inside(winner, zero + 0.4, zero + 0.2, zero + 0.5, beta_dpo=10.0)
    assert inside.item() == pytest.approx(-5 * ((0.3 - 0.2) - (0.4 - 0.5)))
    objective.arenapo(inside, Asked(zero + 2.0, zero, 0.5))[0].sum().backward()
    assert winner.grad is not None
    assert winner.grad.item() == pytest.approx(5 / (1 + math.exp(inside.item() - 1.0)))


def _winners_slope(targets, *, guarded: bool) -> float:
    """How fast the winner's error changes down the gradient, for outputs that are the weights.

    It is given relative to the winner's own gradient: -1 is what learning from it alone gives.
    """
    output = torch.zeros(16, requires_grad=True)
    residuals = [(output - target)[None] for target in targets]
    winner, loser = (objective.sample_errors(residual) for residual in residuals)
    if guarded:
        error = loser.item()
        loser = objective.scaled_gradient(loser, objective.safeguard(*residuals))
        assert loser.item() == pytest.approx(error)
    (own,) = torch.autograd.grad(winner, output, retain_graph=True)
    zero = torch.zeros(1)
    inside = objective.inside(winner, loser, zero, zero, beta_dpo=2.0)
    objective.dpo(inside, Asked(zero, zero, 0.0))[0].sum().backward()
    return -(own @ output.grad / own.square().sum() / torch.sigmoid(-inside)).item()


@pytest.mark.parametrize("seed", range(5))
def test_the_safeguard_keeps_the_winners_error_from_rising(seed):
    random = torch.Generator().manual_seed(seed)
    winner, noise = torch.randn(2, 16, generator=random)
    wrong_alike = [winner, 2.5 * winner + 0.1 * noise]  # the loser is wrong the same way, only more
    assert _winners_slope(wrong_alike, guarded=False) > 1  # dpo's known failure
    assert _winners_slope(wrong_alike, guarded=True) == pytest.approx(0, abs=1e-5)
    for other in (-winner + 0.1 * noise, 0.5 * winner):  # here there is nothing to guard against
        slopes = [_winners_slope([winner, other], guarded=on) for on in (False, True)]
        assert slopes[0] == slopes[1] < 0


@pytest.mark.parametrize("slack", [0.0, 0.6, 0.9])
def test_with_slack_the_winners_error_falls_by_that_share_of_its_own_step(slack):
    """<w, w - f l> >= slack |w|^2, an equality wherever the loser's gradient is held back."""
    random = torch.Generator().manual_seed(0)
    winner, noise = torch.randn(2, 200, 16, generator=random)
    loser = winner * torch.rand(200, 1, generator=random) * 3 + noise
    factor = objective.safeguard(winner, loser, slack)
    fall = (winner * (winner - factor[:, None] * loser)).sum(1) / winner.square().sum(1)
    held = factor < 1
    assert 0 < held.sum() < 200
    torch.testing.assert_close(fall[held], torch.full_like(fall[held], slack), atol=1e-5, rtol=0)
    assert (fall[~held] >= slack - 1e-6).all()


def test_errors_are_means_within_a_sample_and_never_over_the_batch():
    residual = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 8, 8)
    torch.testing.assert_close(objective.sample_errors(residual), torch.tensor([0.0, 1, 4]))


def test_accuracy_counts_an_undecided_pair_as_half():
    inside = torch.tensor([2.0, 0.0, -1.0])
    assert objective.implicit_accuracy(inside).tolist() == [1.0, 0.5, 0.0]


def test_alpha_dpo_has_its_limits():
    p = INSIDE[1:].sigmoid()
    for alpha, limit in ((1e-7, -p.log() - (1 - p)), (1 - 1e-7, p * p.log() + 1 - p)):
        loss, _ = objective.alpha_dpo(INSIDE[1:], Asked(GAP, PROBABILITY, 1.0, alpha))
        torch.testing.assert_close(loss, limit, rtol=1e-5, atol=1e-5)


def test_dmpo_is_least_zero_at_its_margin():
    asked = Asked(GAP, PROBABILITY, 1.0, 0.01)
    _, margin = objective.dmpo(INSIDE, asked)
    at = margin.clone().requires_grad_()
    loss, _ = objective.dmpo(at, asked)
    loss.sum().backward()
    assert loss.abs().max() < 1e-9
    assert at.grad.abs().max() < 1e-9


def test_one_safeguard_for_a_part_holds_all_its_winners_together():
    winner, loser = torch.randn(2, 6, 3, 4, 4, generator=torch.Generator().manual_seed(0)) + 0.5
    factor = objective.safeguard(winner, 3 * loser, jointly=True)
    expected = winner.square().sum() / (winner * 3 * loser).sum()
    torch.testing.assert_close(factor, expected.clamp(max=1).expand(6))


def test_beta_for_a_gradient_makes_that_gradient():
    gap, loss_of = GAP.clone(), objective.arenapo
    beta = objective.beta_for_gradient(loss_of, Asked(gap, PROBABILITY, 2.0), 700.0)
    errors = [torch.zeros_like(gap, requires_grad=True) for _ in range(4)]
    loss_of(objective.inside(*errors, beta), Asked(gap, PROBABILITY, 2.0))[0].sum().backward()
    assert errors[0].grad.abs().mean().item() == pytest.approx(700.0)

"""Losses and logits against closed forms, their gradients against finite differences."""

import math

import pytest
import torch

from training import objective

INSIDE = torch.tensor([-30.0, -2.0, 0.0, 0.7, 4.0, 30.0], dtype=torch.float64)
GAP = torch.tensor([0.1, 3.0, 1.0, 0.0, 2.0, 0.5], dtype=torch.float64)


def softplus(x: float) -> float:
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 3.0])
@pytest.mark.parametrize(
    ("name", "margin"),
    [
        ("dpo", lambda gap, gamma: 0.0),
        ("fixed_margin", lambda gap, gamma: gamma),
        ("arenapo", lambda gap, gamma: gamma * gap),
    ],
)
def test_a_loss_is_minus_log_sigmoid_of_the_logit_less_its_margin(name, margin, gamma):
    loss, margins = objective.PREFERENCE[name](INSIDE, GAP, gamma)
    for i, (inside, gap) in enumerate(zip(INSIDE.tolist(), GAP.tolist(), strict=True)):
        assert margins[i].item() == pytest.approx(margin(gap, gamma))
        assert loss[i].item() == pytest.approx(softplus(margin(gap, gamma) - inside), rel=1e-12)


def test_arenapo_with_equal_gaps_of_one_is_the_fixed_margin_and_without_gamma_dpo():
    ones = torch.ones_like(GAP)
    arenapo, _ = objective.arenapo(INSIDE, ones, 1.7)
    fixed, _ = objective.fixed_margin(INSIDE, GAP, 1.7)
    torch.testing.assert_close(arenapo, fixed)
    torch.testing.assert_close(
        objective.arenapo(INSIDE, GAP, 0.0)[0], objective.dpo(INSIDE, GAP, 0.0)[0]
    )


@pytest.mark.parametrize("name", objective.PREFERENCE)
def test_the_gradient_in_every_error_matches_finite_differences(name):
    random = torch.Generator().manual_seed(0)
    errors = [torch.rand(5, generator=random, dtype=torch.float64) for _ in range(4)]
    gap = torch.rand(5, generator=random, dtype=torch.float64)
    trained = [e.requires_grad_() for e in errors[:2]]

    def loss(winner, loser):
        inside = objective.inside(winner, loser, *errors[2:], beta_dpo=6.0)
        return objective.PREFERENCE[name](inside, gap, 0.8)[0]

    assert torch.autograd.gradcheck(loss, trained)


def test_the_gradient_pushes_the_winner_by_half_beta_times_sigmoid():
    winner = torch.tensor([0.3], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, dtype=torch.float64)
    inside = objective.inside(winner, zero + 0.4, zero + 0.2, zero + 0.5, beta_dpo=10.0)
    assert inside.item() == pytest.approx(-5 * ((0.3 - 0.2) - (0.4 - 0.5)))
    objective.arenapo(inside, zero + 2.0, 0.5)[0].sum().backward()
    assert winner.grad is not None
    assert winner.grad.item() == pytest.approx(5 / (1 + math.exp(inside.item() - 1.0)))


def test_errors_are_means_within_a_sample_and_never_over_the_batch():
    output = torch.zeros(3, 4, 8, 8)
    target = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 4, 8, 8)
    torch.testing.assert_close(objective.sample_errors(output, target), torch.tensor([0.0, 1, 4]))


def test_accuracy_counts_an_undecided_pair_as_half():
    inside = torch.tensor([2.0, 0.0, -1.0])
    assert objective.implicit_accuracy(inside).tolist() == [1.0, 0.5, 0.0]

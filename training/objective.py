"""The objectives: what a pair costs, as pure functions of tensors.

Read beside Diffusion-DPO (arXiv 2311.12908, equation 14) and ArenaPO (arXiv 2605.06070). With the
per-sample mean squared errors L(x) = mean |target - model(x_t, t, c)|^2 of a pair's winner and
loser, which share t and noise, and the pair's gap g and probability p of its vote,

    inside             = -(beta_dpo / 2) * [ (L_theta(x_w) - L_ref(x_w))
                                           - (L_theta(x_l) - L_ref(x_l)) ]
    dpo                = -log sigmoid(inside)
    fixed_margin       = -log sigmoid(inside - gamma)
    arenapo            = -log sigmoid(inside - gamma g)
    arenapo_weighted   = -max(g, 0) log sigmoid(inside)
    arenapo_regression = (inside - gamma g)^2
    ipo                = (inside - 1/2)^2
    cdpo               = -p log sigmoid(inside) - (1 - p) log sigmoid(-inside)
    sdpo               = dpo, with the loser's gradient held back (`safeguard`)

Nothing is averaged over the batch before the log-sigmoid: every function returns one value a pair,
and beside it the margin that the pair is asked for, for watching. Where images, models or gaps come
from is not known here.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PairLoss = Callable[[Tensor, Tensor, Tensor, float], tuple[Tensor, Tensor]]
"""(inside, gap, probability, gamma) -> (loss, margin); every tensor is (n,)."""


def sample_errors(residual: Tensor) -> Tensor:
    """Mean square within each sample of output - target: (n, c, h, w) -> (n,), in fp32."""
    return residual.float().square().flatten(1).mean(dim=1)


def inside(
    winner: Tensor,
    loser: Tensor,
    reference_winner: Tensor,
    reference_loser: Tensor,
    beta_dpo: float,
) -> Tensor:
    """The DPO logit of each pair, from the policy's and the reference's sample errors, each (n,).

    It is positive where the policy has moved towards the winner more than towards the loser. The
    half is the authors' convention: beta_dpo 5000 here is 2500 in a script that leaves it out.
    """
    return -(beta_dpo / 2) * ((winner - reference_winner) - (loser - reference_loser))


def dpo(inside: Tensor, gap: Tensor, probability: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO: -log sigmoid(inside). Returns the loss and the margin (zero), each (n,)."""
    return -F.logsigmoid(inside), torch.zeros_like(gap)


def fixed_margin(
    inside: Tensor, gap: Tensor, probability: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """The ablation of ArenaPO: every pair is asked for the same margin gamma, in logits."""
    margin = torch.full_like(gap, gamma)
    return -F.logsigmoid(inside - margin), margin


def arenapo(
    inside: Tensor, gap: Tensor, probability: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """ArenaPO: a pair is asked for a margin in proportion to its capability gap.

    `gap` (n,) is divided by the mean of the training split and, with `margin_spread`, scaled about
    1, which may make it negative. Either way the mean margin is gamma logits and
    `fixed_margin` with the same gamma differs only in how the margin is spread over the pairs.
    """
    margin = gamma * gap
    return -F.logsigmoid(inside - margin), margin


def arenapo_weighted(
    inside: Tensor, gap: Tensor, probability: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO with the gap as the pair's weight; the mean weight is 1.

    A signed gap below zero says that the vote was a slip: such a pair weighs nothing.
    """
    return -gap.clamp(min=0) * F.logsigmoid(inside), torch.zeros_like(gap)


def arenapo_regression(
    inside: Tensor, gap: Tensor, probability: Tensor, gamma: float
) -> tuple[Tensor, Tensor]:
    """The implicit reward's difference regressed on the gap: its target is gamma logits a gap."""
    margin = gamma * gap
    return (inside - margin).square(), margin


def ipo(inside: Tensor, gap: Tensor, probability: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """IPO (arXiv 2310.12036, equation 17): (h - 1 / (2 tau))^2 with tau = beta_dpo, times tau^2.

    The factor puts it in logits, so learning rate and clipping mean what they mean elsewhere.
    """
    margin = torch.full_like(gap, 0.5)
    return (inside - margin).square(), margin


def cdpo(inside: Tensor, gap: Tensor, probability: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Conservative DPO (Mitchell, 2023): the label is soft, P(d > 0) of the two models' arena.

    `probability` (n,) is that of the outcome that was voted. The loss is least where the implicit
    reward agrees with it: inside = logit(probability), which is given as the margin.
    """
    loss = -probability * F.logsigmoid(inside) - (1 - probability) * F.logsigmoid(-inside)
    return loss, torch.logit(probability, eps=1e-6)


def safeguard(winner: Tensor, loser: Tensor, slack: float = 0.0) -> Tensor:
    """Diffusion-SDPO's factor (n,) for the loser's gradient, 0 to 1 (arXiv 2511.03317).

    `winner` and `loser` (n, ...) are the residuals output - target, to which the gradients of the
    two errors in the outputs are proportional. A step along -(winner - factor * loser) changes the
    winner's error by -<winner, winner - factor * loser> to first order, taking the two outputs to
    depend on the weights alike (the paper's approximation). The winner's error falls by at least
    `slack` (the paper's mu, 0 to 1) of what a step on the winner alone would take from it, for

        factor = min(1, (1 - slack) |winner|^2 / <winner, loser>)

    where <winner, loser> > 0, else 1.
    """
    winner, loser = (residual.detach().float().flatten(1) for residual in (winner, loser))
    aligned = (winner * loser).sum(dim=1)
    most = (1 - slack) * winner.square().sum(dim=1)
    return torch.where(aligned > most, most / aligned.clamp(min=1e-30), 1.0)


def scaled_gradient(value: Tensor, factor: Tensor) -> Tensor:
    """Return `value` unchanged, with its gradient multiplied by `factor`."""
    return factor * value + (1 - factor) * value.detach()


PREFERENCE: dict[str, PairLoss] = {
    "dpo": dpo,
    "fixed_margin": fixed_margin,
    "arenapo": arenapo,
    "arenapo_weighted": arenapo_weighted,
    "arenapo_regression": arenapo_regression,
    "ipo": ipo,
    "cdpo": cdpo,
    "sdpo": dpo,
}
"""Objectives over pairs. `sft` has none: its loss is `sample_errors` itself. `sdpo` is `dpo` over
an `inside` whose loser went through `safeguard` and `scaled_gradient`."""


def implicit_accuracy(inside: Tensor) -> Tensor:
    """1 where the implicit reward prefers the winner, 0 where the loser, 1/2 where neither: (n,).

    The half matters: a LoRA starts as the reference exactly, so every logit is 0 at step 0.
    """
    return (torch.sign(inside) + 1) / 2

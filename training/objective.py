"""The objectives: what a pair costs, as pure functions of tensors.

Read beside Diffusion-DPO (arXiv 2311.12908, equation 14) and ArenaPO (arXiv 2605.06070). With the
per-sample mean squared errors L(x) = mean |target - model(x_t, t, c)|^2 of a pair's winner and
loser, which share t and noise, the pair's gap g and the probability q of its vote,

    inside u           = -(beta_dpo / 2) * [ (L_theta(x_w) - L_ref(x_w))
                                           - (L_theta(x_l) - L_ref(x_l)) ],    p = sigmoid(u)
    dpo                = -log p
    fixed_margin       = -log sigmoid(u - gamma)
    arenapo            = -log sigmoid(u - gamma g)
    arenapo_weighted   = -max(g, 0) log p
    arenapo_regression = (u - gamma g)^2
    ipo                = (u - 1/2)^2
    cdpo               = -q log p - (1 - q) log(1 - p)
    sdpo               = dpo, with the loser's gradient held back (`safeguard`)
    dmpo               = p (log p - log(1 - a)) + (1 - p) (log(1 - p) - log a)
    poly_dpo           = -log p + a (1 - p)
    alpha_dpo          = (p^a - (1 - a) - a p) / (a (a - 1)),  a = 0.9999 the running mean of p
    hinge              = max(0, 1 - u)

Nothing is averaged over the batch before the log-sigmoid: every function returns one value a pair,
and beside it the margin that the pair is asked for, for watching. Where images, models or gaps come
from is not known here.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Asked:
    """What n pairs are asked for: gaps in means, the votes' probabilities, and constants."""

    gap: Tensor  # (n,)
    probability: Tensor  # (n,)
    gamma: float = 1.0
    alpha: float | Tensor = 0.01


PairLoss = Callable[[Tensor, Asked], tuple[Tensor, Tensor]]
"""(inside (n,), asked) -> (loss (n,), margin (n,))."""


def sample_errors(residual: Tensor) -> Tensor:
    """Mean square within each sample of output - target: (n, c, h, w) -> (n,), in fp32."""
    return residual.float().square().flatten(1).mean(dim=1)


def inside(
    winner: Tensor,
    loser: Tensor,
    reference_winner: Tensor,
    reference_loser: Tensor,
    beta_dpo: float | Tensor,
) -> Tensor:
    """The DPO logit of each pair, from the policy's and the reference's sample errors, each (n,).

    It is positive where the policy has moved towards the winner more than towards the loser. The
    half is the authors' convention: beta_dpo 5000 here is 2500 in a script that leaves it out.
    """
    return -(beta_dpo / 2) * ((winner - reference_winner) - (loser - reference_loser))


def dpo(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO (arXiv 2311.12908): -log sigmoid(inside). Returns loss and margin (n,)."""
    return -F.logsigmoid(inside), torch.zeros_like(inside)


def fixed_margin(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO in which every pair is asked for the same margin gamma, in logits."""
    margin = torch.full_like(inside, asked.gamma)
    return -F.logsigmoid(inside - margin), margin


def arenapo(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """ArenaPO (arXiv 2605.06070): a pair's margin is in proportion to its gap.

    `gap` (n,) is divided by the mean of the training split and, with `margin_spread`, scaled about
    1, which may make it negative. Either way the mean margin is gamma logits and
    `fixed_margin` with the same gamma differs only in how the margin is spread over the pairs.
    """
    margin = asked.gamma * asked.gap
    return -F.logsigmoid(inside - margin), margin


def arenapo_weighted(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO with the gap as the pair's weight; the mean weight is 1.

    A signed gap below zero says that the vote was a slip: such a pair weighs nothing.
    """
    return -asked.gap.clamp(min=0) * F.logsigmoid(inside), torch.zeros_like(inside)


def arenapo_regression(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """The implicit reward's difference regressed on the gap: its target is gamma logits a gap."""
    margin = asked.gamma * asked.gap
    return (inside - margin).square(), margin


def ipo(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """IPO (arXiv 2310.12036, equation 17): (h - 1 / (2 tau))^2 with tau = beta_dpo, times tau^2.

    The factor puts it in logits, so learning rate and clipping mean what they mean elsewhere.
    """
    margin = torch.full_like(inside, 0.5)
    return (inside - margin).square(), margin


def cdpo(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """Conservative DPO (Mitchell, 2023): the label is soft, P(d > 0) of the two models' arena.

    `probability` (n,) is that of the outcome that was voted. The loss is least where the implicit
    reward agrees with it: inside = logit(probability), which is given as the margin.
    """
    q = asked.probability
    loss = -q * F.logsigmoid(inside) - (1 - q) * F.logsigmoid(-inside)
    return loss, torch.logit(q, eps=1e-6)


def dmpo(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """DMPO (arXiv 2507.10510): the reverse divergence of p from a target of 1 - alpha.

    It is least, zero, at inside = logit(1 - alpha), which is given as the margin.
    """
    a = torch.as_tensor(asked.alpha, dtype=inside.dtype, device=inside.device)
    p, log_p, log_rest = inside.sigmoid(), F.logsigmoid(inside), F.logsigmoid(-inside)
    loss = p * (log_p - torch.log1p(-a)) + (1 - p) * (log_rest - a.log())
    return loss, torch.full_like(inside, 0) + torch.logit(1 - a)


def poly_dpo(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """Poly-DPO (arXiv 2604.24953): alpha > 0 for noisy votes, < 0 for trivial ones, 0 is dpo."""
    return -F.logsigmoid(inside) + asked.alpha * (-inside).sigmoid(), torch.zeros_like(inside)


def alpha_dpo(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """The alpha-divergence of p from 1; `alpha` follows the running mean of p (see `Learner`).

    alpha -> 0 is -log p - (1 - p); alpha -> 1 is p log p + 1 - p, which lets contradicted pairs go.
    """
    a, p = asked.alpha, inside.sigmoid()
    return (p**a - (1 - a) - a * p) / (a * (a - 1)), torch.zeros_like(inside)


def hinge(inside: Tensor, asked: Asked) -> tuple[Tensor, Tensor]:
    """SLiC's hinge (arXiv 2305.10425; for diffusion 2510.18353): nothing once inside passes 1."""
    return F.relu(1 - inside), torch.ones_like(inside)


def safeguard(
    winner: Tensor, loser: Tensor, slack: float = 0.0, *, jointly: bool = False
) -> Tensor:
    """Diffusion-SDPO's factor (n,) for the loser's gradient, 0 to 1 (arXiv 2511.03317).

    `winner` and `loser` (n, ...) are the residuals output - target, to which the gradients of the
    two errors in the outputs are proportional. A step along -(winner - factor * loser) changes the
    winner's error by -<winner, winner - factor * loser> to first order, taking the two outputs to
    depend on the weights alike (the paper's approximation). The winner's error falls by at least
    `slack` (the paper's mu, 0 to 1) of what a step on the winner alone would take from it, for

        factor = min(1, (1 - slack) |winner|^2 / <winner, loser>)

    where <winner, loser> > 0, else 1. `jointly` takes all n pairs as one vector, as the authors'
    code does with a micro-batch: one factor for all of them.
    """
    winner, loser = (residual.detach().float().flatten(1) for residual in (winner, loser))
    aligned = (winner * loser).sum(dim=1)
    most = (1 - slack) * winner.square().sum(dim=1)
    if jointly:
        aligned, most = (each.sum().expand(len(winner)) for each in (aligned, most))
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
    "dmpo": dmpo,
    "poly_dpo": poly_dpo,
    "alpha_dpo": alpha_dpo,
    "hinge": hinge,
}
"""Objectives over pairs. `sft` has none: its loss is `sample_errors` itself. `sdpo` is `dpo` over
an `inside` whose loser went through `safeguard` and `scaled_gradient`."""


def stated(name: str) -> str:
    """Return what an objective is and its source, in a few words: its docstring's first line."""
    whole = {"sft": "denoising error of the winners", "sdpo": "Diffusion-SDPO, arXiv 2511.03317"}
    doc = PREFERENCE[name].__doc__ if name in PREFERENCE else ""
    return whole.get(name) or (doc or "").partition("\n")[0].rstrip(".")


def implicit_accuracy(inside: Tensor) -> Tensor:
    """1 where the implicit reward prefers the winner, 0 where the loser, 1/2 where neither: (n,).

    The half matters: a LoRA starts as the reference exactly, so every logit is 0 at step 0.
    """
    return (torch.sign(inside) + 1) / 2


def beta_for_gradient(loss_of: PairLoss, asked: Asked, target: float) -> float:
    """Return the beta_dpo at which the mean |d loss / d (difference of errors)| is `target`.

    Where policy and reference agree inside is 0, so it is beta_dpo / 2 times the mean of
    |d loss / d inside| there, which the gaps and the objective decide.
    """
    inside = torch.zeros_like(asked.gap, requires_grad=True)
    (slope,) = torch.autograd.grad(loss_of(inside, asked)[0].sum(), inside)
    return 2 * target / slope.abs().mean().item()

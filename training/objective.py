"""The objectives: what a pair costs, as pure functions of tensors.

Read beside Diffusion-DPO (arXiv 2311.12908, equation 14) and ArenaPO (arXiv 2605.06070). With the
per-sample mean squared errors L(x) = mean |target - model(x_t, t, c)|^2 of a pair's winner and
loser, which share t and noise,

    inside  = -(beta_dpo / 2) * [ (L_theta(x_w) - L_ref(x_w)) - (L_theta(x_l) - L_ref(x_l)) ]
    dpo     = -log sigmoid(inside)
    arenapo = -log sigmoid(inside - gamma * g)

Nothing is averaged over the batch before the log-sigmoid: every function returns one value a pair.
Where images, models or gaps come from is not known here.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

PairLoss = Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]]


def sample_errors(output: Tensor, target: Tensor) -> Tensor:
    """Mean squared error within each sample: (n, c, h, w) twice -> (n,), in fp32."""
    return (output.float() - target.float()).square().flatten(1).mean(dim=1)


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


def dpo(inside: Tensor, gap: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """Diffusion-DPO: -log sigmoid(inside). Returns the loss and the margin (zero), each (n,)."""
    return -F.logsigmoid(inside), torch.zeros_like(gap)


def fixed_margin(inside: Tensor, gap: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """The ablation of ArenaPO: every pair is asked for the same margin gamma, in logits."""
    margin = torch.full_like(gap, gamma)
    return -F.logsigmoid(inside - margin), margin


def arenapo(inside: Tensor, gap: Tensor, gamma: float) -> tuple[Tensor, Tensor]:
    """ArenaPO: a pair is asked for a margin in proportion to its capability gap.

    `gap` (n,) is divided by the mean of the training split, so the mean margin is gamma logits and
    `fixed_margin` with the same gamma differs only in how the margin is spread over the pairs.
    """
    margin = gamma * gap
    return -F.logsigmoid(inside - margin), margin


PREFERENCE: dict[str, PairLoss] = {"dpo": dpo, "fixed_margin": fixed_margin, "arenapo": arenapo}
"""Objectives over (inside, gap, gamma). `sft` has no pair: its loss is `sample_errors` itself."""


def implicit_accuracy(inside: Tensor) -> Tensor:
    """1 where the implicit reward prefers the winner, 0 where the loser, 1/2 where neither: (n,).

    The half matters: a LoRA starts as the reference exactly, so every logit is 0 at step 0.
    """
    return (torch.sign(inside) + 1) / 2

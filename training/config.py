"""What a policy's training depends on: typed, checked, and without torch.

`PolicyConfig` is one `[[policy]]` merged over `[train]`, a frozen dataclass in which every field
says what it does, its default and where that default comes from; `checked` holds keys of a file to
the fields of such a class. Which file they come from is `study_file.py`'s.
"""

import dataclasses
import math
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from training import TrainingError

ObjectiveName = Literal[
    "sft",
    "dpo",
    "fixed_margin",
    "arenapo",
    "arenapo_weighted",
    "arenapo_regression",
    "ipo",
    "cdpo",
    "sdpo",
]
# Objectives whose loss does not look at the gap: only other pairs change them.
WITHOUT_GAPS = frozenset({"sft", "dpo", "fixed_margin", "ipo"})
Adaptation = Literal["lora", "full"]
Precision = Literal["fp32", "bf16", "fp16"]
Optimizer = Literal["adamw", "adamw_8bit"]
Schedule = Literal["constant", "linear", "cosine"]
GapEstimator = Literal["pairwise", "joint", "capability"]


class ConfigError(TrainingError):
    """What a person wrote in the study or on the command line cannot be used, and why."""


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """Everything that shapes the weights of one policy; two equal ones give equal weights."""

    name: str
    objective: ObjectiveName
    """`sft` (denoising error of the winners), `dpo` (Diffusion-DPO, arXiv 2311.12908),
    `fixed_margin` (the same margin for every pair), `arenapo` (arXiv 2605.06070), and the others
    of objective.py, each stated there with its formula and source."""

    base: str
    """Pipeline to start from: a folder in diffusers' layout, or a name on the hub."""
    resolution: int = field(default=512, metadata={"least": 8})
    """Pixels a side; images are scaled by their shorter side and cropped in the middle."""

    adaptation: Adaptation = "lora"
    """`lora` trains low-rank additions (arXiv 2106.09685); `full` trains every weight."""
    rank: int = field(default=16, metadata={"least": 1})
    """Rank of the additions; their scale alpha equals it, so the learning rate keeps its meaning
    when the rank changes."""
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Layers that get additions, by the end of their names: the attention projections, as in
    diffusers' own Diffusion-DPO LoRA script."""

    steps: int = field(default=2000, metadata={"least": 1})
    """Optimiser's steps (2000 in Diffusion-DPO)."""
    batch_size: int = field(default=32, metadata={"least": 1})
    """Pairs a step, all parts together (2048 in Diffusion-DPO, on 16 GPUs)."""
    accumulation: int = field(default=1, metadata={"least": 1})
    """Parts in which a batch goes through the model one after the other, to save memory. It divides
    batch_size and leaves the step the same: time and noise are drawn for the whole batch."""
    learning_rate: float = field(default=1e-5, metadata={"above": 0})
    """AdamW's, at the end of the warm-up. Diffusion-DPO: 1e-8 times its batch, so 2.05e-5."""
    schedule: Schedule = "constant"
    """After the warm-up: `constant` (as Diffusion-DPO), or falling to 0 at the last step, `linear`
    or by half a `cosine`."""
    warmup_steps: int = field(default=0, metadata={"least": 0})
    """Steps over which the learning rate rises linearly (500 in Diffusion-DPO)."""
    weight_decay: float = field(default=0.01, metadata={"least": 0})
    """AdamW's decoupled decay (arXiv 1711.05101), 0.01 as in the Diffusion-DPO script."""
    optimizer: Optimizer = "adamw"
    """`adamw_8bit` keeps the moments in 8 bits (bitsandbytes): 2 bytes a weight instead of 8."""
    max_grad_norm: float = field(default=1.0, metadata={"above": 0})
    """The gradient is scaled down to this norm when it is longer (1.0 in Diffusion-DPO)."""

    beta_dpo: float = field(default=5000.0, metadata={"above": 0})
    """Temperature of the implicit reward; it multiplies HALF the difference of per-sample mean
    errors, as in the Diffusion-DPO authors' code (5000 there; 2000 to 5000 in use)."""
    gamma: float = field(default=1.0, metadata={"least": 0})
    """Weight of the margin: the mean margin in logits, because gaps are divided by their mean."""
    safeguard_slack: float = field(default=0.0, metadata={"least": 0, "below": 1})
    """`sdpo` alone, its paper's mu: by what share of a step on the winner alone the winner's error
    must fall (0: it must not rise; 0.9 for SD 1.5, 0.6 for SDXL in that paper's scripts)."""
    gap_estimator: GapEstimator = "pairwise"
    """Whose gap: `pairwise`, of the two models and the outcome (arXiv 2605.06070), `joint`, from
    every vote that the two images got, or `capability`, the difference of the two models' mu. Where
    it is not set, [gap] estimator is."""
    margin_spread: float = field(default=0.0, metadata={"least": 0})
    """Above 0: gaps keep their order and their mean and get this standard deviation, in units of
    the mean gap, so margins of different gaps are alike in size and differ in what they know. A
    pair whose gap falls below zero is asked for less than nothing, and so counts for little."""
    shuffle_gaps: bool = False
    """Control: every training pair gets the gap and probability of another one. The other control,
    equal gaps, is `fixed_margin`."""
    mirror: bool = False
    """Every other time that a pair has its turn, both of its images are mirrored, left to right:
    more to learn from where votes are few, at the price of letters. Twice the latents are kept."""
    crops: int = field(default=1, metadata={"least": 1})
    """n: a pair's turns show n crops of its images one after the other, the middle one first, the
    others at places drawn along the longer side by the image's content; SDXL is told where. n times
    the latents are kept. Square images have one crop alone, so it is for others."""
    drop_prompts: float = field(default=0.0, metadata={"least": 0, "below": 1})
    """Share of turns at which a pair is shown with the empty prompt, so that what guidance pushes
    away from is trained too (0.2 in the scripts of Diffusion-DPO and Diffusion-SDPO)."""
    reference_draws: int = field(default=0, metadata={"least": 0})
    """0: every step draws new times and noises. n: a pair's times and noises come from n fixed
    ones, and the reference's errors at these are computed once for all policies of a study."""

    precision: Precision = "fp32"
    """`bf16` and `fp16` compute in that type under autocast, the latter with a scaled loss, and
    hold frozen weights in it; trained weights stay in fp32."""
    gradient_checkpointing: bool = False
    """Computes activations again in the backward pass: about a third slower, far less memory."""
    compile: bool = False
    """torch.compile the denoiser, on a GPU: minutes before the first step, faster ones after."""
    shard: bool = False
    """Share the weights out over the processes (FSDP), all but a LoRA's, for a denoiser that does
    not fit one card: each holds its part and gathers a block's weights while that block computes.
    It leaves the step the same, and does nothing with one process."""
    ema_decay: float = field(default=0.0, metadata={"least": 0, "below": 1})
    """Above 0, the policy that is validated and saved is the weights' running mean with this decay
    (0.9999 is usual for long runs), which starts at 0.1 and rises to it as (1 + n) / (10 + n)."""
    seed: int = field(default=0, metadata={"least": 0})
    """Fixes the order of the pairs, time, noise and the additions' first values."""
    checkpoint_every: int = field(default=200, metadata={"least": 1})
    log_every: int = field(default=10, metadata={"least": 1})
    validate_every: int = field(default=0, metadata={"least": 0})
    """Steps between validations on held-out pairs (0: at the end alone)."""
    patience: int = field(default=0, metadata={"least": 0})
    """Stop after this many validations in a row without a new least held-out loss (0: never)."""
    sample_every: int = field(default=0, metadata={"least": 0})
    """Steps between images of a few held-out prompts, in DIR/samples (0: none)."""

    def __post_init__(self) -> None:
        if self.batch_size % self.accumulation:
            raise ConfigError(
                f"train.accumulation = {self.accumulation} does not divide "
                f"train.batch_size = {self.batch_size}"
            )
        if self.patience and not self.validate_every:
            raise ConfigError("train.patience counts validations: set train.validate_every too")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the training job finds its pairs and images, and where it keeps encoded ones."""

    pairs: Path
    """Training pairs (training/pairs.py); built from the votes where the file is absent."""
    images: Path | None
    """Parquet with columns image and bytes; None where pairs hold paths of image files."""
    cache: Path
    held_out: float
    """Share of prompts whose pairs validate and never train."""
    split_seed: int


def checked(
    where: str, values: dict[str, Any], fields: dict[str, dataclasses.Field[Any]]
) -> dict[str, Any]:
    """Return `values` with each one checked against its field's type and bounds."""
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {unknown[0]!r}; allowed: {', '.join(sorted(fields))}"
        )
    return {key: _typed(f"{where}: {key}", value, fields[key]) for key, value in values.items()}


def _typed(where: str, value: Any, field: dataclasses.Field[Any]) -> Any:
    """Return `value` in its field's type, or say what the key needs."""
    kind: Any = field.type
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ConfigError(f"{where} = {value!r}: needs one of {', '.join(get_args(kind))}")
        return value
    if isinstance(kind, types.GenericAlias):
        if not (isinstance(value, list) and value and all(isinstance(v, str) for v in value)):
            raise ConfigError(f"{where} = {value!r}: needs a list of names")
        return tuple(value)
    if kind is bool:
        if not isinstance(value, bool):
            raise ConfigError(f"{where} = {value!r}: needs true or false")
        return value
    accepted = (int, float) if kind is float else (kind,)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise ConfigError(f"{where} = {value!r}: needs {_KINDS[kind]}")
    if kind is str:
        return value
    least, above = field.metadata.get("least", -math.inf), field.metadata.get("above", -math.inf)
    below = field.metadata.get("below", math.inf)
    if not (math.isfinite(value) and value >= least and above < value < below):
        bound = f"above {above}" if "above" in field.metadata else f"{least} or more"
        bound += f", below {below}" if "below" in field.metadata else ""
        raise ConfigError(f"{where} = {value!r}: needs {_KINDS[kind]}, {bound}")
    return kind(value)


_KINDS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text in quotes"}

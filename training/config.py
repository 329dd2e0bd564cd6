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
    "sft", "dpo", "fixed_margin", "arenapo", "arenapo_weighted", "arenapo_regression", "ipo",
    "cdpo", "sdpo", "dmpo", "poly_dpo", "alpha_dpo", "hinge",
]  # fmt: skip
# Objectives whose loss does not look at the gap; see `PolicyConfig.reads_gap`.
WITHOUT_GAPS = frozenset(
    {"sft", "dpo", "fixed_margin", "ipo", "sdpo", "dmpo", "poly_dpo", "alpha_dpo", "hinge"}
)
# These may change between the parts of one run: they do not change what a step does, but for
# rounding. `base` and `revision` say where the base lies; what it is, is in its digest. Of `steps`
# more may be taken where the learning rate does not fall to the last one.
FREE = frozenset(
    {"steps", "checkpoint_every", "log_every", "sample_every", "validate_every", "patience"}
    | {"compile", "attention", "shard", "pairs_at_once", "gradient_checkpointing", "trackers"}
    | {"base", "revision", "offload_encoders", "exact_sums"}
)
Adaptation = Literal["lora", "full"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Optimizer = Literal["adamw", "adamw_8bit", "adafactor", "prodigy"]
Quantization = Literal["none", "nf4"]
SoftLabel = Literal["arena", "counts"]
Safeguard = Literal["pair", "part"]
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
    revision: str = ""
    """Branch, tag or commit of a name on the hub; empty: its main branch."""
    adapter: str = ""
    """A LoRA to start from, a folder or a .safetensors file in diffusers' or kohya's layout: it is
    fused into the base, so into policy and reference alike."""
    resolution: int = field(default=512, metadata={"least": 8})
    """Pixels a side; images are scaled by their shorter side and cropped in the middle."""
    buckets: bool = False
    """Keep aspect ratios: each pair is shown in the one of 11 shapes of about resolution^2 pixels
    that is nearest to its two images (diffusers' `generate_aspect_ratio_buckets`)."""

    adaptation: Adaptation = "lora"
    """`lora` trains low-rank additions (arXiv 2106.09685); `full` trains every weight."""
    rank: int = field(default=16, metadata={"least": 1})
    """Rank of the additions."""
    lora_alpha: float = field(default=0.0, metadata={"least": 0})
    """Scale of the additions times rank; 0: equal to the rank, so that the learning rate keeps its
    meaning when the rank changes."""
    lora_dropout: float = field(default=0.0, metadata={"least": 0, "below": 1})
    """Share of an addition's inputs that a training step drops."""
    dora: bool = False
    """Weight-decomposed additions (arXiv 2402.09353): a trained magnitude for each output."""
    targets: tuple[str, ...] = ()
    """Layers that get additions, by the end of their names; none: the family's attention
    projections, as in diffusers' own Diffusion-DPO LoRA script."""
    quantization: Quantization = "none"
    """`nf4` holds the frozen weights under a LoRA in 4 bits (arXiv 2305.14314, bitsandbytes)."""

    steps: int = field(default=2000, metadata={"least": 1})
    """Optimiser's steps (2000 in Diffusion-DPO)."""
    batch_size: int = field(default=32, metadata={"least": 1})
    """Pairs a step, of all processes together (2048 in Diffusion-DPO, on 16 GPUs)."""
    pairs_at_once: int = field(default=32, metadata={"least": 1})
    """Pairs that go through the model at once in each process; gradients are accumulated over the
    rest. It changes memory and not the step: time and noise are drawn for the whole batch."""
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
    """`adamw_8bit` keeps the moments in 8 bits (bitsandbytes): 2 bytes a weight instead of 8.
    `adafactor` (arXiv 1804.04235) keeps rows' and columns' sums; `prodigy` (arXiv 2306.06101,
    prodigyopt) finds its rate itself: give it learning_rate = 1."""
    exact_sums: bool = False
    """Take pairs one at a time and sum their gradients as whole numbers, so that on a CPU neither
    pairs_at_once nor the number of processes changes a bit (slower: docs/guide/training.md)."""
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
    safeguard: Safeguard = "pair"
    """`sdpo` alone: one factor for each `pair`, or one for each `part` of pairs_at_once pairs, as
    that paper's code has it (the step then depends on pairs_at_once)."""
    alpha: float = field(default=0.01, metadata={"above": -10, "below": 10})
    """`dmpo`: the share of the reverse target given to the loser; `poly_dpo`: the weight of the
    added term (above 0 for noisy votes, below for trivial ones)."""
    soft_label: SoftLabel = "arena"
    """`cdpo`: the `arena`'s probability of the vote under gap_estimator, or the one of its raters'
    `counts`, (n + 1/2) / (N + 1) for n of N who chose the winner."""
    gap_power: float = field(default=0.0, metadata={"least": 0})
    """Above 0: a pair's beta_dpo is multiplied by its gap, in means, to this power (arXiv
    2605.09433)."""
    beta_gradient: float = field(default=0.0, metadata={"least": 0})
    """Above 0: beta_dpo is not what is stated, but what makes the mean of |d loss / d (difference
    of errors)| this at the start, where policy and reference agree."""
    reference_decay: float = field(default=0.0, metadata={"least": 0, "below": 1})
    """Above 0: the reference follows the policy by this running mean (arXiv 2605.21123)."""
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
    """At every turn of a pair, mirror each of its two images left to right with probability 1/2,
    as the scripts of Diffusion-DPO and Diffusion-SDPO do. Twice the latents are kept."""
    crops: int = field(default=1, metadata={"least": 1})
    """n: a pair's turns show n crops of its images one after the other, the middle one first, the
    others at places drawn along the longer side by the image's content; SDXL is told where. n times
    the latents are kept. A square image has one crop only."""
    drop_prompts: float = field(default=0.0, metadata={"least": 0, "below": 1})
    """Share of turns at which a pair is shown with the empty prompt, so that what guidance pushes
    away from is trained too (0.2 in the scripts of Diffusion-DPO and Diffusion-SDPO)."""
    reference_draws: int = field(default=0, metadata={"least": 0})
    """0: every step draws new times and noises. n: a pair's times and noises come from n fixed
    ones, and the reference's errors at these are computed once for all policies of a study."""

    precision: Precision = "fp32"
    """`bf16` and `fp16` compute in that type under autocast, the latter with a scaled loss, and
    hold frozen weights in it; trained weights stay in fp32. `tf32` is fp32 whose products a GPU
    rounds to 10 bits."""
    offload_encoders: bool = False
    """Keep text encoders in main memory and bring each layer to the GPU when it computes."""
    gradient_checkpointing: bool = False
    """Computes activations again in the backward pass: about a third slower, far less memory."""
    compile: bool = False
    """torch.compile the denoiser's repeated blocks, on a GPU: a wait before the first step, faster
    ones after."""
    attention: str = ""
    """One of diffusers' attention backends, such as "flash" or "_native_cudnn"; empty: torch's."""
    trackers: tuple[str, ...] = ()
    """Where metrics go beside metrics.jsonl and MLflow: "tensorboard", "wandb" (accelerate's)."""
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
    """Stop after this many validations in a row without a new least held-out loss (0: never). The
    policy is then the one of the least held-out loss, not the last one."""
    sample_every: int = field(default=0, metadata={"least": 0})
    """Steps between images of a few held-out prompts, in DIR/samples (0: none)."""

    def __post_init__(self) -> None:
        if self.patience and not self.validate_every:
            raise ConfigError("train.patience counts validations: set train.validate_every too")
        if self.reference_decay and self.reference_draws:
            raise ConfigError(
                "train.reference_decay moves the reference, so its errors cannot be known "
                "beforehand: set train.reference_draws = 0"
            )
        if self.exact_sums and (self.lora_dropout or self.shard or self.precision == "fp16"):
            raise ConfigError(
                "train.exact_sums = true does not go with train.lora_dropout, whose masks are of "
                'each process, nor with train.shard or train.precision = "fp16": give one of them '
                "up"
            )
        if self.quantization != "none" and self.adaptation == "full":
            raise ConfigError(
                f'train.quantization = "{self.quantization}" is of frozen weights: set '
                'train.adaptation = "lora"'
            )
        if self.objective == "dmpo" and not 0 < self.alpha < 1:
            raise ConfigError(f"train.alpha = {self.alpha:g}: dmpo needs a share above 0, below 1")

    @property
    def reads_gap(self) -> bool:
        """Whether the weights depend on the pairs' gaps and probabilities."""
        if self.objective == "sft":
            return False
        return self.objective not in WITHOUT_GAPS or self.gap_power > 0


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a study draws its images, [generation]; samples of a run are drawn so too."""

    steps: int = field(default=50, metadata={"least": 1})
    guidance: float = field(default=7.5, metadata={"least": 0})
    seed: int = field(default=0, metadata={"least": 0})


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
    generation: Generation = Generation()


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

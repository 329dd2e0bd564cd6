"""What a run works with, made before its first step: checked, encoded, and handed out by step."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from training.checkpoint import RunFolder
from training.config import DataConfig, PolicyConfig
from training.encoding import Source
from training.families import Family, open_family
from training.families.adapter import adapter_file
from training.families.folder import file_digest
from training.inputs import Inputs
from training.learner import Batch, Learner
from training.machine import refuse_on_cpu, refuse_what_cannot_be_shared, require_libraries
from training.model import DTYPES
from training.objective import PREFERENCE, beta_for_gradient
from training.order import rows_of_step, rows_used, step_generator, turns_of
from training.pairs import Pairs, TrainingSet
from training.processes import Processes
from training.reference import ReferenceErrors
from training.samples import IMAGES, Sampler, write_images
from training.sharding import kept_here
from training.store import Say
from training.views import views_of
from training.watching import HELD_OUT_DRAWS, HELD_OUT_SEED, Validation, held_out_rows


@dataclass
class Job:
    """What a run works with, made before its first step."""

    config: PolicyConfig
    data: DataConfig
    run: RunFolder
    family: Family
    processes: Processes
    inputs: Inputs
    source: Pairs
    validation: Validation
    origin: dict[str, Any]
    identity: dict[str, Any]
    sampler: Sampler | None
    known: ReferenceErrors | None = None

    def rows(self, step: int) -> np.ndarray:
        """Rows (batch_size,) of the whole batch of a step."""
        return rows_of_step(self.config.seed, step, self.config.batch_size, len(self.source))

    def images_digest(self, count: int) -> str | None:
        """Digest of the images of the first `count` pairs that the run shows, if it shows them."""
        used = _used(self.config, self.source)
        return self.inputs.images_digest(self.source, used[:count]) if count <= len(used) else None

    def set_up(self, learner: Learner, say: Say) -> None:
        """Do what the policy must not have learnt for: the reference's errors, beta_dpo."""
        config, data = self.config, self.data
        if learner.model.shared:
            mine, every = kept_here(learner.model.policy.parameters())
            say(f"{mine:,} of {every:,} weights are kept by this process, the others by the others")
        if config.beta_gradient and (loss_of := PREFERENCE.get(config.objective)):
            both = (self.source.gap, self.source.probability)
            asked = learner.asked(*(torch.from_numpy(each).to(learner.device) for each in both))
            learner.beta_dpo = beta_for_gradient(loss_of, asked, config.beta_gradient)
            say(f"beta_dpo is {learner.beta_dpo:.4g}")
        if not config.reference_draws and config.objective != "sft":
            return
        decided_by = [self.origin[key] for key in ("base model", "adapter", "pairs content")]
        decided_by += [config.resolution, config.buckets, config.precision, config.quantization]
        place = (data.cache, [*decided_by, config.mirror, config.crops])
        if config.objective != "sft":
            self.known = ReferenceErrors(
                *place, self.source, self.inputs,
                draws=config.reference_draws, views=len(views_of(config)), seed=config.seed,
            )  # fmt: skip
            positions = np.arange(config.steps * config.batch_size)
            rows = np.concatenate([self.rows(step) for step in range(config.steps)])
            turns = turns_of(config, self.source.vote_id[rows], positions // len(self.source))
            self.known.compute(learner, rows, turns, say)
        held_out = self.validation.pairs
        if len(held_out):
            errors = ReferenceErrors(
                *place, held_out, self.inputs, draws=HELD_OUT_DRAWS, views=1, seed=HELD_OUT_SEED
            )
            errors.compute(learner, *self.validation.all_turns(), say)
            self.validation.errors = errors

    def fetch(self, step: int) -> list[Batch]:
        """Return this process's share of a step's batch, in parts."""
        config, inputs, source = self.config, self.inputs, self.source
        share, size = self.processes.share(config.batch_size), config.batch_size
        rows = self.rows(step)
        times = np.arange(step * size, (step + 1) * size) // len(source)
        turns = turns_of(config, source.vote_id[rows[share]], times[share])
        known = None
        if config.reference_draws:
            draws = inputs.fixed_draws(source, rows[share], turns.draw, config.seed)
            known = self.known.at(rows[share], turns) if self.known else None
        else:
            generator = step_generator(config.seed, step, self.processes.device)
            noise, drawn = inputs.new_draws(source, rows, generator)
            draws = (noise[share], drawn[share])
        parts = inputs.parts(source, rows[share], draws, turns, known)
        return [part for _, part in parts]

    def sample(self, learner: Learner, step: int, say: Say) -> None:
        """Draw and write sample images; what goes wrong with them is said and stops nothing."""
        assert self.sampler is not None
        try:
            with learner.model.averaged():
                images = self.sampler.draw(learner.model.policy)
            if self.processes.rank == 0:
                write_images(images, self.run.folder / "samples", step)
        except Exception as error:
            if learner.model.shared:
                raise  # the other processes would wait for this one's weights for ever
            first = (str(error).splitlines() or [""])[0]
            say(f"no samples at step {step}: {type(error).__name__}: {first}")


def prepare(
    config: PolicyConfig,
    data: DataConfig,
    pairs: TrainingSet,
    run: RunFolder,
    processes: Processes,
    say: Say,
) -> Job:
    """Check what can be checked, encode what is not cached, each process its share."""
    refuse_on_cpu(config, processes.device.type)
    refuse_what_cannot_be_shared(config, processes)
    require_libraries(config)
    family = open_family(
        config.base, revision=config.revision or None, memo=data.cache / "digests" / "files"
    )
    family.check_resolution(config.resolution)
    train, held_out = pairs.train, pairs.held_out
    if config.soft_label == "counts":
        train, held_out = train.labelled_by_counts(), held_out.labelled_by_counts()
    if config.objective == "cdpo":
        train.require_probabilities()
        held_out.require_probabilities()
    if spread := config.margin_spread:
        train, held_out = (each.spread_gaps(spread, like=train) for each in (train, held_out))
    if config.objective == "sft":
        train = train.unique_winners()
    if config.shuffle_gaps:
        train = train.shuffled_gaps(config.seed)
    half = DTYPES[config.precision] != torch.float32
    source = Source(
        *(family, data.images, data.cache, processes, say),
        latent_dtype=torch.float16 if half else torch.float32,
        text_dtype=DTYPES[config.precision],  # a language model's may be too large for fp16
        offload=config.offload_encoders,
    )
    used = _used(config, train)
    shown = [(train, used), (held_out, held_out_rows(held_out))]
    inputs = Inputs(config, source, pairs.images, pairs.prompts, shown)
    origin = {
        "pairs": pairs.digest,
        "pairs content": pairs.content,
        "images": {"pairs": len(used), "digest": inputs.images_digest(train, used)},
        "base model": family.digest(*family.components),
        "adapter": file_digest(adapter_file(config.adapter), None) if config.adapter else "",
    }
    identity = {"policy": dataclasses.asdict(config), **origin}
    sampler = None
    if config.sample_every and (processes.rank == 0 or config.shard):
        drawn, rows = shown[1] if len(held_out) else shown[0]
        prompts = list(dict.fromkeys(drawn.prompt[rows].tolist()))[:IMAGES]
        texts, unprompted = inputs.texts(pairs.prompts[i] for i in prompts), inputs.texts([None])
        shape = (config.resolution, config.resolution)
        sampler = Sampler(family, texts, unprompted, data.generation, shape)
    return Job(config, data, run, family, processes, inputs, train, Validation(held_out, inputs),
               origin, identity, sampler)  # fmt: skip


def _used(config: PolicyConfig, train: Pairs) -> np.ndarray:
    return rows_used(config.seed, config.steps, config.batch_size, len(train))

"""A plain, slow trainer to hold ours to: everything encoded online, a second denoiser resident.

It is written from the formulas and from diffusers' own pipelines, one pair and one image at a time.
"""

import io
import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from training.loop import train
from training.order import rows_of_step, step_generator
from training.pairs import open_pairs
from training.study_file import data_config, policy_config, read_study

CPU = torch.device("cpu")


class SlowTrainer:
    """Diffusion-DPO as public scripts write it, from this page's formulas alone; SD 1.5 and 2."""

    pipeline = "StableDiffusionPipeline"
    channels, side = 4, 8

    def __init__(self, base: Path, images: Path, config) -> None:
        import diffusers

        self.config = config
        self.pipe = getattr(diffusers, self.pipeline).from_pretrained(base)
        reference = getattr(diffusers, self.pipeline).from_pretrained(base)
        self.vae = self.pipe.vae
        self.policy, self.reference = self.denoiser(self.pipe), self.denoiser(reference)
        self.policy.train(False)
        self.reference.requires_grad_(False)
        if config.adaptation == "lora":
            from peft import LoraConfig

            torch.manual_seed(config.seed)
            self.policy.requires_grad_(False)
            layers, rank = list(config.targets), config.rank
            self.policy.add_adapter(
                LoraConfig(
                    r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=layers
                )
            )
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.abar = torch.cumprod(1 - betas, 0).float().view(-1, 1, 1, 1)
        self.velocity = self.pipe.scheduler.config.get("prediction_type") == "v_prediction"
        self.trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1.0, weight_decay=config.weight_decay)
        table = pq.read_table(images).to_pylist()
        self.content = {row["image"]: row["bytes"] for row in table}
        self.held_back: list[float] = []  # sdpo's factors
        self.preference = 0.5  # alpha_dpo's running mean of sigmoid(inside)

    def latent(self, image: str) -> torch.Tensor:
        from PIL import Image

        picture = Image.open(io.BytesIO(self.content[image])).convert("RGB")
        pixels = torch.from_numpy(np.array(picture, dtype=np.float32) / 127.5 - 1)
        with torch.no_grad():
            return self.encode(pixels.permute(2, 0, 1)[None])

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        shift = getattr(self.vae.config, "shift_factor", None) or 0
        return (self.vae.encode(pixels).latent_dist.mean - shift) * self.vae.config.scaling_factor

    def denoiser(self, pipe):
        return pipe.unet

    def text(self, prompt: str) -> tuple[torch.Tensor, ...]:
        tokens = self.pipe.tokenizer(prompt, padding="max_length", return_tensors="pt")
        with torch.no_grad():
            return (self.pipe.text_encoder(tokens.input_ids)[0],)

    def times(self, n: int, random: torch.Generator) -> torch.Tensor:
        return torch.randint(0, 1000, (n,), generator=random)

    def residual(self, unet, image: str, prompt: str, noise, t) -> torch.Tensor:
        x = self.latent(image)
        a, b = self.abar[t].sqrt(), (1 - self.abar[t]).sqrt()
        target = a * noise - b * x if self.velocity else noise
        return self.call(unet, a * x + b * noise, t, *self.text(prompt)) - target

    def call(self, unet, noisy, t, hidden) -> torch.Tensor:
        return unet(noisy, t, hidden).sample

    def pair_loss(self, inside: torch.Tensor, pair: dict) -> torch.Tensor:
        g, p, gamma = pair["g"], pair["probability"], self.config.gamma
        q, a, m = torch.sigmoid(inside), self.config.alpha, 0.9999 * self.preference
        return {
            "dpo": lambda: -F.logsigmoid(inside),
            "sdpo": lambda: -F.logsigmoid(inside),
            "fixed_margin": lambda: -F.logsigmoid(inside - gamma),
            "arenapo": lambda: -F.logsigmoid(inside - gamma * g),
            "arenapo_weighted": lambda: -g * F.logsigmoid(inside),
            "arenapo_regression": lambda: (inside - gamma * g) ** 2,
            "ipo": lambda: (inside - 0.5) ** 2,
            "cdpo": lambda: -p * F.logsigmoid(inside) - (1 - p) * F.logsigmoid(-inside),
            "hinge": lambda: torch.clamp(1 - inside, min=0),
            "poly_dpo": lambda: -q.log() + a * (1 - q),
            "dmpo": lambda: q * (q / (1 - a)).log() + (1 - q) * ((1 - q) / a).log(),
            "alpha_dpo": lambda: (q**m - (1 - m) - m * q) / (m * (m - 1)),
        }[self.config.objective]()

    def step(self, step: int, pairs: list[dict]) -> float:
        config, random = self.config, step_generator(self.config.seed, step, CPU)
        shape = (len(pairs), self.channels, self.side, self.side)
        noise = torch.randn(shape, generator=random)
        t = self.times(len(pairs), random)
        loss, preferences = torch.zeros(()), []
        for i, pair in enumerate(pairs):

            def residual(unet, side, i=i, pair=pair):
                at = noise[i : i + 1], t[i : i + 1]
                return self.residual(unet, pair[side], pair["prompt"], *at)

            winner = residual(self.policy, "image_winner")
            if config.objective == "sft":
                loss = loss + winner.square().mean() / len(pairs)
                continue
            loser = residual(self.policy, "image_loser")
            if config.objective == "sdpo":
                # The loser's gradient in the space of outputs is held back, and nothing else.
                along, square = (winner * loser).sum().item(), winner.square().sum().item()
                factor = min(1.0, square / along) if along > 0 else 1.0
                self.held_back.append(factor)
                loser.register_hook(lambda gradient, factor=factor: factor * gradient)
            before = [residual(self.reference, f"image_{side}") for side in ("winner", "loser")]
            winner_error, loser_error, *reference = (
                each.square().mean() for each in (winner, loser, *before)
            )
            change = (winner_error - reference[0]) - (loser_error - reference[1])
            inside = -0.5 * config.beta_dpo * change
            preferences.append(torch.sigmoid(inside).item())
            loss = loss + self.pair_loss(inside, pair) / len(pairs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / config.warmup_steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if preferences:
            self.preference += 0.01 * (np.mean(preferences) - self.preference)
        return loss.item()

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Stand where a checkpoint of ours stands: the weights and the optimiser's moments."""
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                if parameter.requires_grad and f"optimizer.step.{name}" in state:
                    parameter.copy_(state[f"weights.{name}"])
                    self.optimizer.state[parameter] = {
                        key: state[f"optimizer.{key}.{name}"].clone()
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }


class SlowXL(SlowTrainer):
    pipeline = "StableDiffusionXLPipeline"

    def text(self, prompt):
        with torch.no_grad():
            hidden, _, pooled, _ = self.pipe.encode_prompt(
                prompt, do_classifier_free_guidance=False
            )
        return hidden, pooled

    def call(self, unet, noisy, t, hidden, pooled):
        ids = torch.tensor([[32.0, 32, 0, 0, 32, 32]])
        conditions = {"text_embeds": pooled, "time_ids": ids}
        return unet(noisy, t, hidden, added_cond_kwargs=conditions).sample


class SlowSD3(SlowTrainer):
    pipeline = "StableDiffusion3Pipeline"
    channels = 16

    def denoiser(self, pipe):
        return pipe.transformer

    def text(self, prompt):
        with torch.no_grad():
            hidden, _, pooled, _ = self.pipe.encode_prompt(
                prompt, prompt, prompt, do_classifier_free_guidance=False
            )
        return hidden, pooled

    def times(self, n, random):
        u = torch.sigmoid(torch.randn(n, generator=random))
        return 3 * u / (1 + 2 * u)  # the scheduler's shift

    def residual(self, transformer, image, prompt, noise, t):
        x, sigma = self.latent(image), t.view(-1, 1, 1, 1)
        output = self.call(transformer, (1 - sigma) * x + sigma * noise, t, *self.text(prompt))
        return output - (noise - x)

    def call(self, transformer, noisy, t, hidden, pooled):
        return transformer(noisy, hidden, pooled, 1000 * t).sample


class SlowFlux(SlowSD3):
    pipeline = "FluxPipeline"

    def text(self, prompt):
        with torch.no_grad():
            hidden, pooled, ids = self.pipe.encode_prompt(prompt)
        return hidden, pooled, ids

    def times(self, n, random):
        u = torch.sigmoid(torch.randn(n, generator=random))
        mu = 0.5 + (1.15 - 0.5) * (16 - 256) / (4096 - 256)  # 16 patches of 2 x 2
        return 1 / (1 + (1 / u - 1) / np.exp(mu))  # as FlowMatchEuler's exponential shift

    def call(self, transformer, noisy, t, hidden, pooled, text_ids):
        packed = self.pipe._pack_latents(noisy, 1, 16, 8, 8)
        ids = self.pipe._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32)
        output = transformer(
            hidden_states=packed, timestep=t, guidance=torch.tensor([3.5]),
            pooled_projections=pooled, encoder_hidden_states=hidden,
            txt_ids=text_ids, img_ids=ids,
        ).sample  # fmt: skip
        return self.pipe._unpack_latents(output, 32, 32, 4)


class SlowChroma(SlowFlux):
    pipeline = "ChromaPipeline"

    def text(self, prompt):
        with torch.no_grad():
            hidden, ids, mask, *_ = self.pipe.encode_prompt(
                prompt, do_classifier_free_guidance=False
            )
        return hidden, ids, mask

    def times(self, n, random):
        return torch.sigmoid(torch.randn(n, generator=random))

    def call(self, transformer, noisy, t, hidden, text_ids, mask):
        packed = self.pipe._pack_latents(noisy, 1, 16, 8, 8)
        output = transformer(
            hidden_states=packed, timestep=t, encoder_hidden_states=hidden, txt_ids=text_ids,
            img_ids=self.pipe._prepare_latent_image_ids(1, 4, 4, "cpu", torch.float32),
            attention_mask=self.pipe._prepare_attention_mask(1, 16, torch.float32, mask),
        ).sample  # fmt: skip
        return self.pipe._unpack_latents(output, 32, 32, 4)


class SlowFlux2(SlowSD3):
    pipeline = "Flux2Pipeline"
    guidance = torch.tensor([4.0])

    def encode(self, pixels):
        x = self.pipe._patchify_latents(self.vae.encode(pixels).latent_dist.mode())
        mean = self.vae.bn.running_mean.view(1, -1, 1, 1)
        return (x - mean) / torch.sqrt(self.vae.bn.running_var.view(1, -1, 1, 1) + 1e-4)

    def text(self, prompt):
        with torch.no_grad():
            return self.pipe.encode_prompt(prompt)

    def times(self, n, random):
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        u = torch.sigmoid(torch.randn(n, generator=random))
        return 1 / (1 + (1 / u - 1) / np.exp(compute_empirical_mu(64, 50)))

    def call(self, transformer, noisy, t, hidden, text_ids):
        ids = self.pipe._prepare_latent_ids(noisy)
        output = transformer(
            hidden_states=self.pipe._pack_latents(noisy), timestep=t, guidance=self.guidance,
            encoder_hidden_states=hidden, txt_ids=text_ids, img_ids=ids,
        ).sample  # fmt: skip
        return self.pipe._unpack_latents_with_ids(output, ids)


class SlowKlein(SlowFlux2):
    pipeline = "Flux2KleinPipeline"
    guidance = None


class SlowQwen(SlowSD3):
    pipeline = "QwenImagePipeline"
    channels = 4

    def encode(self, pixels):
        mode = self.vae.encode(pixels[:, :, None]).latent_dist.mode()[:, :, 0]
        mean = torch.tensor([0.1, -0.2, 0.3, 0.0]).view(1, 4, 1, 1)
        return (mode - mean) / torch.tensor([1.5, 0.8, 1.2, 1.0]).view(1, 4, 1, 1)

    def text(self, prompt):
        with torch.no_grad():
            return self.pipe.encode_prompt(prompt)

    def times(self, n, random):
        u = torch.sigmoid(torch.randn(n, generator=random))
        mu = 0.5 + (0.9 - 0.5) * (16 - 256) / (8192 - 256)
        return 1 / (1 + (1 / u - 1) / np.exp(mu))

    def call(self, transformer, noisy, t, hidden, mask):
        output = transformer(
            hidden_states=self.pipe._pack_latents(noisy, 1, 4, 8, 8), timestep=t,
            encoder_hidden_states=hidden, encoder_hidden_states_mask=mask,
            img_shapes=[[(1, 4, 4)]],
        ).sample  # fmt: skip
        return self.pipe._unpack_latents(output, 32, 32, 4)[:, :, 0]


class SlowZImage(SlowSD3):
    pipeline = "ZImagePipeline"

    def text(self, prompt):
        with torch.no_grad():
            return (self.pipe.encode_prompt([prompt], do_classifier_free_guidance=False)[0][0],)

    def call(self, transformer, noisy, t, hidden):
        (image,) = transformer([noisy[0][:, None]], (1000 - 1000 * t) / 1000, [hidden]).sample
        return -image[None, :, 0]


class SlowSana(SlowSD3):
    pipeline = "SanaPipeline"
    channels, side = 4, 16

    def encode(self, pixels):
        return self.vae.encode(pixels).latent * 0.5

    def text(self, prompt):
        import inspect

        told = inspect.signature(type(self.pipe).__call__).parameters["complex_human_instruction"]
        with torch.no_grad():
            hidden, mask, *_ = self.pipe.encode_prompt(
                prompt, do_classifier_free_guidance=False, complex_human_instruction=told.default
            )
        return hidden, mask

    def call(self, transformer, noisy, t, hidden, mask):
        return transformer(
            noisy, encoder_hidden_states=hidden, encoder_attention_mask=mask, timestep=1000 * t
        ).sample


class SlowLumina(SlowSD3):
    pipeline = "Lumina2Pipeline"

    def text(self, prompt):
        with torch.no_grad():
            return self.pipe.encode_prompt(prompt, do_classifier_free_guidance=False)[:2]

    def times(self, n, random):
        u = torch.sigmoid(torch.randn(n, generator=random))
        return 6 * u / (1 + 5 * u)

    def call(self, transformer, noisy, t, hidden, mask):
        return -transformer(noisy, 1 - t, hidden, mask).sample


def training_pairs(toy) -> list[dict]:
    """The toy's training pairs, each with `g`, its gap over the mean gap."""
    pairs = [p for p in pq.read_table(toy.pairs).to_pylist() if p["split"] == "train"]
    mean_gap = np.mean([pair["gap"] for pair in pairs])
    return [pair | {"g": pair["gap"] / mean_gap} for pair in pairs]


def assert_steps_equal(slow_kind, base, toy, folder, objective, **changes) -> None:
    """Take three steps of ours and hold each to a plain one from the same state."""
    from safetensors.torch import load_file

    # AdamW's step is nearly lr * sign(gradient): where a gradient is all rounding it turns a
    # difference of 1e-9 into one of lr, which grows from step to step. So every step of the plain
    # trainer starts from our checkpoint, and loss, gradient and update of that step are compared.
    # beta_dpo / 2 multiplies the rounding of errors near 1, which is 1e-7: at 8 it leaves 4e-7.
    changes = {"batch_size": 2, **changes, "log_every": 1, "checkpoint_every": 1}
    changes["beta_dpo"] = 8.0
    changes["targets"] = ["to_q", "to_k", "to_v", "to_out.0"]
    study = toy.write_study(folder / "study.toml", base, **changes)
    slow = slow_kind(base, toy.images, policy_config(study, objective))
    pairs, before = training_pairs(toy), None
    for step in range(2):
        config = policy_config(study, objective, [f"train.steps={step + 1}"])
        out, data = folder / "out", data_config(read_study(study))
        with patch("training.watching.HELD_OUT_PAIRS", 1):  # they are not what is compared
            train(config, data, open_pairs(toy.pairs), out, resume=True)
        if before:
            slow.load(before)
        start = {n: p.detach().clone() for n, p in slow.policy.named_parameters()}
        rows = rows_of_step(config.seed, step, config.batch_size, len(pairs))
        loss = slow.step(step, [pairs[row] for row in rows])
        logged = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
        assert logged["loss"] == pytest.approx(loss, rel=1e-5)
        after = load_file(out / "checkpoints" / f"step-{step + 1:08d}.safetensors")
        moved, apart, gradient, gradient_apart = [], [], [], []
        for name, parameter in slow.policy.named_parameters():
            if parameter.requires_grad:
                moved.append((parameter - start[name]).flatten())
                apart.append((after[f"weights.{name}"] - parameter).flatten())
                if parameter not in slow.optimizer.state:  # what the last block leaves unused
                    assert f"optimizer.exp_avg.{name}" not in after
                    continue
                old = before[f"optimizer.exp_avg.{name}"] if before else 0.0
                moment = slow.optimizer.state[parameter]["exp_avg"]
                gradient.append(10 * (moment - 0.9 * old).flatten())
                gradient_apart.append(10 * (after[f"optimizer.exp_avg.{name}"] - moment).flatten())
        # The gradient is read off the first moment, which costs digits: 0.00003 to 0.00016 seen.
        assert torch.cat(gradient_apart).norm() < 5e-4 * torch.cat(gradient).norm()
        # Which few gradients are all rounding differs between processors: 0.0005 to 0.003 seen.
        assert torch.cat(apart).norm() < 1e-2 * torch.cat(moved).norm()
        assert torch.cat(moved).norm() > 0
        before = after
    if objective == "sdpo":  # else it was dpo that was compared
        assert min(slow.held_back) < 0.995

"""Our step equals a plain, slow one: images and prompts encoded online, a second UNet resident."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from training.batches import rows_of_step, step_generator
from training.config import data_config, policy_config, read_study
from training.loop import train
from training.pairs import open_pairs

CPU = torch.device("cpu")


class SlowTrainer:
    """Diffusion-DPO as public scripts write it, from this page's formulas alone."""

    def __init__(self, base: Path, images: Path, config) -> None:
        from diffusers import AutoencoderKL, UNet2DConditionModel
        from transformers import CLIPTextModel, CLIPTokenizer

        self.config = config
        self.vae = AutoencoderKL.from_pretrained(base / "vae")
        self.tokenizer = CLIPTokenizer.from_pretrained(base / "tokenizer")
        self.text_encoder = CLIPTextModel.from_pretrained(base / "text_encoder")
        self.policy = UNet2DConditionModel.from_pretrained(base / "unet")
        self.reference = UNet2DConditionModel.from_pretrained(base / "unet").requires_grad_(False)
        if config.adaptation == "lora":
            from peft import LoraConfig

            torch.manual_seed(config.seed)
            self.policy.requires_grad_(False)
            layers = ["to_q", "to_k", "to_v", "to_out.0"]
            rank = config.rank
            self.policy.add_adapter(
                LoraConfig(
                    r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=layers
                )
            )
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        self.abar = torch.cumprod(1 - betas, 0).float().view(-1, 1, 1, 1)
        self.velocity = "v_prediction" in (base / "scheduler/scheduler_config.json").read_text()
        self.trained = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=1.0, weight_decay=config.weight_decay)
        table = pq.read_table(images).to_pylist()
        self.content = {row["image"]: row["bytes"] for row in table}

    def latent(self, image: str) -> torch.Tensor:
        from PIL import Image

        picture = Image.open(io.BytesIO(self.content[image])).convert("RGB")
        pixels = torch.from_numpy(np.array(picture, dtype=np.float32) / 127.5 - 1)
        with torch.no_grad():
            posterior = self.vae.encode(pixels.permute(2, 0, 1)[None]).latent_dist
        return posterior.mean * self.vae.config.scaling_factor

    def text(self, prompt: str) -> torch.Tensor:
        tokens = self.tokenizer(prompt, padding="max_length", truncation=True, return_tensors="pt")
        with torch.no_grad():
            return self.text_encoder(tokens.input_ids)[0]

    def error(self, unet, image: str, prompt: str, noise, t) -> torch.Tensor:
        x = self.latent(image)
        a, b = self.abar[t].sqrt(), (1 - self.abar[t]).sqrt()
        target = a * noise - b * x if self.velocity else noise
        return F.mse_loss(unet(a * x + b * noise, t, self.text(prompt)).sample, target)

    def pair_loss(self, inside: torch.Tensor, pair: dict) -> torch.Tensor:
        g, p, gamma = pair["g"], pair["probability"], self.config.gamma
        return {
            "dpo": lambda: -F.logsigmoid(inside),
            "fixed_margin": lambda: -F.logsigmoid(inside - gamma),
            "arenapo": lambda: -F.logsigmoid(inside - gamma * g),
            "arenapo_weighted": lambda: -g * F.logsigmoid(inside),
            "arenapo_regression": lambda: (inside - gamma * g) ** 2,
            "ipo": lambda: (inside - 0.5) ** 2,
            "cdpo": lambda: -p * F.logsigmoid(inside) - (1 - p) * F.logsigmoid(-inside),
        }[self.config.objective]()

    def step(self, step: int, pairs: list[dict]) -> float:
        config, random = self.config, step_generator(self.config.seed, step, CPU)
        noise = torch.randn(len(pairs), 4, 8, 8, generator=random)
        t = torch.randint(0, 1000, (len(pairs),), generator=random)
        loss = torch.zeros(())
        for i, pair in enumerate(pairs):

            def error(unet, side, i=i, pair=pair):
                return self.error(unet, pair[side], pair["prompt"], noise[i : i + 1], t[i : i + 1])

            if config.objective == "sft":
                loss = loss + error(self.policy, "image_winner") / len(pairs)
                continue
            winner = error(self.policy, "image_winner") - error(self.reference, "image_winner")
            loser = error(self.policy, "image_loser") - error(self.reference, "image_loser")
            inside = -0.5 * config.beta_dpo * (winner - loser)
            loss = loss + self.pair_loss(inside, pair) / len(pairs)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.trained, config.max_grad_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / config.warmup_steps)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()

    def load(self, state: dict[str, torch.Tensor]) -> None:
        """Stand where a checkpoint of ours stands: the weights and the optimiser's moments."""
        with torch.no_grad():
            for name, parameter in self.policy.named_parameters():
                if parameter.requires_grad:
                    parameter.copy_(state[f"weights.{name}"])
                    self.optimizer.state[parameter] = {
                        key: state[f"optimizer.{key}.{name}"].clone()
                        for key in ("step", "exp_avg", "exp_avg_sq")
                    }


def training_pairs(toy) -> list[dict]:
    """The toy's training pairs, each with `g`, its gap over the mean gap."""
    pairs = [p for p in pq.read_table(toy.pairs).to_pylist() if p["split"] == "train"]
    mean_gap = np.mean([pair["gap"] for pair in pairs])
    return [pair | {"g": pair["gap"] / mean_gap} for pair in pairs]


@pytest.mark.parametrize(
    ("objective", "adaptation", "velocity"),
    [
        ("arenapo", "lora", False),
        ("arenapo", "full", True),
        ("dpo", "lora", True),
        ("fixed_margin", "full", False),
        ("sft", "lora", False),
        ("arenapo_weighted", "lora", False),
        ("arenapo_regression", "lora", True),
        ("ipo", "full", False),
        ("cdpo", "lora", False),
    ],
)
def test_steps_equal_the_plain_slow_ones(
    objective, adaptation, velocity, toy, tiny_pipeline, tiny_velocity_pipeline, tmp_path
):
    from safetensors.torch import load_file

    # AdamW's step is nearly lr * sign(gradient): where a gradient is all rounding it turns a
    # difference of 1e-9 into one of lr, which grows from step to step. So every step of the plain
    # trainer starts from our checkpoint, and loss, gradient and update of that step are compared.
    # beta_dpo / 2 multiplies the rounding of errors near 1, which is 1e-7: at 8 it leaves 4e-7.
    base = tiny_velocity_pipeline if velocity else tiny_pipeline
    changes = {"adaptation": adaptation, "batch_size": 2, "log_every": 1, "checkpoint_every": 1}
    changes["beta_dpo"] = 8.0
    study = toy.write_study(tmp_path / "study.toml", base, **changes)
    slow = SlowTrainer(base, toy.images, policy_config(study, objective))
    pairs, before = training_pairs(toy), None
    for step in range(3):
        config = policy_config(study, objective, [f"train.steps={step + 1}"])
        out, data = tmp_path / "out", data_config(read_study(study))
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
                old = before[f"optimizer.exp_avg.{name}"] if before else 0.0
                moment = slow.optimizer.state[parameter]["exp_avg"]
                gradient.append(10 * (moment - 0.9 * old).flatten())
                gradient_apart.append(10 * (after[f"optimizer.exp_avg.{name}"] - moment).flatten())
        assert torch.cat(gradient_apart).norm() < 1e-5 * torch.cat(gradient).norm()
        assert torch.cat(apart).norm() < 2e-3 * torch.cat(moved).norm()
        assert torch.cat(moved).abs().max() > 1e-4
        before = after


def test_accumulation_changes_memory_and_not_the_step(toy, tiny_pipeline, tmp_path):
    from safetensors.torch import load_file

    weights = []
    for parts in (1, 2):
        study = toy.write_study(tmp_path / f"{parts}.toml", tiny_pipeline, accumulation=parts)
        train(
            policy_config(study, "arenapo"),
            data_config(read_study(study)),
            open_pairs(toy.pairs),
            tmp_path / str(parts),
        )
        path = tmp_path / str(parts) / "policy" / "pytorch_lora_weights.safetensors"
        weights.append(load_file(path))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-5)


def test_every_pair_is_seen_once_an_epoch_in_a_new_order():
    steps = [rows_of_step(seed=1, step=s, batch_size=4, n=10) for s in range(5)]
    order = np.concatenate(steps)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10].tolist() != order[10:].tolist()
    assert rows_of_step(1, 0, 25, 10).tolist()[:20] == order.tolist()

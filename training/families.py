"""Model families: what the loop needs to know of a diffusers pipeline, part by part.

A family is told from the pipeline's `model_index.json`. It loads each component only when asked, so
a job whose latents and prompt embeddings are cached never reads the VAE or the text encoder. Here
is Stable Diffusion 1.x and 2.x: a UNet that predicts noise or velocity (arXiv 2202.00512) under a
discrete schedule. What is done with the errors is `objective.py`'s, and when, `loop.py`'s.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training import TrainingError
from training.config import PolicyConfig

ADAPTER_FILE = "pytorch_lora_weights.safetensors"


class ModelError(TrainingError):
    """The base model is missing, broken, or of a family that is not supported."""


def open_family(base: str) -> "StableDiffusion":
    """Return the family of the pipeline at `base`, a folder or a name on the hub.

    Raises ModelError when there is no pipeline or its class is not among FAMILIES.
    """
    folder = Path(base)
    if not folder.is_dir():
        if folder.is_absolute():
            raise ModelError(f"model.base: there is no folder {base}")
        folder = _download(base)
    index = folder / "model_index.json"
    try:
        pipeline = json.loads(index.read_text()).get("_class_name")
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"model.base: {folder} is not a diffusers pipeline: {error}") from error
    if pipeline not in FAMILIES:
        known = ", ".join(FAMILIES)
        raise ModelError(f"model.base: {folder} is a {pipeline}; supported: {known}")
    return FAMILIES[pipeline](folder)


class StableDiffusion:
    """Stable Diffusion 1.x and 2.x, noise (`epsilon`) and velocity (`v_prediction`) models."""

    def __init__(self, folder: Path) -> None:
        from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

        self.folder = folder
        self._digests: dict[str, str] = {}
        config = _config(folder / "scheduler" / "scheduler_config.json")
        # The training process (forward diffusion) is DDPM's whatever sampler the pipeline names.
        keys = "num_train_timesteps beta_start beta_end beta_schedule trained_betas prediction_type"
        self.schedule = DDPMScheduler(**{k: config[k] for k in keys.split() if k in config})
        self.prediction_type = self.schedule.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ModelError(
                f"model.base: {folder} predicts {self.prediction_type!r}; "
                "supported: epsilon, v_prediction"
            )
        unet = _config(folder / "unet" / "config.json")
        if unet["in_channels"] != unet["out_channels"]:
            raise ModelError(
                f"model.base: the UNet of {folder} takes {unet['in_channels']} channels and gives "
                f"{unet['out_channels']} (an inpainting model?); only text to image is supported"
            )

    @property
    def timesteps(self) -> int:
        """Number of steps of the forward diffusion; t is drawn from 0 to this minus 1."""
        return self.schedule.config.num_train_timesteps

    def digest(self, *components: str) -> str:
        """SHA-256 over the files of some components: equal exactly where these are equal."""
        for component in components:
            if component not in self._digests:
                files = [f"{path.name} {_sha256(path)}" for path in _files(self.folder / component)]
                self._digests[component] = "\n".join([component, *files])
        text = "\n".join(self._digests[component] for component in components)
        return hashlib.sha256(text.encode()).hexdigest()

    def image_encoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Load the VAE; return pixels (n, 3, h, w) in [-1, 1] -> scaled latents (n, c, h/f, w/f).

        A latent is the posterior's mean, not a sample: the posterior's spread is far below the
        noise of every timestep that matters, a mean can be computed once and named by its image,
        and no two runs disagree on it.
        """
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        vae = _loaded(AutoencoderKL, self.folder / "vae").to(device).eval()

        @torch.no_grad()
        def encode(pixels: Tensor) -> Tensor:
            return vae.encode(pixels.to(device)).latent_dist.mean * vae.config.scaling_factor

        return encode

    def prompt_encoder(self, device: torch.device) -> Callable[[Sequence[str]], Tensor]:
        """Load tokenizer and text encoder; return n prompts -> hidden states (n, length, width)."""
        from transformers import CLIPTextModel, CLIPTokenizer
        from transformers.utils import logging

        logging.disable_progress_bar()
        tokenizer = CLIPTokenizer.from_pretrained(self.folder / "tokenizer")
        encoder = _loaded(CLIPTextModel, self.folder / "text_encoder").to(device).eval()

        @torch.no_grad()
        def encode(prompts: Sequence[str]) -> Tensor:
            tokens = tokenizer(
                list(prompts), padding="max_length", truncation=True, return_tensors="pt"
            )
            return encoder(tokens.input_ids.to(device)).last_hidden_state

        return encode

    def denoiser(self, device: torch.device) -> Any:
        """Load the UNet, frozen, in fp32, channels last: the layout convolutions compute in."""
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        unet = _loaded(UNet2DConditionModel, self.folder / "unet")
        return unet.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)

    def predict(self, denoiser: Any, noisy: Tensor, timesteps: Tensor, prompts: Tensor) -> Tensor:
        """Return the denoiser's output (n, c, h, w) for noisy latents (n, c, h, w) at t (n,)."""
        noisy = noisy.contiguous(memory_format=torch.channels_last)
        return denoiser(noisy, timesteps, prompts, return_dict=False)[0]

    def noisy(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (DDPM, arXiv 2006.11239, equation 4)."""
        return self.schedule.add_noise(latents, noise, timesteps)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should give: eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0."""
        if self.prediction_type == "epsilon":
            return noise
        return self.schedule.get_velocity(latents, noise, timesteps)

    def add_adapter(self, denoiser: Any, config: PolicyConfig) -> list[Any]:
        """Put a trainable LoRA of the configured rank on the target layers; return those layers.

        They are what is switched off for the reference: `denoiser.disable_adapters()` would search
        every module for them twice a step.
        """
        from peft import LoraConfig
        from peft.tuners.tuners_utils import BaseTunerLayer

        adapter = LoraConfig(
            r=config.rank,
            lora_alpha=config.rank,
            init_lora_weights="gaussian",
            target_modules=list(config.targets),
        )
        try:
            denoiser.add_adapter(adapter)
        except ValueError as error:
            raise ModelError(f"train.targets: no such layer in {self.folder}: {error}") from error
        return [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]

    def save_adapter(self, denoiser: Any, folder: Path) -> None:
        """Write the LoRA as `StableDiffusionPipeline.load_lora_weights(folder)` reads it."""
        from diffusers.loaders.lora_pipeline import StableDiffusionLoraLoaderMixin
        from diffusers.utils import convert_state_dict_to_diffusers
        from peft.utils import get_peft_model_state_dict

        layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(denoiser))
        StableDiffusionLoraLoaderMixin.save_lora_weights(
            folder, unet_lora_layers=layers, weight_name=ADAPTER_FILE
        )

    def save_pipeline(self, denoiser: Any, folder: Path) -> None:
        """Write a whole pipeline: the trained UNet beside copies of the base's other parts."""
        folder.mkdir(parents=True, exist_ok=True)
        index = json.loads((self.folder / "model_index.json").read_text())
        for name in index:
            if name != "unet" and (self.folder / name).is_dir():
                (folder / name).mkdir()
                for path in _files(self.folder / name):
                    shutil.copyfile(path, folder / name / path.name)
        shutil.copyfile(self.folder / "model_index.json", folder / "model_index.json")
        denoiser.to(memory_format=torch.contiguous_format).save_pretrained(folder / "unet")


FAMILIES: dict[str, type[StableDiffusion]] = {"StableDiffusionPipeline": StableDiffusion}
"""By `_class_name` of model_index.json."""


def _loaded(kind: Any, folder: Path) -> Any:
    """`kind.from_pretrained(folder)` in fp32, its failures as one sentence."""
    try:
        return kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"model.base: {folder} does not load as {kind.__name__}: {error}"
        ) from error


def _config(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"model.base: {path} cannot be read: {error}") from error


def _files(folder: Path) -> list[Path]:
    """Configuration, vocabulary and safetensors of a component, without fp16 or other variants."""
    kept = (".json", ".txt", ".model", ".safetensors")
    files = [path for path in sorted(folder.glob("*")) if path.suffix in kept]
    return [path for path in files if not (path.suffix == kept[-1] and path.stem.count(".") == 1)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(name: str) -> Path:
    """Fetch a pipeline's configuration and safetensors from the hub (or its local cache)."""
    from huggingface_hub import snapshot_download

    try:
        patterns = ["*.json", "*/*.json", "*/*.txt", "*/*.model", "*/*.safetensors"]
        return Path(
            snapshot_download(name, allow_patterns=patterns, ignore_patterns=["*.fp16.*", "*ema*"])
        )
    except Exception as error:
        raise ModelError(
            f"model.base: {name!r} is neither a folder here nor to be had from the hub: "
            f"{type(error).__name__}"
        ) from error

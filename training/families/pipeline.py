"""What all families share: the parts of a pipeline on disk, the VAE, the LoRA, and saving.

Each component is loaded only when asked, so a job whose latents and prompt embeddings are cached
never reads the VAE or a text encoder.
"""

import hashlib
import json
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from training import TrainingError
from training.config import PolicyConfig

ADAPTER_FILE = "pytorch_lora_weights.safetensors"

Texts = tuple[Tensor, ...]
"""Embeddings of n prompts: hidden states (n, length, width) and, where the family has them, the
pooled ones (n, width)."""


class ModelError(TrainingError):
    """The base model is missing, broken, or of a family that is not supported."""


class Family(ABC):
    """A pipeline in diffusers' layout, as the trainer sees it.

    A family names its parts and gives the forward process and the denoiser's call; times `t` (n,)
    are its own (whole steps of a discrete schedule, or sigma in (0, 1) of a flow), and nothing
    outside a family reads them.
    """

    pipeline: ClassVar[str]
    """Name of diffusers' pipeline class."""
    trained: ClassVar[str]
    """The component that is trained: `unet` or `transformer`."""
    texts: ClassVar[tuple[str, ...]]
    """Tokenizers and text encoders, which decide the prompt embeddings."""
    embeddings: ClassVar[tuple[str, ...]] = ("hidden", "pooled")
    """Names of the tensors in `Texts`."""

    guided: ClassVar[bool] = True
    """Whether it samples with classifier-free guidance, so against the text of no prompt."""
    guidance: ClassVar[float] = 5.0
    """The guidance's scale where images are sampled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, str] = {}
        vae = config_of(folder / "vae")
        self.latent_channels: int = vae["latent_channels"]
        self.downscale: int = 2 ** (len(vae["block_out_channels"]) - 1)
        """Pixels a side of one latent cell."""
        self.patch = 1
        """Latent cells a side of one token of the denoiser."""

    @abstractmethod
    def draw_times(
        self, shape: tuple[int, ...], generator: torch.Generator, device: torch.device
    ) -> Tensor:
        """Draw the times (n,) of latents `shape` (n, c, h, w), as this family is trained."""

    @abstractmethod
    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return x_t (n, c, h, w) of latents and noise of that shape."""

    @abstractmethod
    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Return what the denoiser should give for x_t: noise or velocity (n, c, h, w)."""

    @abstractmethod
    def denoiser_class(self) -> Any:
        """Return diffusers' class of the component that is trained."""

    @abstractmethod
    def text_shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of one prompt's embeddings."""

    @abstractmethod
    def predict(
        self,
        denoiser: Any,
        noisy: Tensor,
        times: Tensor,
        texts: Texts,
        corners: Tensor | None = None,
    ) -> Tensor:
        """Return the denoiser's output (n, c, h, w) for noisy latents (n, c, h, w) at t (n,).

        `corners` (n, 2) are the crops' top and left in pixels, for a family that is told of them.
        """

    @abstractmethod
    def prompt_encoder(self, device: torch.device) -> Callable[[Sequence[str]], Texts]:
        """Load tokenizers and text encoders; return n prompts -> their embeddings."""

    def digest(self, *components: str) -> str:
        """SHA-256 over the files of some components: equal exactly where these are equal."""
        for component in components:
            if component not in self._digests:
                paths = files_of(self.folder / component)
                files = [f"{path.name} {_sha256(path)}" for path in paths]
                self._digests[component] = "\n".join([component, *files])
        text = "\n".join(self._digests[component] for component in components)
        return hashlib.sha256(text.encode()).hexdigest()

    def denoiser(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Any:
        """Load the component that is trained, frozen."""
        model = loaded(self.denoiser_class(), self.folder / self.trained, dtype)
        return model.to(device, memory_format=self.layout(device)).eval().requires_grad_(False)

    def layout(self, device: torch.device) -> torch.memory_format:
        """Return the layout of the denoiser's weights and of what it is given."""
        return torch.contiguous_format

    def empty_denoiser(self, dtype: torch.dtype) -> Any:
        """Return the denoiser without values, on the `meta` device: its shapes alone, frozen."""
        kind = self.denoiser_class()
        with torch.device("meta"):
            model = kind.from_config(kind.load_config(self.folder / self.trained))
        return torch.nn.Module.to(model, dtype).eval().requires_grad_(False)

    def check_resolution(self, resolution: int) -> None:
        """Raise ModelError unless the model can draw images of this many pixels a side."""
        if resolution % (self.downscale * self.patch):
            raise ModelError(
                f"model.resolution = {resolution}: {self.folder} needs a multiple of "
                f"{self.downscale * self.patch}"
            )

    @property
    def components(self) -> tuple[str, ...]:
        """All that makes the base model what it is."""
        return (self.trained, "vae", "scheduler", *self.texts)

    def image_encoder(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Load the VAE; return pixels (n, 3, h, w) in [-1, 1] -> scaled latents (n, c, h/f, w/f).

        A latent is the posterior's mean, not a sample: the posterior's spread is far below the
        noise of every timestep that matters, a mean can be computed once and named by its image,
        and no two runs disagree on it. It is computed in fp32, in which no VAE overflows.
        """
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        vae = loaded(AutoencoderKL, self.folder / "vae").to(device).eval()
        shift = getattr(vae.config, "shift_factor", None) or 0.0

        @torch.no_grad()
        def encode(pixels: Tensor) -> Tensor:
            mean = vae.encode(pixels.to(device)).latent_dist.mean
            return (mean - shift) * vae.config.scaling_factor

        return encode

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
        """Write the LoRA as the pipeline's `load_lora_weights(folder)` reads it.

        A UNet's is also written to kohya/, in the key layout of ComfyUI and A1111; ComfyUI reads
        the transformers' (SD3, FLUX) as diffusers writes them.
        """
        import diffusers
        from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
        from peft.utils import get_peft_model_state_dict
        from safetensors.torch import save_file

        layers = {k: v.float() for k, v in get_peft_model_state_dict(denoiser).items()}
        # Of a transformer, diffusers loads PEFT's own names alone and skips others without a word.
        named = convert_state_dict_to_diffusers(dict(layers)) if self.trained == "unet" else layers
        getattr(diffusers, self.pipeline).save_lora_weights(
            folder, **{f"{self.trained}_lora_layers": named}, weight_name=ADAPTER_FILE
        )
        if self.trained == "unet":
            (folder / "kohya").mkdir()
            named = convert_state_dict_to_kohya({f"unet.{k}": v for k, v in layers.items()})
            save_file(
                {k: v.contiguous() for k, v in named.items()}, folder / "kohya/lora.safetensors"
            )

    def save_pipeline(self, denoiser: Any, folder: Path) -> None:
        """Write a whole pipeline: the trained part beside copies of the base's other ones."""
        folder.mkdir(parents=True, exist_ok=True)
        index = json.loads((self.folder / "model_index.json").read_text())
        for name in index:
            if name != self.trained and (self.folder / name).is_dir():
                (folder / name).mkdir()
                for path in files_of(self.folder / name):
                    shutil.copyfile(path, folder / name / path.name)
        shutil.copyfile(self.folder / "model_index.json", folder / "model_index.json")
        denoiser.to(memory_format=torch.contiguous_format).save_pretrained(folder / self.trained)


def loaded(kind: Any, folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    """`kind.from_pretrained(folder)` in `dtype`, its failures as one sentence."""
    try:
        return kind.from_pretrained(folder, torch_dtype=dtype, local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"model.base: {folder} does not load as {kind.__name__}: {error}"
        ) from error


def config_of(folder: Path, name: str = "config.json") -> dict[str, Any]:
    """Read a component's configuration."""
    path = folder / name
    try:
        return json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise ModelError(f"model.base: {path} cannot be read: {error}") from error


def files_of(folder: Path) -> list[Path]:
    """Configuration, vocabulary and safetensors of a component, without fp16 or other variants."""
    kept = (".json", ".txt", ".model", ".safetensors")
    files = [path for path in sorted(folder.glob("*")) if path.suffix in kept]
    return [path for path in files if not (path.suffix == kept[-1] and path.stem.count(".") == 1)]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

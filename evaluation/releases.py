"""Public checkpoints of preference-tuned models, by name, so that they can be compared with.

A table of where each lies and in which form it was published; how a form is loaded is told in
`policies`. The forms differ because the authors did: a whole pipeline, its denoiser alone, that
denoiser's bare state dict, or a LoRA.
"""

from dataclasses import dataclass
from typing import Literal

Form = Literal["pipeline", "denoiser", "state", "lora"]

SD15 = "stable-diffusion-v1-5/stable-diffusion-v1-5"
SDXL = "stabilityai/stable-diffusion-xl-base-1.0"


@dataclass(frozen=True)
class Release:
    """One published checkpoint.

    hub : repository on the hub. base : the pipeline that it tunes.
    path : of the denoiser's folder, or of the LoRA's or state dict's file; "" is the root.
    """

    hub: str
    base: str
    form: Form
    path: str = ""


RELEASES: dict[str, Release] = {
    # Diffusion-DPO, arXiv 2311.12908
    "dpo-sd1.5": Release("mhdang/dpo-sd1.5-text2image-v1", SD15, "denoiser", "unet"),
    "dpo-sdxl": Release("mhdang/dpo-sdxl-text2image-v1", SDXL, "denoiser", "unet"),
    # Diffusion-KTO, arXiv 2404.04465
    "kto-sd1.5": Release("jacklishufan/diffusion-kto", SD15, "denoiser", "unet"),
    # SPO, arXiv 2406.04314
    "spo-sd1.5": Release("SPO-Diffusion-Models/SPO-SD-v1-5_4k-p_10ep", SD15, "pipeline"),
    "spo-sdxl": Release("SPO-Diffusion-Models/SPO-SDXL_4k-p_10ep", SDXL, "pipeline"),
    "spo-sd1.5-lora": Release(
        "SPO-Diffusion-Models/SPO-SD-v1-5_4k-p_10ep_LoRA",
        SD15,
        "lora",
        "spo-sd-v1-5_4k-p_10ep_lora_diffusers.safetensors",
    ),
    "spo-sdxl-lora": Release(
        "SPO-Diffusion-Models/SPO-SDXL_4k-p_10ep_LoRA",
        SDXL,
        "lora",
        "spo_sdxl_10ep_4k-data_lora_diffusers.safetensors",
    ),
    # MaPO, arXiv 2406.06424
    "mapo-sdxl": Release("mapo-t2i/mapo-beta", SDXL, "denoiser"),
    # DDIM-InPO, arXiv 2503.18454, and SmPO, arXiv 2506.02698
    "inpo-sd1.5": Release("JaydenLu666/InPO-SD1.5", SD15, "denoiser", "unet"),
    "inpo-sdxl": Release("JaydenLu666/InPO-SDXL", SDXL, "denoiser", "unet"),
    "smpo-sd1.5": Release("JaydenLu666/SmPO-SD1.5", SD15, "denoiser", "unet"),
    "smpo-sdxl": Release("JaydenLu666/SmPO-SDXL", SDXL, "denoiser", "unet"),
    # Diffusion-SDPO, arXiv 2511.03317, on top of three objectives
    **{
        f"sdpo-{objective}-{short}": Release(
            "AIDC-AI/Diffusion-SDPO", base, "state", f"{folder}/{objective}/unet.pth"
        )
        for objective in ("diffusion-dpo", "dspo", "dmpo")
        for short, folder, base in (("sd1.5", "sd1.5", SD15), ("sdxl", "sdxl", SDXL))
    },
}

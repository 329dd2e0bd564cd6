"""The parts of a real StableDiffusionPipeline, in small: 32 x 32 pixels, 8 x 8 latents.

Only what they are made of; how they learn is in `pretraining`. Every generator of the arena shares
the tokenizer, text encoder, autoencoder and noise schedule, and differs by its UNet.
"""

from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from examples.miniature.captions import every_caption

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXT_WIDTH = 64


def make_tokenizer() -> CLIPTokenizer:
    """Return a CLIP tokenizer whose merges build each word of the captions into one token.

    Any other word is spelled letter by letter, as byte-pair encoding does.
    """
    words = sorted({word for caption in every_caption() for word in caption.split()})
    tokens = ["<|startoftext|>", "<|endoftext|>", *LETTERS, *(f"{x}</w>" for x in LETTERS)]
    merges: list[tuple[str, str]] = []
    for word in words:
        parts = [*word[:-1], word[-1] + "</w>"]
        while len(parts) > 1:  # join from the left: s e v e n, se v e n, sev e n ...
            merge = (parts[0], parts[1])
            parts[:2] = ["".join(merge)]
            if merge not in merges:
                merges.append(merge)
            if parts[0] not in tokens:
                tokens.append(parts[0])
    return CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=merges, model_max_length=16
    )


def make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Return an untrained CLIP text encoder of two layers, 64 wide."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=2 * TEXT_WIDTH,
            projection_dim=TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def make_vae() -> AutoencoderKL:
    """Return an untrained autoencoder from 3 x 32 x 32 to 4 x 8 x 8."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 32),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=32,
    )


def make_unet(channels: tuple[int, int]) -> UNet2DConditionModel:
    """Return an untrained UNet; it reads the text at 4 x 4 and in the middle."""
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
        norm_num_groups=8,
    )


def make_scheduler() -> DDIMScheduler:
    """Return Stable Diffusion's noise schedule; the model predicts the noise."""
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def assemble(
    tokenizer: CLIPTokenizer,
    text_encoder: CLIPTextModel,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
) -> StableDiffusionPipeline:
    """Put the parts together into the pipeline that diffusers loads and saves."""
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=make_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline

"""Why a run that goes on with another `pairs_at_once` is equal to rounding and not to the bit.

    python benchmarks/training_parts.py

Eight images go through a UNet of a quarter of Stable Diffusion's widths (16 x 16 latents) in parts
of 8, 4, 2 and 1. For each size: the share of the outputs whose bits differ from those of one part,
the largest difference, and the processor time of forward and backward pass.
"""

import time

import torch
from diffusers import UNet2DConditionModel

IMAGES, TURNS = 8, 3


def main() -> None:
    """Print one line for each size of a part."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(80, 160, 320, 320),
        cross_attention_dim=768,
        norm_num_groups=16,
    )
    latents, texts = torch.randn(IMAGES, 4, 16, 16), torch.randn(IMAGES, 77, 768)
    times = torch.randint(0, 1000, (IMAGES,))
    whole = None
    for size in (IMAGES, 4, 2, 1):
        begun = time.process_time()
        for _ in range(TURNS):
            unet.zero_grad()
            parts = []
            for start in range(0, IMAGES, size):
                at = slice(start, start + size)
                output = unet(latents[at], times[at], texts[at]).sample
                output.square().mean().backward()
                parts.append(output.detach())
        milliseconds = 1000 * (time.process_time() - begun) / TURNS
        found = torch.cat(parts)
        whole = found if whole is None else whole
        differ, most = (found != whole).float().mean(), (found - whole).abs().max()
        print(f"{size} at once: {differ:.0%} of the outputs differ, by {most:.1e} at most; "
              f"{milliseconds:.0f} ms")  # fmt: skip


if __name__ == "__main__":
    main()

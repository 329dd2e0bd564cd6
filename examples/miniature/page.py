"""The world's README: what in it is real, what is simulated, and its numbers, counted."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl
from trueskill import Rating

from examples.miniature.generators import BASE, GENERATORS, NETWORKS

TEMPLATE = """# The miniature world

A complete small text-to-image world, built by `python -m examples.miniature`. Nothing in it was
downloaded, and this page is written by the build.

**Real**: the handwriting. All comes from the 1,797 UCI digits that ship inside scikit-learn (E.
Alpaydin and C. Kaynak, CC BY 4.0), enlarged from 8 x 8 to 32 x 32. Every word of a prompt is
measured on them: the digit is their label; weight (thin, regular, bold) is their ink and slant
(left, upright, right) the shear of their second moments, cut into thirds within each digit. The
generators learned from {training} of them, the scorer from {scorer} others and the raters' judge
from {held_out} more.

**Real, but small**: the base model and the other generators. Each is a StableDiffusionPipeline
(CLIP tokenizer and text encoder, AutoencoderKL, UNet2DConditionModel, DDIM), trained here.

**Simulated**: the raters. No person voted. A rater perceives an image's latent quality, which is
2 P(digit) + agreement of weight + agreement of slant + closeness to held-out real digits, with
noise of their own, calls near ones a tie, and sometimes presses the wrong button. Every vote says
so in its column `source`. The K-Sort ranks are the same raters'.

What is here:

- `votes.parquet`: {votes} votes of {raters} simulated raters, {ties:.1%} of them ties, {same}
  between two images of one model;
- `images.parquet`: {images} PNG images of {prompts} prompts by {models} generators; an image meets
  {met:.1f} others on average;
- `latent_quality.parquet`: what the raters perceive before the noise, and what it is made of; for
  studies, read by no stage;
- `evaluation_prompts.parquet`: 120 prompts, the 30 combinations of digit, weight and slant that no
  vote was about;
- `base/`: the model to be fine-tuned, in diffusers' layout; it is `{base}` of the arena;
- `scorer/`: the scorer `miniature`, the geometric mean of P(digit), agreement of weight and
  agreement of slant, from 0 to 1;
- `ksort/`: a K-Sort Eval data set on held-out prompts, in the published layout.

The base learned from captions of which {wrong:.0%} of the words for weight and slant were drawn at
random, careless as captions from the web are. So its digits look right more often than they fit
the prompt, and the better images among the votes show what is missing.

| generator | UNet | trained | guidance | sampling steps | latent quality | K-Sort mu (sigma) |
|---|---|---|---|---|---|---|
{generators}
"""


def write_page(
    out: Path,
    digits: Mapping[str, int],
    images: pl.DataFrame,
    votes: pl.DataFrame,
    ratings: Mapping[str, Rating],
) -> None:
    """Write README.md into the world's folder, with the counts of what is there."""
    met = pl.concat(
        [votes.select("image_a", "image_b"), votes.select(image_a="image_b", image_b="image_a")]
    ).unique()
    quality = dict(images.group_by("model").agg(pl.col("quality").mean()).iter_rows())
    rows = [
        f"| {g.name} | {'-'.join(str(c) for c in NETWORKS[g.network].channels)} | {g.step:,} "
        f"| {g.guidance:g} | {g.steps} | {quality[g.name]:.2f} "
        f"| {ratings[g.name].mu:.1f} ({ratings[g.name].sigma:.1f}) |"
        for g in sorted(GENERATORS, key=lambda g: -quality[g.name])
    ]
    base = next(g for g in GENERATORS if g.name == BASE)
    text = TEMPLATE.format(
        **digits,
        votes=f"{votes.height:,}",
        raters=votes["rater"].n_unique(),
        ties=(votes["outcome"] == "tie").mean(),
        same=f"{(votes['model_a'] == votes['model_b']).sum():,}",
        images=f"{images.height:,}",
        prompts=images["prompt_id"].n_unique(),
        models=len(GENERATORS),
        met=met.height / images.height,
        base=BASE,
        wrong=NETWORKS[base.network].phases[0].random_words,
        generators="\n".join(rows),
    )
    (out / "README.md").write_text(text)

"""The model card: what a policy is, what it learnt from and how, in the form that hubs read."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training import objective
from training.config import PolicyConfig
from training.families import Family

CARD = """# {name}

{base} fine-tuned on human votes with the objective `{objective}` ({formula}).

## How to use it

```python
{usage}
```

## Data

{pairs} training pairs and {held_out_pairs} held-out ones, from votes between images.{gaps}
The pairs have the digest `{pairs_digest}`, the images `{images_digest}`, the base model
`{base_digest}`: equal digests are equal content.

## Training

{steps} steps{early}. Held out: {held_out}.

| parameter | value |
|---|---|
{parameters}

## Licence

The weights derive from {base} and are bound by its licence; the votes and images by theirs. Name
them in `license` above before you publish this.
"""


def write_card(
    folder: Path,
    config: PolicyConfig,
    family: Family,
    origin: dict[str, Any],
    result: dict[str, Any],
) -> None:
    """Write folder/README.md. What a later evaluation finds can be appended to it."""
    from huggingface_hub import ModelCard, ModelCardData

    lora = config.adaptation == "lora"
    base = Path(config.base).name if Path(config.base).is_absolute() else config.base
    usage = f"from diffusers import {family.pipeline}\n\n"
    usage += f"pipe = {family.pipeline}.from_pretrained({json.dumps(base if lora else 'FOLDER')})"
    if lora:
        usage += '\npipe.load_lora_weights("FOLDER")'
    held_out = {k.removeprefix("held_out_"): v for k, v in result.items() if "held_out_" in k}
    scores = [f"{k} {v:.4g}" for k, v in held_out.items() if isinstance(v, float)]
    spread = f", spread to {config.margin_spread:g} means" if config.margin_spread else ""
    gaps = (
        " Each pair carries its gap: the expected difference of its two images' quality, inferred "
        f"from the arena of the models that drew them, divided by the mean{spread}."
    )
    rows = [f"| {key} | {value} |" for key, value in asdict(config).items() if key != "base"]
    header = ModelCardData(
        library_name="diffusers",
        pipeline_tag="text-to-image",
        base_model=base,
        license="other",
        license_name="that-of-the-base-model",
        tags=["text-to-image", "diffusers", config.objective, *["lora"] * lora],
    )
    text = CARD.format(
        base=base,
        name=config.name,
        objective=config.objective,
        formula=objective.stated(config.objective),
        usage=usage,
        pairs=result["pairs"],
        held_out_pairs=result["held_out_pairs"],
        gaps=gaps if config.objective.startswith("arenapo") else "",
        pairs_digest=origin["pairs"][:16],
        images_digest=origin["images"]["digest"][:16],
        base_digest=origin["base model"][:16],
        steps=result["steps"],
        early=", stopped early by its patience" if result["stopped_early"] else "",
        held_out=", ".join(scores) or "nothing",
        parameters="\n".join(rows),
    )
    ModelCard(f"---\n{header.to_yaml()}\n---\n\n{text}").save(folder / "README.md")

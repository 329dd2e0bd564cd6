"""Our scoring beside the plain loops of the public scorers' examples.

    python benchmarks/evaluation.py [--shape B32|L14|H14] [--prompts 4] [--policies 4] [--side 512]

A plain loop does what the examples of CLIP score, LAION's aesthetic predictor and PickScore do:
each scorer with its own CLIP, one image at a time through its processor, the text again for every
image, padded to 77 tokens. Ours is `python -m evaluation score` without its command line. Both get
the same random weights of the real towers' shape, the same PNGs, tokenizer, device and precision
(fp32), and have to give the same scores; CLIP score and the aesthetic predictor stand on one CLIP,
as the published ones do, PickScore on its own. Each plain loop is timed once; those of several
scorers take the sum. Printed: images a second and their ratio, by the clock and by the processor's
time, which other work on the machine disturbs less.
"""

import argparse
import io
import string
import sys
import tempfile
import time
from contextlib import redirect_stderr
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

# This file is called as the package is; without this it would import itself.
sys.path[0] = str(Path(__file__).parents[1])

SHAPES = {  # patch; vision width, layers, heads; text width, layers, heads; embedding
    "B32": (32, 768, 12, 12, 512, 12, 8, 512),
    "L14": (14, 1024, 24, 16, 768, 12, 12, 768),
    "H14": (14, 1280, 32, 16, 1024, 24, 16, 1024),
}
HEAD = "sac+logos+ava1-l14-linearMSE"


def main() -> None:
    """Build towers and images, time both, check that they agree, print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="B32")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--policies", type=int, default=4, help="images of each prompt")
    parser.add_argument("--side", type=int, default=512, help="of the images, pixels")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for seed, name in enumerate(("clip", "pickscore")):
            build_towers(root / name, options.shape, seed)
        build_head(root, SHAPES[options.shape][-1])
        table = build_images(root / "images", options)
        print(f"{table.num_rows} images of {options.side} px, CLIP {options.shape}")
        print(f"{'images a second':28}{'plain':>9}{'ours':>9}{'ratio':>9}{'by CPU':>9}", flush=True)
        plain = {name: time_plain(name, root, table) for name in ("pickscore", "clip", "aesthetic")}
        for names in (["pickscore"], ["clip", "aesthetic"], ["pickscore", "clip", "aesthetic"]):
            ours = time_ours(root, table, {name: plain[name][1] for name in names})
            clock, cpu = (sum(plain[name][0][i] for name in names) for i in range(2))
            rates = f"{table.num_rows / clock:9.2f}{table.num_rows / ours[0]:9.2f}"
            print(
                f"{'+'.join(names):28}{rates}{clock / ours[0]:8.2f}x{cpu / ours[1]:8.2f}x",
                flush=True,
            )


def time_plain(name: str, root: Path, table: pa.Table) -> tuple[tuple[float, float], list[float]]:
    """Time a scorer's plain loop: (seconds by the clock, of the processor), and its scores."""
    rows = list(zip(table["prompt"].to_pylist(), table["image"].to_pylist(), strict=True))
    loop = plain_loop(name, root)
    loop(*rows[0])  # warm
    with Clock() as clock:
        found = [loop(*row) for row in rows]
    return (clock.seconds, clock.cpu), found


def time_ours(root: Path, table: pa.Table, expected: dict[str, list[float]]) -> tuple[float, float]:
    """Time ours for some scorers at once, which has to give the scores that are expected."""
    from evaluation.kept import Kept
    from evaluation.score import score, tasks_of
    from evaluation.scorers.naming import parse

    sources = {"clip": root / "clip", "pickscore": root / "pickscore", "aesthetic": root}
    paths = {"few": root / "few.parquet", "all": root / "all.parquet"}
    pq.write_table(table.slice(0, 2), paths["few"])
    pq.write_table(table, paths["all"])
    named = [parse(f"{name}={sources[name]}") for name in expected]
    # Weights are read before the clock runs, as for the plain loops.
    groups = [
        [replace(task, load=partial(lambda scorer: scorer, task.load())) for task in group]
        for group in tasks_of(named)
    ]
    with redirect_stderr(io.StringIO()):
        score([paths["few"]], groups, Kept(None))  # warm
        with Clock() as clock:
            scored, _, _ = score([paths["all"]], groups, Kept(None))
    for name, scores in expected.items():
        np.testing.assert_allclose(scored[name].to_numpy(), scores, rtol=1e-3, atol=1e-3)
    return clock.seconds, clock.cpu


class Clock:
    """Seconds by the clock and of the processor, over a with-block."""

    def __enter__(self) -> "Clock":
        self.begun = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.begun[0]
        self.cpu = time.process_time() - self.begun[1]


def plain_loop(name: str, root: Path) -> Any:
    """The example's function of one prompt and one image file."""
    import torch
    from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    folder = root / ("pickscore" if name == "pickscore" else "clip")
    model = CLIPModel.from_pretrained(folder).eval().to(device)
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    processor = CLIPImageProcessor()
    head = torch.load(root / f"{HEAD}.pth", weights_only=True)

    @torch.no_grad()
    def loop(prompt: str, image: str) -> float:
        pixels = processor(images=Image.open(image), return_tensors="pt").to(device)
        seen = model.get_image_features(**pixels).pooler_output
        seen = seen / seen.norm(dim=-1, keepdim=True)
        if name == "aesthetic":
            return float(seen @ head["weight"].T.to(device) + head["bias"].to(device))
        tokens = tokenizer(
            prompt, padding="max_length", truncation=True, max_length=77, return_tensors="pt"
        ).to(device)
        text = model.get_text_features(**tokens).pooler_output
        text = text / text.norm(dim=-1, keepdim=True)
        scale = 100.0 if name == "clip" else model.logit_scale.exp()
        return float(scale * (text @ seen.T))

    return loop


def build_towers(folder: Path, shape: str, seed: int) -> None:
    """Save a random CLIP of a real one's shape, with a tokenizer that spells."""
    import torch
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    patch, width, layers, heads, text_width, text_layers, text_heads, size = SHAPES[shape]
    torch.manual_seed(seed)
    letters = [*string.ascii_lowercase, *(f"{x}</w>" for x in string.ascii_lowercase)]
    tokens = [*letters, "<|startoftext|>", "<|endoftext|>"]
    last = len(tokens) - 1
    text = {
        "vocab_size": len(tokens), "hidden_size": text_width, "intermediate_size": 4 * text_width,
        "num_hidden_layers": text_layers, "num_attention_heads": text_heads,
        "bos_token_id": last - 1, "eos_token_id": last, "pad_token_id": last,
    }  # fmt: skip
    vision = {
        "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
        "num_attention_heads": heads, "patch_size": patch, "image_size": 224,
    }  # fmt: skip
    config = CLIPConfig(projection_dim=size, text_config=text, vision_config=vision)
    CLIPModel(config).save_pretrained(folder)
    CLIPTokenizer(
        vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77
    ).save_pretrained(folder)


def build_head(folder: Path, width: int) -> None:
    """Save a random linear aesthetic head."""
    import torch

    torch.manual_seed(1)
    head = {"weight": torch.randn(1, width), "bias": torch.randn(1)}
    torch.save(head, folder / f"{HEAD}.pth")


def build_images(folder: Path, options: argparse.Namespace) -> pa.Table:
    """Save smooth random PNGs, `policies` of each prompt; returns the table that lists them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(options.prompts):
        prompt = f"a photo of {string.ascii_lowercase[i % 26]} thing on a table at dusk"
        for k in range(options.policies):
            coarse = Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8))
            path = folder / f"{i}-{k}.png"
            coarse.resize((options.side, options.side), Image.Resampling.BICUBIC).save(path)
            rows.append({"policy": f"policy {k}", "prompt": prompt, "image": str(path)})
    return pa.Table.from_pylist(rows)


if __name__ == "__main__":
    main()

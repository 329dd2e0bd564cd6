"""Generation: common noise, any batch size, resuming image by image, LoRA and full policies."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
from ksort_worlds import write_dataset
from PIL import Image

from evaluation.__main__ import main
from evaluation.generate import (
    Artist,
    Settings,
    generate,
    image_name,
    is_current,
    noise_seed,
    prompt_targets,
)
from evaluation.policies import Policy

CASES = Path(__file__).parents[3] / "shared" / "cases" / "prompts"
PROMPTS = [("p1", "a bold seven"), ("p2", "a thin one"), ("p/3", "a nine leaning left")]


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.csv"
    path.write_text("prompt_id,prompt\n" + "".join(f"{i},{text}\n" for i, text in PROMPTS))
    return path


@pytest.fixture(scope="module")
def generated(tiny_pipeline, prompts_file, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("generated")
    assert run(tiny_pipeline, prompts_file, out, "--name", "base", "--batch-size", 4) == 0
    return out


def run(base, prompts, out, *more) -> int:
    arguments = ["generate", "--base", base, "--prompts", prompts, "--out", out]
    arguments += ["--images-per-prompt", 2, "--steps", 2, "--guidance", 2, *more]
    return main([str(argument) for argument in arguments])


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(p)).astype(int) for p in sorted(folder.glob("*.png"))])


def test_the_table_lists_every_image_beside_it(generated):
    rows = pq.read_table(generated / "images.parquet").to_pylist()
    assert len(rows) == 6
    assert list(rows[0]) == ["policy", "prompt_id", "prompt", "seed", "image"]
    assert [row["seed"] for row in rows] == [0, 1] * 3
    for row in rows:
        with Image.open(generated / row["image"]) as image:
            assert image.size == (32, 32)
            assert image.text["prompt"] == row["prompt"]
    assert len(np.unique(pixels(generated / "images"), axis=0)) == 6


def test_images_do_not_depend_on_the_batch_size(generated, tiny_pipeline, tmp_path):
    targets = prompt_targets(PROMPTS, 2, 0, tmp_path)
    generate(Artist(Policy(str(tiny_pipeline)), Settings(2, 2.0, 0), 1), targets)
    # Matrix products of another size round differently in the last bit: one grey level at most.
    assert np.abs(pixels(tmp_path) - pixels(generated / "images")).max() <= 1


def test_a_second_run_keeps_what_is_right_and_mends_what_is_not(
    generated, tiny_pipeline, prompts_file, tmp_path, capsys
):
    out = tmp_path / "again"
    shutil.copytree(generated, out)
    first, second = sorted((out / "images").glob("*.png"))[:2]
    before = second.stat().st_mtime_ns
    whole = first.read_bytes()
    first.write_bytes(whole[:100])  # half an image, as a crash of another tool leaves it
    assert run(tiny_pipeline, prompts_file, out, "--name", "base", "--batch-size", 4) == 0
    assert "1 images made" in capsys.readouterr().out
    assert np.abs(pixels(out / "images") - pixels(generated / "images")).max() <= 1
    assert second.stat().st_mtime_ns == before


def test_other_settings_or_another_prompt_never_keep_an_old_image(generated, tiny_pipeline):
    path = generated / "images" / image_name("p1", 0)
    with Image.open(path) as image:
        made_by = image.text["generation"]
    assert is_current(path, "a bold seven", made_by)
    assert not is_current(path, "a bold six", made_by)
    assert not is_current(path, "a bold seven", "another policy")


def test_a_full_policy_replaces_the_base(generated, tiny_pipeline, prompts_file, tmp_path):
    policy = tmp_path / "policy"
    shutil.copytree(tiny_pipeline, policy)
    out = tmp_path / "out"
    assert run(tiny_pipeline, prompts_file, out, "--policy", policy, "--name", "copy") == 0
    # The same weights from another folder: the same noise, so the same images.
    assert np.abs(pixels(out / "images") - pixels(generated / "images")).max() <= 1


def test_processes_that_are_launched_together_share_the_images_out(
    generated, tiny_pipeline, prompts_file, tmp_path, monkeypatch, capsys
):
    """Two ranks one after the other; that a launcher's ranks are these is tested with `score`."""
    world = SimpleNamespace(device="cpu", wait_for_everyone=lambda: None)
    monkeypatch.setattr("evaluation.devices.state", lambda: world)
    monkeypatch.setattr("evaluation.devices.WORLD", 2)
    for rank, made in ((1, 3), (0, 6)):
        monkeypatch.setattr("evaluation.devices.RANK", rank)
        assert not (tmp_path / "images.parquet").exists()  # the first rank writes the table
        assert run(tiny_pipeline, prompts_file, tmp_path, "--name", "base") == 0
        assert len(pixels(tmp_path / "images")) == made
    assert capsys.readouterr().out.count("images made") == 1  # and speaks
    assert pq.read_table(tmp_path / "images.parquet").num_rows == 6
    assert np.abs(pixels(tmp_path / "images") - pixels(generated / "images")).max() <= 1


def test_categories_of_prompts_are_in_the_table(tiny_pipeline, tmp_path):
    prompts = tmp_path / "parti.tsv"
    prompts.write_text("Prompt\tCategory\na dog\tAnimals\na word\tWorld Knowledge\n")
    more = ("--name", "base", "--limit", 1)
    assert run(tiny_pipeline, prompts, tmp_path / "out", *more) == 0
    rows = pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()
    assert [(row["prompt"], row["category"]) for row in rows] == [("a dog", "Animals")] * 2


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
@pytest.mark.parametrize("name", ["longid", "slashid", "good"])
def test_any_id_gets_a_file(tiny_pipeline, tmp_path, name):
    out = tmp_path / "out"
    assert run(tiny_pipeline, CASES / f"{name}.jsonl", out, "--name", "x", "--limit", 2) == 0
    for row in pq.read_table(out / "images.parquet").to_pylist():
        assert (out / row["image"]).resolve().parent == (out / "images").resolve()
        with Image.open(out / row["image"]) as image:
            assert image.text["prompt"] == row["prompt"]


def test_a_lora_changes_the_images_and_a_zero_lora_does_not(
    generated, tiny_pipeline, prompts_file, tmp_path
):
    import torch
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = StableDiffusionPipeline.from_pretrained(tiny_pipeline)
    torch.manual_seed(0)
    pipeline.unet.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_v"]))
    for strength, changed in ((0.0, False), (2.0, True)):
        for name, parameter in pipeline.unet.named_parameters():
            if "lora_B" in name:
                torch.nn.init.constant_(parameter, strength)
        policy, out = tmp_path / f"lora{strength}", tmp_path / f"out{strength}"
        layers = get_peft_model_state_dict(pipeline.unet)
        StableDiffusionPipeline.save_lora_weights(policy, unet_lora_layers=layers)
        assert run(tiny_pipeline, prompts_file, out, "--policy", policy, "--name", "lora") == 0
        difference = np.abs(pixels(out / "images") - pixels(generated / "images")).max()
        assert (difference > 1) == changed
    file = policy / "pytorch_lora_weights.safetensors"  # the file does as well as its folder
    assert run(tiny_pipeline, prompts_file, tmp_path / "file", "--policy", file, "--name", "x") == 0
    same = pixels(tmp_path / "file" / "images") - pixels(out / "images")
    assert np.abs(same).max() <= 1


def test_a_lora_that_does_not_fit_is_refused_and_kohyas_keys_are_read(
    generated, tiny_pipeline, prompts_file, tmp_path, capsys
):
    import torch
    from safetensors.torch import save_file

    name = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
    from diffusers import StableDiffusionPipeline

    unet = StableDiffusionPipeline.from_pretrained(tiny_pipeline).unet
    width = unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1.to_q.in_features
    torch.manual_seed(0)
    kohya = {
        f"lora_unet_{name}.lora_down.weight": torch.randn(2, width),
        f"lora_unet_{name}.lora_up.weight": 5 * torch.randn(width, 2),
        f"lora_unet_{name}.alpha": torch.tensor(2.0),
    }
    save_file(kohya, tmp_path / "kohya.safetensors")
    out, more = tmp_path / "out", ("--name", "x", "--policy")
    assert run(tiny_pipeline, prompts_file, out, *more, tmp_path / "kohya.safetensors") == 0
    assert np.abs(pixels(out / "images") - pixels(generated / "images")).max() > 1
    mixed = {
        "unet.down_blocks.9.attentions.0.to_q.lora_A.weight": torch.randn(2, width),
        "unet.down_blocks.9.attentions.0.to_q.lora_B.weight": torch.randn(width, 2),
    }
    save_file(mixed, tmp_path / "mixed.safetensors")
    assert run(tiny_pipeline, prompts_file, out, *more, tmp_path / "mixed.safetensors") == 1
    said = capsys.readouterr().err
    assert "mixed.safetensors" in said
    assert "Traceback" not in said


def test_ksort_instances_get_an_image_each(tiny_pipeline, prompts_file, tmp_path):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=3)
    more = ("--name", "base", "--ksort", tmp_path / "world")
    assert run(tiny_pipeline, prompts_file, tmp_path / "out", *more) == 0
    names = sorted(path.name for path in (tmp_path / "out" / "ksort").iterdir())
    assert names == ["sample_0000.png", "sample_0001.png", "sample_0002.png"]


def test_noise_differs_by_prompt_image_and_seed():
    seeds = {noise_seed(p, k, s) for p in ("1", "11") for k in (0, 1, 11) for s in (0, 1)}
    assert len(seeds) == 12
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert noise_seed("p1", 0, 0) == noise_seed("p1", 0, 0)


def test_errors_are_one_sentence(tiny_pipeline, prompts_file, tmp_path, capsys):
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run(tiny_pipeline, prompts_file, out, "--policy", empty, "--name", "x") == 1
    assert "is not a policy" in capsys.readouterr().err
    assert run(empty, prompts_file, out, "--name", "x") == 1
    assert "empty: cannot be loaded" in capsys.readouterr().err
    bad = tmp_path / "bad.csv"
    bad.write_text("prompt_id,prompt\n1,a\n1,b\n")
    assert run(tiny_pipeline, bad, out, "--name", "x") == 1
    assert "row 2 gives prompt_id '1' another prompt" in capsys.readouterr().err
    bad.write_text("prompt_id,text\n1,a\n")
    assert run(tiny_pipeline, bad, out, "--name", "x") == 1
    assert "row 1 has no prompt (it has prompt_id)" in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupt_leaves_whole_images_and_exit_code_130(tiny_pipeline, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt_id,prompt\n" + "".join(f"{i},a seven\n" for i in range(400)))
    command = [sys.executable, "-m", "evaluation", "generate", "--base", str(tiny_pipeline)]
    command += ["--prompts", str(prompts), "--out", str(tmp_path / "out"), "--name", "base"]
    command += ["--steps", "20", "--guidance", "2", "--batch-size", "2"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any((tmp_path / "out" / "images").glob("*.png")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "goes on" in stderr
    assert "Traceback" not in stderr
    images = list((tmp_path / "out" / "images").glob("[!.]*.png"))
    assert 0 < len(images) < 400
    for path in images:
        Image.open(path).load()

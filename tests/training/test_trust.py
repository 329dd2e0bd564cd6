"""A base model or a LoRA from a stranger runs no code: each attack here would leave a file."""

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from training.families import ModelError, open_family
from training.families.adapter import fuse_adapter
from training.families.hub import wanted


@pytest.fixture
def base(tiny_pipeline, tmp_path):
    return Path(shutil.copytree(tiny_pipeline, tmp_path / "base"))


class Pickle:
    """Read as a pickle it writes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return (Path.write_text, (self.marker, "ran"))


def change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def code(path: Path, marker: Path) -> None:
    path.write_text(f"open({str(marker)!r}, 'w').write('ran')\nclass Own: pass\n")


@pytest.mark.parametrize("where", ["pipeline.py", "unet/own.py", "text_encoder/own.py"])
def test_code_of_a_pipelines_own_is_refused_and_not_run(where, base, tmp_path):
    code(base / where, tmp_path / "marker")
    index = base / "model_index.json"
    if where == "pipeline.py":
        change(index, _class_name=["pipeline", "Own"])
    elif where.startswith("unet"):
        change(index, unet=["own", "Own"])
    else:  # as transformers names code beside a configuration
        change(base / "text_encoder/config.json", auto_map={"AutoConfig": "own.Own"})
    with pytest.raises(ModelError, match=r"brings code of its own .*\.py.* which is not run"):
        open_family(str(base))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    "changes", [{"_class_name": ["other/repository", "Own"]}, {"unet": ["own", "Own"]}]
)
def test_code_that_is_named_and_lies_elsewhere_is_refused(changes, base):
    change(base / "model_index.json", **changes)
    with pytest.raises(ModelError, match=r"brings code of its own"):
        open_family(str(base))


@pytest.mark.parametrize("named", [["diffusers", "logging"], ["transformers", "No"], ["diffusers"]])
def test_a_part_that_is_no_class_is_one_sentence(named, base):
    change(base / "model_index.json", unet=named)
    with pytest.raises(ModelError, match=r"model_index.json names no unet"):
        open_family(str(base)).denoiser(torch.device("cpu"))


def test_a_safety_checker_of_diffusers_own_is_no_strangers_code(base):
    change(base / "model_index.json",
           safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"])  # fmt: skip
    assert open_family(str(base)).pipeline == "StableDiffusionPipeline"


@pytest.mark.parametrize("part", ["unet/diffusion_pytorch_model", "text_encoder/model"])
def test_weights_in_a_pickle_are_refused_and_not_read(part, base, tmp_path):
    (base / f"{part}.safetensors").unlink()
    name = "pytorch_model" if part.startswith("text") else Path(part).name
    bad = (base / part).with_name(f"{name}.bin")
    bad.write_bytes(pickle.dumps(Pickle(tmp_path / "marker")))
    with pytest.raises(ModelError, match=r"holds its weights as a pickle .*save_pretrained"):
        open_family(str(base))
    assert not (tmp_path / "marker").exists()


def test_a_pickle_beside_safetensors_is_neither_read_nor_fetched(base, tmp_path):
    before = open_family(str(base)).digest("unet")
    bad = base / "unet/diffusion_pytorch_model.bin"
    bad.write_bytes(pickle.dumps(Pickle(tmp_path / "marker")))
    family = open_family(str(base))
    assert family.digest("unet") == before
    family.denoiser(torch.device("cpu"))
    assert not (tmp_path / "marker").exists()
    files = ["unet/model.bin", "unet/model.safetensors", "unet/non_ema.bin", "unet/run.py"]
    assert wanted(files, {"unet": ["x", "y"]}) == ["model_index.json", "unet/model.safetensors"]
    with pytest.raises(ModelError, match=r"vae holds its weights as a pickle"):
        wanted(["vae/model.bin"], {"vae": ["x", "y"]})


@pytest.mark.parametrize("name", ["lora.bin", "lora.pt", "pytorch_lora_weights.bin"])
def test_a_lora_in_a_pickle_is_refused_and_not_read(name, tiny_pipeline, tmp_path):
    family = open_family(str(tiny_pipeline))
    (tmp_path / name).write_bytes(pickle.dumps(Pickle(tmp_path / "marker")))
    with pytest.raises(ModelError, match=r"is no .safetensors file: nothing else is read"):
        fuse_adapter(family, family.denoiser(torch.device("cpu")), str(tmp_path / name))
    assert not (tmp_path / "marker").exists()

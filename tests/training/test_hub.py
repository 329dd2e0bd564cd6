"""What of a repository on the hub is fetched, and what its refusals say."""

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from training.families import ModelError, open_family
from training.families.hub import wanted

GB = 10**9
# stabilityai/stable-diffusion-3.5-medium as the hub lists it: sizes in GB of what is large.
SD35_MEDIUM = {
    "LICENSE.md": 0, "README.md": 0, "SD3.5M_example_workflow.json": 0, "model_index.json": 0,
    "sd3.5_medium.safetensors": 5.11, "mmdit-x_comparison.png": 0,
    "scheduler/scheduler_config.json": 0, "text_encoder/config.json": 0,
    "text_encoder/model.safetensors": 0.25, "text_encoder/model.fp16.safetensors": 0.25,
    "text_encoder_2/config.json": 0, "text_encoder_2/model.safetensors": 1.39,
    "text_encoder_2/model.fp16.safetensors": 1.39, "text_encoder_3/config.json": 0,
    "text_encoder_3/model-00001-of-00002.safetensors": 4.99,
    "text_encoder_3/model-00002-of-00002.safetensors": 4.53,
    "text_encoder_3/model.fp16-00001-of-00002.safetensors": 4.99,
    "text_encoder_3/model.fp16-00002-of-00002.safetensors": 4.53,
    "text_encoder_3/model.safetensors.index.json": 0,
    "text_encoder_3/model.safetensors.index.fp16.json": 0,
    "text_encoders/clip_g.safetensors": 1.39, "text_encoders/clip_l.safetensors": 0.25,
    "text_encoders/t5xxl_fp16.safetensors": 9.79,
    "text_encoders/t5xxl_fp8_e4m3fn.safetensors": 4.89,
    "tokenizer/merges.txt": 0, "tokenizer/vocab.json": 0, "tokenizer/tokenizer_config.json": 0,
    "tokenizer_3/spiece.model": 0, "tokenizer_3/tokenizer.json": 0,
    "transformer/config.json": 0, "transformer/diffusion_pytorch_model.safetensors": 4.94,
    "vae/config.json": 0, "vae/diffusion_pytorch_model.safetensors": 0.17,
}  # fmt: skip
INDEX = {"_class_name": "StableDiffusion3Pipeline"} | {
    name: ["library", "Class"]
    for name in ("scheduler", "text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer",
                 "tokenizer_2", "tokenizer_3", "transformer", "vae")
}  # fmt: skip


def test_a_third_of_sd35_mediums_repository_is_fetched():
    files = wanted(list(SD35_MEDIUM), INDEX)
    assert sum(SD35_MEDIUM[file] for file in files) == pytest.approx(16.3, abs=0.1)
    assert not [f for f in files if "fp16" in f and "index" not in f]
    assert {"tokenizer/merges.txt", "tokenizer_3/spiece.model", "vae/config.json"} <= set(files)


def refused(kind, status=404):
    response = SimpleNamespace(status_code=status, headers={}, request=None, url="https://x")
    if kind is errors.HFValidationError:
        return kind("no")
    error = kind.__new__(kind)
    OSError.__init__(error, f"{status} from the hub")
    error.response = response
    return error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (refused(errors.GatedRepoError, 403), "is gated: accept its licence at https://h.*log in"),
        (refused(errors.RepositoryNotFoundError), "neither a folder here nor on the hub .misspelt"),
        (refused(errors.RevisionNotFoundError), "has no revision 'v9' on the hub"),
        (refused(errors.HFValidationError), "neither a folder here nor a name OWNER/MODEL"),
        (refused(errors.HfHubHTTPError, 429), "too many requests: wait, or log in"),
        (refused(errors.RemoteEntryNotFoundError), "no diffusers pipeline.*from_single_file"),
        (ConnectionError("no route"), "the hub cannot be reached .ConnectionError: no route"),
    ],
)
def test_a_refusal_is_a_sentence_with_what_to_do(error, said, monkeypatch):
    def snapshot(*_, **__):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ModelError, match=f"model.base: 'some/model' .*{said}") as caught:
        open_family("some/model", revision="v9")
    assert "\n" not in str(caught.value)


def test_a_revision_is_asked_for(monkeypatch, tmp_path):
    asked = []

    def snapshot(name, *, revision, **_):
        asked.append((name, revision))
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "None"}))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    with pytest.raises(ModelError, match="is a None; supported"):
        open_family("some/model", revision="v9", weights=False)
    assert asked == [("some/model", "v9")]


def test_a_single_file_and_a_folder_of_fp16_alone_are_sentences(tiny_pipeline, tmp_path):
    import shutil

    import torch

    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"is a single file: .*from_single_file.*save_pretrained"):
        open_family(str(tmp_path / "model.safetensors"))
    shutil.copytree(tiny_pipeline, tmp_path / "half")
    unet = tmp_path / "half" / "unet"
    name = "diffusion_pytorch_model"
    (unet / f"{name}.safetensors").rename(unet / f"{name}.fp16.safetensors")
    with pytest.raises(ModelError, match=r"variant fp16 only: .*variant=.fp16., save it"):
        open_family(str(tmp_path / "half")).denoiser(torch.device("cpu"))

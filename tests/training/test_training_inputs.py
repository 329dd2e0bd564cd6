"""What is encoded and who does it: what the steps show, and what each process holds of it."""

import numpy as np
import torch
from safetensors.torch import load_file

from training.checkpoint import RunFolder
from training.families import open_family
from training.job import prepare
from training.learner import Learner
from training.pairs import open_pairs
from training.processes import Processes
from training.study_file import data_config, policy_config, read_study
from training.watching import Validation

ALONE = Processes(0, 1, torch.device("cpu"))


def stored(folder):
    """Count what the stores under a folder hold."""
    files = folder.rglob("*.safetensors")
    return sum(len(load_file(file)) for file in files)


def test_only_what_a_run_shows_is_encoded_and_once(toy, tmp_path):
    """Two steps of three pairs and the held-out ones, of 48: their images and their prompts."""
    overrides = ["train.steps=2", "train.batch_size=3", f"cache.root={tmp_path / 'cache'}"]
    data = data_config(read_study(toy.study, overrides))
    config, pairs = policy_config(toy.study, "dpo", overrides), open_pairs(data.pairs)
    said: list[str] = []
    job = prepare(config, data, pairs, RunFolder(tmp_path / "out"), ALONE, said.append)
    rows = np.concatenate([job.rows(step) for step in range(2)])
    shown, held_out = pairs.train.rows(rows), pairs.held_out
    images = {*shown.winner, *shown.loser, *held_out.winner, *held_out.loser}
    assert stored(tmp_path / "cache/latents") == len(images) < len(pairs.images)
    prompts = {*shown.prompt.tolist(), *held_out.prompt.tolist()}
    assert stored(tmp_path / "cache/prompts") == len(prompts)
    assert any(f"encoding {len(images)} images at 32 x 32" in text for text in said)
    said.clear()
    prepare(config, data, pairs, RunFolder(tmp_path / "out"), ALONE, said.append)
    assert said == []  # nothing was left to encode


def test_validation_shows_the_middle_crop_unmirrored_with_its_prompt(toy):
    rows, turns = Validation(open_pairs(toy.pairs).held_out, None).all_turns()
    assert turns.view.shape == (len(rows), 2)
    assert turns.view.max() == turns.dropped.max() == 0


def test_the_first_process_alone_holds_a_whole_checkpoint(toy):
    config = policy_config(toy.study, "dpo")
    family = open_family(config.base)
    other = Learner(config, family, Processes(1, 2, torch.device("cpu")))
    assert other.tensors() == other.whole_weights() == {}
    assert Learner(config, family, ALONE).tensors().keys() > {"preference"}


def test_processes_of_a_machine_take_turns(monkeypatch):
    """Rank r waits r times before its turn, and n - r times after: each meets its like."""
    waited = []
    monkeypatch.setattr(torch.distributed, "barrier", lambda group: waited.append(group))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for rank in range(3):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        waited.clear()
        with Processes(rank, 3, torch.device("cpu"), node="node").one_after_the_other():
            assert waited == ["node"] * rank
        assert waited == ["node"] * 3

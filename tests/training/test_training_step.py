"""Our step equals a plain, slow one: images and prompts encoded online, a second UNet resident."""

import numpy as np
import pytest
import torch
from slow_trainer import SlowTrainer, assert_steps_equal

from training.batches import rows_of_step
from training.loop import train
from training.pairs import open_pairs
from training.study_file import data_config, policy_config, read_study


@pytest.mark.parametrize(
    ("objective", "adaptation", "velocity"),
    [
        ("arenapo", "lora", False),
        ("arenapo", "full", True),
        ("dpo", "lora", True),
        ("fixed_margin", "full", False),
        ("sft", "lora", False),
        ("arenapo_weighted", "lora", False),
        ("arenapo_regression", "lora", True),
        ("ipo", "full", False),
        ("cdpo", "lora", False),
        ("sdpo", "full", True),
    ],
)
def test_steps_equal_the_plain_slow_ones(
    objective, adaptation, velocity, toy, tiny_pipeline, tiny_velocity_pipeline, tmp_path
):
    base = tiny_velocity_pipeline if velocity else tiny_pipeline
    assert_steps_equal(SlowTrainer, base, toy, tmp_path, objective, adaptation=adaptation)


def test_accumulation_changes_memory_and_not_the_step(toy, tiny_pipeline, tmp_path):
    from safetensors.torch import load_file

    weights = []
    for parts in (1, 2):
        study = toy.write_study(tmp_path / f"{parts}.toml", tiny_pipeline, accumulation=parts)
        train(
            policy_config(study, "arenapo"),
            data_config(read_study(study)),
            open_pairs(toy.pairs),
            tmp_path / str(parts),
        )
        path = tmp_path / str(parts) / "policy" / "pytorch_lora_weights.safetensors"
        weights.append(load_file(path))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, atol=1e-5, rtol=1e-5)


def test_every_pair_is_seen_once_an_epoch_in_a_new_order():
    steps = [rows_of_step(seed=1, step=s, batch_size=4, n=10) for s in range(5)]
    order = np.concatenate(steps)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10].tolist() != order[10:].tolist()
    assert rows_of_step(1, 0, 25, 10).tolist()[:20] == order.tolist()

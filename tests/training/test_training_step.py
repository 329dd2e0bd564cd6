"""Our step equals a plain, slow one: images and prompts encoded online, a second UNet resident."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from slow_trainer import SlowTrainer, assert_steps_equal

from training.loop import train
from training.order import rows_of_step
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
        ("dmpo", "lora", False),
        ("poly_dpo", "full", False),
        ("alpha_dpo", "lora", True),
        ("hinge", "lora", False),
    ],
)
def test_steps_equal_the_plain_slow_ones(
    objective, adaptation, velocity, toy, tiny_pipeline, tiny_velocity_pipeline, tmp_path
):
    base = tiny_velocity_pipeline if velocity else tiny_pipeline
    assert_steps_equal(SlowTrainer, base, toy, tmp_path, objective, adaptation=adaptation)


def test_pairs_at_once_change_memory_and_not_the_step(toy, tiny_pipeline, tmp_path):
    weights = []
    for at_once in (8, 3, 1):
        options = {"pairs_at_once": at_once, "beta_dpo": 8.0, "steps": 2}
        study = toy.write_study(tmp_path / f"{at_once}.toml", tiny_pipeline, **options)
        train(
            policy_config(study, "arenapo"),
            data_config(read_study(study)),
            open_pairs(toy.pairs),
            tmp_path / str(at_once),
        )
        path = tmp_path / str(at_once) / "policy" / "pytorch_lora_weights.safetensors"
        weights.append(load_file(path))
    for other in weights[1:]:
        for name, value in weights[0].items():
            torch.testing.assert_close(other[name], value, atol=1e-5, rtol=1e-5)


def test_every_pair_is_seen_once_an_epoch_in_a_new_order():
    steps = [rows_of_step(seed=1, step=s, batch_size=4, n=10) for s in range(5)]
    order = np.concatenate(steps)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10].tolist() != order[10:].tolist()
    assert rows_of_step(1, 0, 25, 10).tolist()[:20] == order.tolist()

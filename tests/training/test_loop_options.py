"""What the loop offers beside the plain step: each changes what it says it does, and no more."""

import math
import re
import shutil
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from diffusers.training_utils import EMAModel
from in_process import lines, run
from safetensors.torch import load_file
from several import train_on_two_nodes

from training import TrainingError
from training.config import ConfigError
from training.learner import Learner
from training.machine import compile_errors
from training.optimizer import learning_rate, make_optimizer
from training.processes import Processes
from training.study_file import policy_config

ADAPTER = "policy/pytorch_lora_weights.safetensors"


def assert_equal_weights(one, two, tolerance=1e-5):
    one, two = (load_file(out / ADAPTER) for out in (one, two))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=tolerance, rtol=tolerance)


@pytest.mark.slow
def test_two_processes_are_one_with_the_whole_batch(
    toy, tiny_pipeline, tmp_path, train_in_two
):
    # beta_dpo multiplies rounding: at the toy's 200 it alone makes 1e-5 of it. And AdamW moves a
    # weight whose gradient is rounding by the learning rate.
    options = {"log_every": 1, "validate_every": 2, "beta_dpo": 8.0, "learning_rate": 1e-4}
    study = toy.write_study(tmp_path / "study.toml", tiny_pipeline, **options)
    run(study, tmp_path / "one", judges=512)
    # A cache of its own: the two must also have shared the encoding.
    said = train_in_two(study, tmp_path / "two", "--set", f"cache.root={tmp_path / 'cache'}")
    assert "2 x cpu" in said
    assert_equal_weights(tmp_path / "one", tmp_path / "two")
    for one, two in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        for key in set(one) - {"pairs_per_second", "seconds_left", "peak_memory_gib"}:
            assert two[key] == pytest.approx(one[key], rel=1e-5, abs=1e-6), key
    # One process goes on where two stopped, by other parts, and takes the same steps to rounding.
    longer = ["train.steps=6", "train.pairs_at_once=1"]
    assert run(study, tmp_path / "two", overrides=longer, resume=True)["steps"] == 6
    run(study, tmp_path / "one", overrides=longer[:1], resume=True)
    assert_equal_weights(tmp_path / "one", tmp_path / "two")


@pytest.fixture
def one_thread():
    """As torchrun gives each of its processes: another number of threads sums in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_nodes_that_share_no_disk_encode_each_and_exact_sums_are_those_of_one(
    toy, tiny_pipeline, tmp_path, one_thread, warm_python
):
    options = {"steps": 2, "log_every": 1, "exact_sums": True}
    study = toy.write_study(tmp_path / "study.toml", tiny_pipeline, **options)
    caches = [tmp_path / "cache_0", tmp_path / "cache_1"]
    first, other = train_on_two_nodes(warm_python, study, tmp_path / "two", caches)
    assert "2 x cpu" in first
    assert "2 x cpu" not in other  # one speaks
    counts = []
    for cache in caches:
        (folder,) = (cache / "latents").iterdir()
        counts.append(len({name for path in folder.iterdir() for name in load_file(path)}))
    assert counts[0] == counts[1] > 0
    run(study, tmp_path / "one")
    assert_equal_weights(tmp_path / "one", tmp_path / "two", 0)
    # One process goes on where two stopped, by other parts: to the bit.
    longer = ["train.steps=4", "train.pairs_at_once=1"]
    two = run(study, tmp_path / "two", overrides=longer, resume=True)
    one = run(study, tmp_path / "one", overrides=longer[:1], resume=True)
    assert two["data_version"] == one["data_version"]


def test_a_run_that_the_processes_see_differently_is_refused(monkeypatch):
    """As where --out lies on each node's own disk: one finds a checkpoint, the other none."""

    def gathered(every, value, group):
        every[:] = [value, 0]

    monkeypatch.setattr(torch.distributed, "all_gather_object", gathered)
    two = Processes(0, 2, torch.device("cpu"))
    two.agree(0, "checkpoints")
    with pytest.raises(TrainingError, match=r"different checkpoints .*\[4, 0\].* all nodes share"):
        two.agree(4, "checkpoints")


def test_the_processes_of_a_node_are_told_by_the_launchers_variables(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    whole = Processes(5, 8, torch.device("cpu"), host="all", node="these")
    node = whole.of_node()
    assert (node.rank, node.count, node.host) == (1, 4, "these")


@pytest.mark.slow
def test_a_compiled_denoiser_takes_the_same_steps(toy, tiny_pipeline, tmp_path, monkeypatch):
    compile_whole = torch.nn.Module.compile
    # Capture, guards on the adapters and the backward graph are what can go wrong here; inductor's
    # own code is refused on a CPU.
    monkeypatch.setattr("training.job.refuse_on_cpu", lambda config, device: None)
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self: compile_whole(self, backend="aot_eager")
    )
    options = {"beta_dpo": 8.0, "learning_rate": 1e-4, "steps": 2}
    study = toy.write_study(tmp_path / "study.toml", tiny_pipeline, **options)
    results = [
        run(study, tmp_path / on, overrides=[f"train.compile={on}"]) for on in ("false", "true")
    ]
    assert results[1]["loss"] == pytest.approx(results[0]["loss"], rel=1e-5)
    assert_equal_weights(tmp_path / "false", tmp_path / "true", 1e-5)
    for file in (ADAPTER, "checkpoints/step-00000002.safetensors"):
        plain, compiled = (load_file(tmp_path / on / file) for on in ("false", "true"))
        assert plain.keys() == compiled.keys()  # no `_orig_mod.`


def test_compiling_is_refused_on_a_cpu(toy, tmp_path):
    with pytest.raises(ConfigError, match=r"train.compile = true needs a GPU: .* = false"):
        run(toy.study, tmp_path / "run", overrides=["train.compile=true"])
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_missing_compiler_is_one_sentence(toy, monkeypatch):
    from torch._inductor import config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", (None, "no-such-compiler"))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    config = policy_config(toy.study, "dpo", ["train.compile=true"])
    with (
        pytest.raises(TrainingError, match=r"^train.compile = true: .*No working C\+\+ comp") as it,
        compile_errors(config),
    ):
        torch.compile(lambda x: x.sin() + 1)(torch.ones(8))
    assert "\n" not in str(it.value)


def test_fp16_scales_its_loss_skips_overflows_and_resumes(toy, tiny_pipeline, tmp_path):
    study = toy.write_study(
        tmp_path / "study.toml", tiny_pipeline, precision="fp16", steps=3, batch_size=2,
        log_every=1, checkpoint_every=1,
    )  # fmt: skip
    whole = run(study, tmp_path / "whole")
    state = load_file(tmp_path / "whole/checkpoints/step-00000003.safetensors")
    assert state["scaler.scale"] > 1
    assert all(value.isfinite().all() for value in state.values())
    assert all(v.dtype == torch.float32 for k, v in state.items() if k.startswith("weights."))
    run(study, tmp_path / "parts", overrides=["train.steps=2"])
    assert run(study, tmp_path / "parts", resume=True)["data_version"] == whole["data_version"]
    fp32 = run(study, tmp_path / "fp32", overrides=["train.precision=fp32"])
    assert whole["loss"] == pytest.approx(fp32["loss"], rel=0.05)


def test_the_running_mean_is_its_recurrence_and_is_what_is_saved(toy, tiny_pipeline, tmp_path):
    """diffusers' EMAModel: the decay is 0, then (1 + n) / (10 + n), at most what is asked for."""
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    mean, expected = EMAModel([weight], decay=0.3), 1.0
    for step in range(6):
        weight.data += 1
        mean.step([weight])
        decay = min(0.3, (1 + step) / (10 + step)) if step else 0.0
        expected = decay * expected + (1 - decay) * (step + 2)
        assert mean.shadow_params[0].item() == pytest.approx(expected)

    overrides = ["train.ema_decay=0.9"]
    whole = run(toy.study, tmp_path / "mean", overrides=overrides)
    state = load_file(tmp_path / "mean/checkpoints/step-00000004.safetensors")
    saved = load_file(tmp_path / "mean" / ADAPTER)
    down = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q.lora_A"
    layer = down.removesuffix(".lora_A")
    (name,) = [key for key in saved if layer in key and ("lora_A" in key or "lora.down" in key)]
    torch.testing.assert_close(saved[name], state[f"mean.{down}.default.weight"])
    assert (saved[name] != state[f"weights.{down}.default.weight"]).any()
    run(toy.study, tmp_path / "parts", overrides=[*overrides, "train.steps=2"])
    parts = run(toy.study, tmp_path / "parts", overrides=overrides, resume=True)
    assert parts["data_version"] == whole["data_version"]


def test_schedules_rise_and_fall_by_their_formulas(toy):
    def rates(schedule):
        overrides = [f"train.schedule={schedule}", "train.steps=10", "train.warmup_steps=4"]
        config = policy_config(toy.study, "dpo", [*overrides, "train.learning_rate=1.0"])
        return [learning_rate(config, step) for step in range(10)]

    assert rates("constant") == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 7])
    assert rates("linear")[4:] == pytest.approx([1 - i / 6 for i in range(6)])
    assert rates("cosine")[4:] == pytest.approx(
        [(1 + math.cos(math.pi * i / 6)) / 2 for i in range(6)]
    )


def test_more_steps_are_another_run_where_the_rate_falls_to_the_last(toy, tmp_path):
    overrides = ["train.schedule=cosine", "train.steps=2"]
    run(toy.study, tmp_path, overrides=overrides)
    with pytest.raises(TrainingError, match=r"differs in steps \(2 there, 4 here\)"):
        run(toy.study, tmp_path, overrides=overrides[:1], resume=True)


def test_the_8_bit_optimiser_says_what_it_needs(toy, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    for setting in ("train.optimizer=adamw_8bit", "train.quantization=nf4"):
        with pytest.raises(ConfigError, match=r"needs bitsandbytes: pip install bitsandbytes"):
            run(toy.study, tmp_path / "run", overrides=[setting])
    assert not (tmp_path / "run").exists()


def test_the_8_bit_optimiser_keeps_bytes_and_resumes_to_the_bit(toy, tmp_path):
    pytest.importorskip("bitsandbytes")
    overrides = ["train.optimizer=adamw_8bit", "train.adaptation=full"]
    whole = run(toy.study, tmp_path / "whole", overrides=overrides)
    run(toy.study, tmp_path / "parts", overrides=[*overrides, "train.steps=2"])
    parts = run(toy.study, tmp_path / "parts", overrides=overrides, resume=True)
    assert parts["data_version"] == whole["data_version"]
    state = load_file(tmp_path / "whole/checkpoints/step-00000004.safetensors")
    for name, weight in state.items():
        if name.startswith("weights."):
            moment = state[f"optimizer.state1.{name.removeprefix('weights.')}"]
            assert moment.dtype == (torch.uint8 if weight.numel() >= 4096 else torch.float32)


def test_the_8_bit_moments_lie_as_their_weight_does(toy):
    pytest.importorskip("bitsandbytes")
    # Its GPU kernels walk both by address; weights come as channels_last there.
    weight = torch.nn.Parameter(torch.randn(32, 16, 3, 3).to(memory_format=torch.channels_last))
    config = policy_config(toy.study, "dpo", ["train.optimizer=adamw_8bit"])
    optimizer = make_optimizer(config, [weight])
    weight.grad = torch.ones_like(weight)
    optimizer.step()
    assert optimizer.state[weight]["state1"].stride() == weight.stride()


def full_gpu(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


@pytest.mark.parametrize("changes", [[], ["train.adaptation=full", "train.precision=fp32"]])
def test_what_a_full_gpu_proposes_continues_the_run(changes, toy, tmp_path, monkeypatch):
    """Each setting as it is written in the sentence, typed behind --set."""
    run(toy.study, tmp_path / "first", overrides=[*changes, "train.steps=2"])
    step = Learner.step
    monkeypatch.setattr(Learner, "step", full_gpu)
    with pytest.raises(TrainingError) as caught:
        run(toy.study, tmp_path / "first", overrides=changes, resume=True)
    monkeypatch.setattr(Learner, "step", step)
    said = str(caught.value)
    assert said.startswith("out of GPU memory while training (CUDA out of memory): continue with")
    same, _, other = said.partition("; or start again in a new --out with ")
    proposed = [f"{key}={value}" for key, value in re.findall(r"(train\.\w+) = (\S+?)[, ]", same)]
    assert proposed[:2] == ["train.pairs_at_once=2", "train.gradient_checkpointing=true"]
    for number, setting in enumerate(proposed):
        shutil.copytree(tmp_path / "first", tmp_path / str(number))
        overrides = [*changes, "train.steps=3", setting]
        longer = run(toy.study, tmp_path / str(number), overrides=overrides, resume=True)
        assert longer["steps"] == 3
    for key, value in re.findall(r"(train\.\w+) = (\S+?)(?:,|$)", other):
        policy_config(toy.study, "dpo", [f"{key}={value}"])  # there is such a setting


@pytest.mark.parametrize(
    ("what", "doing", "proposed"),
    [
        ("training.families.Family.prompt_encoder", "encoding", "set train.offload_encoders"),
        ("training.model.Model.__init__", "loading", "start again in a new --out with train.pre"),
    ],
)
def test_a_full_gpu_before_the_first_step_is_not_blamed_on_it(
    what, doing, proposed, toy, tmp_path, monkeypatch
):
    monkeypatch.setattr(what, full_gpu)
    overrides = [f"cache.root={tmp_path / 'cache'}", "train.shard=true"]
    sentence = f"out of GPU memory while {doing}.*{proposed}"
    with pytest.raises(TrainingError, match=sentence) as caught:
        run(toy.study, tmp_path / "run", overrides=overrides)
    assert "pairs_at_once" not in str(caught.value)


def test_sdpo_keeps_the_winners_error_below_dpos(toy, tmp_path):
    overrides = ["train.adaptation=full", "train.log_every=1", "train.learning_rate=0.003"]
    overrides += ["train.steps=8"]
    for policy in ("dpo", "sdpo"):
        run(toy.study, tmp_path / policy, policy, overrides)
    dpo, sdpo = (lines(tmp_path / policy) for policy in ("dpo", "sdpo"))
    assert sdpo[0]["loss"] == pytest.approx(dpo[0]["loss"])
    assert sdpo[-1]["winner_error"] < 0.9 * dpo[-1]["winner_error"]


def test_shuffled_gaps_train_another_arenapo_and_the_same_dpo(toy, tmp_path):
    versions = {
        (policy, on): run(
            toy.study, tmp_path / f"{policy}-{on}", policy,
            [f"train.shuffle_gaps={on}", "train.steps=2"],
        )["data_version"]
        for policy in ("arenapo", "dpo")
        for on in ("true", "false")
    }  # fmt: skip
    assert versions["arenapo", "true"] != versions["arenapo", "false"]
    assert versions["dpo", "true"] == versions["dpo", "false"]


def test_margin_spread_changes_the_margins_and_leaves_their_mean(toy, tmp_path):
    overrides = ["train.steps=1", "train.log_every=1", "train.batch_size=16"]
    own = run(toy.study, tmp_path / "own", "arenapo", overrides)
    wide = run(toy.study, tmp_path / "wide", "arenapo", [*overrides, "train.margin_spread=5"])
    assert own["data_version"] != wide["data_version"]
    (first,), (second,) = (lines(tmp_path / name) for name in ("own", "wide"))
    assert first["inside_p50"] == second["inside_p50"]
    assert second["margin_p90"] - second["margin_p10"] > first["margin_p90"] - first["margin_p10"]


def test_cdpo_refuses_pairs_without_a_probability(toy, tmp_path):
    table = pq.read_table(toy.pairs)
    probability = table["probability"].to_numpy().copy()
    probability[5] = np.nan
    index = table.column_names.index("probability")
    bad = tmp_path / "pairs.parquet"
    pq.write_table(table.set_column(index, "probability", [probability]), bad)
    overrides = [f"training_set.pairs={bad}"]
    vote = table["vote_id"][5].as_py()
    with pytest.raises(TrainingError, match=f"which cdpo needs: {vote}"):
        run(toy.study, tmp_path / "cdpo", "cdpo", overrides)
    run(toy.study, tmp_path / "dpo", "dpo", [*overrides, "train.steps=1"])

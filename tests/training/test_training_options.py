"""Options of [train] that nothing else tests: what each does, and that a run with it resumes."""

import dataclasses
import signal
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny_pipelines
import torch
from in_process import run
from safetensors.torch import load_file, save_file

from training import report
from training.building import build_pairs
from training.checkpoint import CheckpointError
from training.config import ConfigError
from training.encoding import Source
from training.families import Family, ModelError, open_family
from training.inputs import Inputs
from training.learner import Learner
from training.loop import Interrupted
from training.model import Model
from training.order import Turns, turns_of
from training.pairs import COUNTED, PairsError, open_pairs
from training.processes import Processes
from training.study_file import data_config, policy_config, read_study

ALONE = Processes(0, 1, torch.device("cpu"))
ADAPTER = "policy/pytorch_lora_weights.safetensors"


def made(toy, overrides=(), policy="arenapo"):
    """A learner, and a batch of six pairs for it; the reference's errors are some numbers."""
    data = data_config(read_study(toy.study, overrides))
    config, pairs = policy_config(toy.study, policy, overrides), open_pairs(data.pairs)
    family, rows = open_family(config.base), np.arange(6)
    source = Source(family, data.images, data.cache, ALONE, lambda text: None)
    inputs = Inputs(config, source, pairs.images, pairs.prompts, [(pairs.train, rows)])
    drawn = inputs.new_draws(pairs.train, rows, torch.Generator().manual_seed(0))
    known = 1 + 0.01 * torch.arange(12.0).view(6, 2)
    config = dataclasses.replace(config, pairs_at_once=6)
    ((_, batch),) = inputs.parts(pairs.train, rows, drawn, Turns.plain(0 * rows), known)
    return Learner(config, family, ALONE), batch


# Options that change a step: each resumes to the bit --------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        ["train.optimizer=adafactor"],
        ["train.optimizer=prodigy", "train.learning_rate=1.0"],
        ["train.lora_dropout=0.5"],
        ["train.reference_decay=0.9"],
        ["train.reference_decay=0.9", "train.adaptation=full"],
        ["train.gap_power=0.5", "train.beta_gradient=50"],
    ],
    ids=lambda options: "+".join(options).replace("train.", ""),
)
def test_a_run_with_an_option_resumes_to_the_bit_and_differs_from_one_without(
    options, toy, tmp_path
):
    if "prodigy" in options[0]:
        pytest.importorskip("prodigyopt")
    options = [*options, "train.steps=3", "train.batch_size=2", "train.checkpoint_every=9"]
    whole = run(toy.study, tmp_path / "whole", overrides=options)
    run(toy.study, tmp_path / "parts", overrides=[*options, "train.steps=2"])
    parts = run(toy.study, tmp_path / "parts", overrides=options, resume=True)
    assert parts["data_version"] == whole["data_version"]
    kept = [each for each in options if "adaptation" in each or each in options[-3:]]
    plain = run(toy.study, tmp_path / "plain", overrides=kept)
    assert plain["data_version"] != whole["data_version"]


@pytest.mark.parametrize("optimizer", ["adafactor", "prodigy"])
def test_an_optimiser_by_name_takes_the_steps_of_its_library(optimizer, toy):
    overrides = [f"train.optimizer={optimizer}", "train.warmup_steps=0", "train.learning_rate=0.1"]
    if optimizer == "adafactor":
        kind, keys = torch.optim.Adafactor, {}
    else:
        kind = pytest.importorskip("prodigyopt").Prodigy
        keys = {"safeguard_warmup": True, "use_bias_correction": True}
    learner, batch = made(toy, overrides)
    twin, _ = made(toy, overrides)
    weights = list(twin.model.trained.values())
    library = kind(weights, lr=0.1, weight_decay=learner.config.weight_decay, **keys)
    for step in range(2):
        learner.step(step, [batch])
        twin._measure(batch)["loss"].mean().backward()
        torch.nn.utils.clip_grad_norm_(weights, twin.config.max_grad_norm)
        library.step()
        library.zero_grad()
    for mine, theirs in zip(learner.model.trained.values(), weights, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-5)


# Dropout ----------------------------------------------------------------------------------------


def test_dropout_is_of_learning_alone_and_a_function_of_seed_and_step(toy):
    # Additions begin as nothing, and nothing cannot be dropped.
    learners = [made(toy, ["train.lora_dropout=0.5"]) for _ in range(3)]
    for learner, _ in learners:
        with torch.no_grad():
            for parameter in learner.model.trained.values():
                parameter.fill_(0.05)
    batch = learners[0][1]
    still = learners[0][0].evaluate(batch)["inside"]
    assert torch.equal(learners[0][0].evaluate(batch)["inside"], still)
    first, again, later = (
        learner.step(step, [batch])["inside"]
        for (learner, _), step in zip(learners, (0, 0, 1), strict=True)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, later)
    assert not torch.equal(first, still)
    assert not learners[0][0].model.policy.training


def test_checkpointed_activations_are_dropped_alike(toy):
    """They are computed twice, and a gradient of other masks would be another one."""
    gradients = []
    for on in ("false", "true"):
        overrides = ["train.lora_dropout=0.5", f"train.gradient_checkpointing={on}"]
        learner, batch = made(toy, [*overrides, "train.learning_rate=1e-9"])
        gradients.append(learner.step(0, [batch])["grad_norm"])
    torch.testing.assert_close(*gradients, atol=0, rtol=1e-4)


@pytest.mark.parametrize(
    ("policy", "setting"), [("dpo", "lora_dropout=0.5"), ("sdpo", "safeguard=part")]
)
def test_where_a_step_depends_on_its_parts_they_stay_as_they_are(policy, setting, toy, tmp_path):
    options = [f"train.{setting}", "train.steps=1", "train.batch_size=2"]
    run(toy.study, tmp_path, policy, options)
    with pytest.raises(CheckpointError, match=r"differs in pairs_at_once \(32 there, 1 here\)"):
        run(toy.study, tmp_path, policy, [*options, "train.pairs_at_once=1"], resume=True)


def test_a_run_starts_from_a_lora_by_its_content(toy, tmp_path):
    short = ["train.steps=1", "train.batch_size=2", "train.learning_rate=0.1"]
    run(toy.study, tmp_path / "first", overrides=short)
    file = tmp_path / "first" / ADAPTER
    options = [*short, f"model.adapter={tmp_path / 'first/policy'}"]
    plain = run(toy.study, tmp_path / "plain", overrides=short)
    second = run(toy.study, tmp_path / "second", overrides=options)
    assert second["data_version"] != plain["data_version"]
    state = load_file(file)
    save_file({name: 2 * value for name, value in state.items()}, file)
    with pytest.raises(CheckpointError, match="differs in the adapter"):
        run(toy.study, tmp_path / "second", overrides=options, resume=True)
    file.unlink()
    with pytest.raises(ModelError, match=r"model.adapter: there is no file or folder"):
        run(toy.study, tmp_path / "third", overrides=options)


# A reference that follows the policy -------------------------------------------------------------


def test_a_moving_reference_is_the_running_mean_of_the_policys_weights(toy):
    decay, overrides = 0.75, ["train.reference_decay=0.75", "train.lora_dropout=0.5"]
    learner, batch = made(toy, [*overrides, "train.warmup_steps=0", "train.learning_rate=0.01"])
    batch = dataclasses.replace(batch, reference=None)
    with torch.no_grad():  # additions begin as nothing, which cannot be dropped
        for name, parameter in learner.model.trained.items():
            learner.model.reference[name].copy_(parameter.fill_(0.05))
    expected = {name: p.detach().clone() for name, p in learner.model.trained.items()}
    assert learner.step(0, [batch])["drift"].max() > 0  # dropout: of the policy alone
    for step in (1, 2, 3):
        for name, parameter in learner.model.trained.items():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
        if step < 3:
            learner.step(step, [batch])
    own = {name: p.detach().clone() for name, p in learner.model.trained.items()}
    for name, value in learner.model.reference.items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=1e-5)
    errors = learner.reference_errors(batch)
    for name, parameter in learner.model.trained.items():
        assert torch.equal(parameter, own[name])  # swapped back
        parameter.data.copy_(expected[name])
    residual, _ = learner._residual(batch)
    found = residual.square().flatten(1).mean(1).view(2, -1).T
    torch.testing.assert_close(errors, found, atol=1e-5, rtol=1e-5)


# What a pair weighs ------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["dpo", "arenapo"])
def test_gap_power_multiplies_a_pairs_beta_by_its_gap_to_that_power(policy, toy):
    plain, batch = made(toy, policy=policy)
    powered, _ = made(toy, ["train.gap_power=0.5"], policy)
    batch = dataclasses.replace(batch, gap=torch.tensor([0.0, 0.25, 1.0, 4.0, 9.0, -1.0]))
    one, two = plain.evaluate(batch)["inside"], powered.evaluate(batch)["inside"]
    factor = torch.tensor([0.0, 0.5, 1.0, 2.0, 3.0, 0.0])
    torch.testing.assert_close(two, factor * one, atol=1e-5, rtol=1e-5)
    assert (one != 0).all()


def test_a_policy_reads_gaps_by_its_objective_or_by_its_power(toy):
    read = {name: policy_config(toy.study, name).reads_gap for name in ("sft", "dpo", "arenapo")}
    assert read == {"sft": False, "dpo": False, "arenapo": True}
    powered = ["train.gap_power=1"]
    assert policy_config(toy.study, "dpo", powered).reads_gap
    assert not policy_config(toy.study, "sft", powered).reads_gap


def test_a_policy_is_stale_by_the_columns_that_it_reads(toy):
    from assets.inputs import PAIR, pair_columns

    study = SimpleNamespace(raw=read_study(toy.study))
    gap = ["gap", "probability"]
    for policy, overrides, more in (
        ("dpo", [], []),
        ("arenapo", [], gap),
        ("dpo", ["train.gap_power=1"], gap),
        ("cdpo", ["train.soft_label=counts"], [*gap, COUNTED]),
    ):
        config = policy_config(toy.study, policy, overrides)
        assert pair_columns(study, config) == [*PAIR, *more]


def counted_pairs(toy, folder):
    """The toy's pairs, each with the share of a vote of its own raters."""
    table = pq.read_table(toy.pairs)
    share = np.linspace(0.55, 0.95, table.num_rows)
    pq.write_table(table.append_column(COUNTED, pa.array(share)), folder / "pairs.parquet")
    return share[pa.compute.equal(table["split"], "train").to_numpy(zero_copy_only=False)]


def test_soft_labels_are_the_shares_of_a_votes_own_raters(toy, tmp_path):
    """7 of 9 for b: (7 + 1/2) / (9 + 1); a vote without counts has none."""
    votes = {
        "vote_id": ["1", "2"], "prompt": ["p", "q"], "outcome": ["b", "a"],
        "image_a": ["i", "k"], "image_b": ["j", "l"], "model_a": ["A", "A"],
        "model_b": ["B", "B"], "votes_a": [2, None], "votes_b": [7, None],
    }  # fmt: skip
    gaps = {"vote_id": ["1", "2"], "gap": [1.0, 1.0], "gap_sd": [1.0, 1.0]}
    gaps["probability"] = [0.6, 0.6]
    built = build_pairs(pa.table(votes), pa.table(gaps), 0.0, 0)
    assert built[COUNTED].to_pylist() == [pytest.approx(0.75), None]

    share = counted_pairs(toy, tmp_path)
    options = [f"training_set.pairs={tmp_path / 'pairs.parquet'}", "train.soft_label=counts"]
    options += ["train.steps=1", "train.log_every=1", f"train.batch_size={len(share)}"]
    lines: list[dict] = []
    run(toy.study, tmp_path / "out", "cdpo", options, watch=lines.append)
    expected = np.median(np.log(share / (1 - share)))  # cdpo's margin: logit(q)
    assert lines[0]["margin_p50"] == pytest.approx(expected, rel=1e-4)
    without = [option for option in options if "pairs" not in option]
    with pytest.raises(PairsError, match=r"have no probability from 0 to 1, which cdpo needs"):
        run(toy.study, tmp_path / "without", "cdpo", without)


def test_each_image_is_mirrored_by_a_coin_of_its_own():
    config = SimpleNamespace(seed=0, mirror=True, crops=2, reference_draws=0, drop_prompts=0.0)
    votes = np.array([f"v{i}" for i in range(2000)], dtype=object)
    for mirror in (True, False):
        config.mirror = mirror
        turns = [turns_of(config, votes, np.full(2000, t)) for t in (0, 1, 0)]
        crop, turned = np.divmod(np.stack([each.view for each in turns]), 1 + mirror)
        assert crop[0].max() == 0
        assert crop[1].min() == 1
        assert (turned[0] == turned[2]).all()
        if not mirror:
            assert turned.max() == 0
            continue
        assert turned.mean((0, 1)) == pytest.approx([0.5, 0.5], abs=0.03)
        assert np.corrcoef(turned[0].T)[0, 1] == pytest.approx(0, abs=0.07)
        assert np.corrcoef(turned[0, :, 0], turned[1, :, 0])[0, 1] == pytest.approx(0, abs=0.07)


# How it is computed ------------------------------------------------------------------------------


def test_products_are_rounded_where_that_was_asked_for(toy):
    kinds = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [kind.allow_tf32 for kind in kinds]
    try:
        for precision, rounded in (("tf32", True), ("fp32", False), ("bf16", True)):
            config = policy_config(toy.study, "dpo", [f"train.precision={precision}"])
            model = Model(config, open_family(config.base), ALONE)
            assert [kind.allow_tf32 for kind in kinds] == [rounded, rounded]
            assert {p.dtype for p in model.trained.values()} == {torch.float32}
    finally:
        for kind, was in zip(kinds, before, strict=True):
            kind.allow_tf32 = was


def test_attention_is_computed_by_the_backend_that_is_named(toy, tmp_path):
    from diffusers.models.attention_dispatch import attention_backend

    base = tiny_pipelines.save_flux(tmp_path / "base")
    study = toy.write_study(tmp_path / "study.toml", base, steps=1, beta_dpo=8.0)
    with attention_backend("native"):  # diffusers also keeps it for the whole process
        run(study, tmp_path / "own")
        run(study, tmp_path / "named", overrides=["train.attention=_native_math"])
        config = policy_config(study, "dpo", ["train.attention=_native_math"])
        model = Model(config, open_family(str(base)), ALONE)
        named = {getattr(m.processor, "_attention_backend", None)
                 for m in model.policy.modules() if hasattr(m, "processor")}  # fmt: skip
        assert [str(each.value) for each in named] == ["_native_math"]
        with pytest.raises(ConfigError, match=r'train.attention = "fast": .*must be one of'):
            run(study, tmp_path / "none", overrides=["train.attention=fast"])
        with pytest.raises(ConfigError, match=r"UNet2DConditionModel computes attention by torch"):
            run(toy.study, tmp_path / "unet", overrides=["train.attention=native"])
    one, two = (load_file(tmp_path / name / ADAPTER) for name in ("own", "named"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-4)


def test_a_base_in_4_bits_is_asked_of_diffusers(toy, tiny_pipeline, monkeypatch):
    """As far as a CPU goes: what is asked, and the sentence where there is no GPU."""
    import importlib.metadata

    version = importlib.metadata.version
    monkeypatch.setattr(
        "importlib.metadata.version", lambda n: "0.50" if n == "bitsandbytes" else version(n)
    )
    asked = {}
    loaded = Family.loaded
    monkeypatch.setattr(
        Family,
        "loaded",
        lambda self, part, dtype, **how: (asked.update(how), loaded(self, part, dtype))[1],
    )
    family, cpu = open_family(str(tiny_pipeline)), torch.device("cpu")
    model = family.denoiser(cpu, torch.bfloat16, "nf4")
    config = asked["quantization_config"]
    assert config.load_in_4bit
    assert config.bnb_4bit_quant_type == "nf4"
    assert config.bnb_4bit_compute_dtype == torch.bfloat16
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(ConfigError, match=r"is of frozen weights: set train.adaptation"):
        policy_config(toy.study, "dpo", ["train.quantization=nf4", "train.adaptation=full"])
    monkeypatch.undo()
    pytest.importorskip("bitsandbytes")
    if not torch.cuda.is_available():
        with pytest.raises(ModelError, match=r"does not load as UNet2DConditionModel: No GPU"):
            family.denoiser(cpu, torch.bfloat16, "nf4")


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_encoders_are_brought_to_the_device_layer_by_layer(name, tmp_path, monkeypatch):
    """On torch's meta device: the weights stay in main memory, the embeddings do not."""
    from diffusers import DiffusionPipeline

    offloaded, offload = [], DiffusionPipeline.enable_sequential_cpu_offload
    monkeypatch.setattr(
        DiffusionPipeline,
        "enable_sequential_cpu_offload",
        lambda self, **how: (offload(self, **how), offloaded.append(self))[0],
    )
    family = open_family(str(getattr(tiny_pipelines, f"save_{name}")(tmp_path)))
    encoder = family.prompt_encoder(torch.device("meta"), offload=True)
    ((hidden, pooled),) = encoder.encode(["a bright square"])
    assert {hidden.device.type, pooled.device.type} == {"meta"}
    (pipe,) = offloaded
    for part in (each for each in family.texts if each.startswith("text_encoder")):
        hooks = [m._hf_hook for m in getattr(pipe, part).modules() if hasattr(m, "_hf_hook")]
        maps = [hook.weights_map for hook in hooks if getattr(hook, "weights_map", None)]
        kept = {value.device.type for each in maps for value in each.dataset.values()}
        assert kept == {"cpu"}


# When it stops, and where its lines go -----------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_acted_on_after_the_step_that_it_met(number, toy, tmp_path, monkeypatch):
    """Nothing was due there: no line, no checkpoint, no validation."""
    step = Learner.step

    def met(self, at, parts):
        if at == 1:
            signal.raise_signal(number)
        return step(self, at, parts)

    monkeypatch.setattr(Learner, "step", met)
    rare = ["train.log_every=100", "train.checkpoint_every=100", "train.steps=100"]
    with pytest.raises(Interrupted, match="stopped by a signal after step 2; --resume goes on"):
        run(toy.study, tmp_path, overrides=rare)
    assert [p.stem for p in (tmp_path / "checkpoints").iterdir()] == ["step-00000002"]


def test_a_signal_to_another_process_stops_this_one_after_the_same_step(toy, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Processes, "any", lambda self, own: asked.append(own) or len(asked) == 3)
    with pytest.raises(Interrupted, match="after step 3"):
        run(toy.study, tmp_path, overrides=["train.steps=9"])
    assert asked == [False] * 3


def test_trackers_get_the_lines_of_the_metrics(toy, tmp_path, monkeypatch):
    from accelerate import tracking

    heard = []

    class Tracker:
        requires_logging_directory = True

        def __init__(self, run, logging_dir):
            heard.append((run, logging_dir))

        def log(self, values, step):
            heard.append((step, values["loss"]))

        def finish(self):
            heard.append("finished")

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "tensorboard", Tracker)
    with report.Trackers(("tensorboard",), "mine", tmp_path) as trackers:
        trackers({"step": 2, "loss": 0.5})
    assert heard == [("mine", tmp_path), (2, 0.5), "finished"]
    with pytest.raises(ConfigError, match=r'train.trackers = \["no_such"\] needs no_such'):
        run(toy.study, tmp_path / "out", overrides=['train.trackers=["no_such"]'])

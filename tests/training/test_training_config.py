"""The study file: what is accepted, what is refused and how the refusal reads."""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from training.config import ConfigError, ObjectiveName
from training.study_file import data_config, policy_config, policy_names, read_study

MINIATURE = Path(__file__).parents[2] / "experiments" / "miniature.toml"


def write(folder: Path, text: str) -> Path:
    path = folder / "study.toml"
    path.write_text(text)
    return path


STUDY = """
[study]
seed = 3
[lake]
root = "../lake"
[votes]
sources = ["votes.parquet", "https://example.org/votes.parquet"]
[model]
base = "runwayml/stable-diffusion-v1-5"
[train]
steps = 10
gamma = 2
[[policy]]
name = "base"
[[policy]]
name = "mine"
objective = "arenapo"
steps = 20
[scorecard]
scorers = ["pickscore", "miniature=./scorer"]
"""


def test_every_policy_of_the_miniature_is_valid():
    names = policy_names(MINIATURE)
    assert names[0] == "base"
    for name in names[1:]:
        assert policy_config(MINIATURE, name).objective == name.removesuffix("_joint")


def test_a_policy_overrides_train_and_the_command_line_overrides_both(tmp_path):
    study = write(tmp_path, STUDY)
    assert policy_config(study, "mine").steps == 20
    assert policy_config(study, "mine", ["train.steps=40"]).steps == 40
    assert policy_config(study, "mine", ["train.precision=bf16"]).precision == "bf16"


def test_the_study_seed_is_the_default_and_numbers_become_floats(tmp_path):
    config = policy_config(write(tmp_path, STUDY), "mine")
    assert config.seed == 3
    assert isinstance(config.gamma, float)
    assert policy_config(write(tmp_path, STUDY), "mine", ["train.seed=7"]).seed == 7


def test_paths_are_relative_to_the_file_and_overrides_to_the_shell(tmp_path, monkeypatch):
    (tmp_path / "studies").mkdir()
    (tmp_path / "shell").mkdir()
    monkeypatch.chdir(tmp_path / "shell")
    study = read_study(
        write(tmp_path / "studies", STUDY), ["training_set.pairs=mine.parquet", "cache.root=../c"]
    )
    assert study["lake"]["root"] == str(tmp_path / "lake")
    assert study["votes"]["sources"][0] == str(tmp_path / "studies" / "votes.parquet")
    assert study["votes"]["sources"][1] == "https://example.org/votes.parquet"
    assert study["model"]["base"] == "runwayml/stable-diffusion-v1-5"
    assert study["scorecard"]["scorers"] == [
        "pickscore",
        f"miniature={tmp_path / 'studies' / 'scorer'}",
    ]
    data = data_config(study)
    assert data.pairs == tmp_path / "shell" / "mine.parquet"
    assert data.cache == tmp_path / "c"
    assert data.images is None


def test_the_lake_gives_the_default_places(tmp_path):
    data = data_config(read_study(write(tmp_path, STUDY)))
    lake = tmp_path.parent / "lake"
    assert (data.pairs, data.cache) == (lake / "training_set/pairs.parquet", lake / "cache")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stepz=1", "unknown key 'stepz'; allowed: adaptation, alpha, attention"),
        ("train.steps=0", "steps = 0: needs a whole number, 1 or more"),
        ("train.steps=1.5", "steps = 1.5: needs a whole number"),
        ("train.steps=true", "steps = True: needs a whole number"),
        ("train.learning_rate=nan", "needs a number, above 0"),
        ("train.learning_rate=fast", "learning_rate = 'fast': needs a number"),
        ("train.precision=fp8", "precision = 'fp8': needs one of fp32, tf32, bf16"),
        ("train.adaptation=dora", "needs one of lora, full"),
        ("train.targets=[1]", "targets = .1.: needs a list of names"),
        ("steps=1", "needs SECTION.KEY=VALUE"),
        ("policy.gamma=1", "needs SECTION.KEY=VALUE"),
        ("train.steps", "needs SECTION.KEY=VALUE"),
    ],
)
def test_a_bad_value_is_refused_with_its_key_and_what_is_allowed(override, message):
    with pytest.raises(ConfigError, match=message):
        policy_config(MINIATURE, "dpo", [override])


def test_the_base_policy_and_unknown_ones_are_refused():
    with pytest.raises(ConfigError, match=r"'base' has no objective.*nothing to train"):
        policy_config(MINIATURE, "base")
    with pytest.raises(ConfigError, match="no policy named 'x'; it has base, dpo, fixed_margin"):
        policy_config(MINIATURE, "x")


def test_a_broken_or_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.toml: .*No such file"):
        read_study(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match=r"study.toml"):
        read_study(write(tmp_path, "[train\n"))
    with pytest.raises(ConfigError, match="policy must be written as"):
        read_study(write(tmp_path, "[policy]\nname = 'x'"))
    with pytest.raises(ConfigError, match="needs a name of its own"):
        policy_names(write(tmp_path, "[[policy]]\nname = 'x'\n[[policy]]\nname = 'x'"))


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a\\\\b", "-x", "a\\tb", "sd1.5", "x" * 101]
)
def test_a_policys_name_is_one_plain_part_of_a_path(name, tmp_path):
    study = write(tmp_path, f'[[policy]]\nname = "base"\n[[policy]]\nname = "{name}"')
    with pytest.raises(ConfigError, match="a name has letters, digits"):
        policy_names(study)


# What is installed where jobs run, beside Python itself; none of the pipeline's libraries is.
ABSENT = ("polars", "numba", "scipy", "duckdb", "dagster", "mlflow", "pandas", "psutil")
WITHOUT = f"""
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
PathFinder.find_spec = lambda name, *more: None if name.partition(".")[0] in {ABSENT!r} else find(
    name, *more)
"""


def without_the_pipelines_libraries(code, *arguments):
    command = [sys.executable, "-c", WITHOUT + code, *map(str, arguments)]
    done = subprocess.run(command, cwd=MINIATURE.parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_configuration_and_pairs_load_without_torch():
    heavy = "{'torch', 'diffusers', 'transformers'} & set(sys.modules)"
    code = f"import training.config, training.pairs, training.__main__\nassert not {heavy}, {heavy}"
    without_the_pipelines_libraries(code)


def test_a_job_plans_and_trains_where_only_its_own_libraries_are(toy, tmp_path):
    """Every module of the room is imported, and images are read through the arena's reader."""
    code = """
import pkgutil
from importlib import import_module
import training
for found in pkgutil.walk_packages(training.__path__, "training."):
    if found.name != "training.building":  # of a training without the pipeline, where arena is
        import_module(found.name)
from training.__main__ import main
study, out = sys.argv[1:]
job = [study, "--policy", "arenapo", "--out", out]
assert main([*job, "--plan"]) == 0
assert main([*job, "--set", "train.steps=1", "--set", f"cache.root={out}/cache"]) == 0
"""
    said = without_the_pipelines_libraries(code, toy.study, tmp_path / "out")
    assert "activations, 4 pairs at once" in said
    assert said.splitlines()[-1] == str(tmp_path / "out" / "policy")


def test_every_objective_of_the_configuration_has_a_loss():
    from training.objective import PREFERENCE

    assert {"sft", *PREFERENCE} == set(get_args(ObjectiveName))


def test_a_policy_may_use_another_gap_than_the_study(tmp_path):
    from training.study_file import gap_column, gap_estimators

    path = tmp_path / "study.toml"
    path.write_text(
        '[gap]\nestimator = "joint"\n[model]\nbase = "base"\n'
        '[[policy]]\nname = "own"\nobjective = "arenapo"\n'
        '[[policy]]\nname = "other"\nobjective = "arenapo"\ngap_estimator = "pairwise"\n'
    )
    study = read_study(path)
    assert gap_estimators(study) == ["joint", "pairwise"]
    own, other = (policy_config(path, name) for name in ("own", "other"))
    assert (own.gap_estimator, gap_column(study, own)) == ("joint", "gap")
    assert (other.gap_estimator, gap_column(study, other)) == ("pairwise", "pairwise_gap")

"""A rehearsal has the published layouts, and the studies of experiments/ run on one unchanged."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import polars as pl
import pytest

from assets.lake import Lake
from assets.study import read_study
from examples.rehearsal.__main__ import main
from examples.rehearsal.study import SIZES, as_toml, rehearse
from examples.rehearsal.votes import VOTES, world, write_hpd_v3, write_pickapic, write_table
from pipelines.launch import Launcher
from pipelines.needs import needs

ROOT = Path(__file__).parents[2]
STUDIES = sorted(path for path in (ROOT / "experiments").glob("*.toml") if path.stem != "miniature")
SOME = ("base", "arenapo", "arenapo_joint", "sdpo")
# huggingface.co/datasets/yuvalkirstain/pickapic_v2, README.md, dataset_info as of 2026-11.
PICKAPIC = """are_different bool, best_image_uid string, caption string, created_at timestamp[ns],
has_label bool, image_0_uid string, image_0_url string, image_1_uid string, image_1_url string,
jpg_0 binary, jpg_1 binary, label_0 float64, label_1 float64, model_0 string, model_1 string,
ranking_id int64, user_id int64, num_example_per_prompt int64, __index_level_0__ int64"""
ARROW = {"double": "float64", "large_string": "string", "large_binary": "binary"}

pytestmark = pytest.mark.timeout(900)


def study_of(name: str) -> Path:
    return ROOT / "experiments" / f"{name}.toml"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The rehearsals of one study of each kind: name -> its TOML."""
    folder = tmp_path_factory.mktemp("rehearsal")
    names = ("sd15_pickapic", "flux_hpdv3", "own_votes")
    return {name: rehearse(study_of(name), folder / name) for name in names}


def test_pickapic_has_the_columns_of_the_hubs_card(tmp_path):
    import pyarrow.parquet as pq

    write_pickapic(world(), tmp_path, ["train-00000-of-00002-x.parquet", "b.parquet"])
    schema = pq.read_schema(tmp_path / "b.parquet")
    said = [f"{f.name} {ARROW.get(str(f.type), f.type)}" for f in schema]
    assert said == [each.strip() for each in PICKAPIC.replace("\n", " ").split(",")]
    tables = pl.read_parquet(tmp_path / "*.parquet")
    assert tables.height == VOTES
    assert set(tables["label_0"]) == {0.0, 0.5, 1.0}
    assert 0 < tables.filter(~pl.col("has_label")).height < 20


def test_hpd_v3_has_the_keys_of_a_published_record(tmp_path):
    write_hpd_v3(world(), tmp_path / "train.json")
    records = json.loads((tmp_path / "train.json").read_text())
    # The card of huggingface.co/datasets/MizzenAI/HPDv3.
    keys = ["prompt", "path1", "path2", "confidence", "choice_dist", "model1", "model2"]
    assert all(list(record) == keys for record in records)
    assert all((tmp_path / record["path1"]).is_file() for record in records)
    assert any(record["model1"] == record["model2"] for record in records)
    assert {tuple(record["choice_dist"]) for record in records} == {(17, 2), (10, 9)}


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "json", "parquet"])
def test_an_own_table_speaks_the_studys_words(tmp_path, suffix):
    file = tmp_path / f"votes.{suffix}"
    words = {"left": "a", "right": "b", "both": "tie"}
    write_table(world(), file, {"model_a": "left_model", "outcome": "choice"}, words)
    from arena.votes.read import read_votes

    columns = {"model_a": "left_model", "outcome": "choice"}
    read = read_votes([file], columns=columns, outcomes=words)
    assert read.votes["outcome"].to_list() == world().votes["outcome"].to_list()


def test_a_seed_makes_the_same_rehearsal_and_only_sizes_differ_from_the_study(made):
    assert world(3).images == world(3).images
    assert world(3).images != world(4).images
    for name, path in made.items():
        ours, theirs = tomllib.loads(path.read_text()), tomllib.loads(study_of(name).read_text())
        places = {"lake.root", "votes.sources", "votes.images", "model.base", "scorecard.scorers",
                  "generation.prompts", "ksort.dataset"}  # fmt: skip
        sizes = {f"{section}.{key}" for section, keys in SIZES.items() for key in keys}
        assert ours.keys() == theirs.keys()
        assert ours["policy"] == theirs["policy"]
        for section in ours.keys() - {"policy"}:
            changed = {
                f"{section}.{key}"
                for key, value in ours[section].items()
                if theirs[section].get(key) != value
            }
            assert changed <= places | sizes


def test_the_toml_is_read_as_it_was_written():
    raw = {
        "a": {"x": 'q"\\\n', "y": [1, 2.5, 1e-5], "z": True, "t": {"left key": "é"}},
        "policy": [{"name": "p"}, {"name": "q"}],
    }
    assert tomllib.loads(as_toml(raw)) == raw


@pytest.mark.parametrize("name", ["sd15_pickapic", "flux_hpdv3", "own_votes"])
def test_check_says_that_everything_is_there(made, name):
    found = needs(read_study(made[name]))
    assert [(each.what, each.said) for each in found if not each.met] == []


@pytest.mark.parametrize(
    ("sources", "images", "models"),
    [
        ('"../data/pickapic/train-*.tar"', '"../data/pickapic"', 6),
        ('"../data/pickapic_v2_no_images/*.parquet"', '"../data/pickapic_v2/data"', 6),
        ('"../data/hpdv2/train.json"', None, 1),
    ],
    ids=["tars", "no_images", "hpd_v2"],
)
def test_other_published_layouts_of_votes_are_rehearsed(sources, images, models, tmp_path):
    """Tars, the form without images, and HPD v2, with GenEval 2's prompts and HPS v3."""
    study = tmp_path / "own.toml"
    text = study_of("sd15_pickapic").read_text()
    lines = re.sub(r"^sources = .*$", f"sources = [{sources}]", text, count=1, flags=re.M)
    put = f"images = {images}" if images else ""
    lines = re.sub(r"^images = .*$", put, lines, count=1, flags=re.M)
    lines = lines.replace("evaluation_prompts.parquet", "geneval2_data.jsonl")
    study.write_text(lines.replace('"pickscore", "hps_v2.1"', '"pickscore", "hps_v3"'))
    path = read_study(rehearse(study, tmp_path / "x", policies=("base", "arenapo")))
    found = needs(path)
    assert [(each.what, each.said) for each in found if not each.met] == []
    from arena.votes.read import read_votes

    votes = read_votes(path.votes.sources).votes
    assert len(set(votes["model_a"]) | set(votes["model_b"])) == models


def text_with(path: Path, *changes: tuple[str, str]) -> Path:
    """Write the study anew with some words changed."""
    text = path.read_text()
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)
    return path


def missing(path: Path) -> dict[str, str]:
    return {each.what: each.said for each in needs(read_study(path)) if not each.met}


def test_check_finds_what_was_planted_in_files_and_keys(made, tmp_path, monkeypatch):
    shutil.copytree(made["sd15_pickapic"].parent, tmp_path / "x")
    folder = tmp_path / "x"
    hub = folder / "hub"
    (hub / "yuvalkirstain/PickScore_v1/config.json").unlink()
    (hub / "xswu/HPSv2/HPS_v2.1_compressed.pt").unlink()
    (hub / "THUDM/ImageReward/ImageReward.pt").unlink()
    shutil.rmtree(hub / "trl-lib")
    for weights in (hub / "stable-diffusion-v1-5/stable-diffusion-v1-5/unet").glob("*.safetensors"):
        weights.unlink()
    (folder / "data/ksort_eval/Image_meta/total_overlaps.npy").unlink()
    prompts = pl.read_parquet(folder / "data/evaluation_prompts.parquet")
    trained = world().votes["prompt"][0].upper()
    prompts = pl.concat([prompts, pl.DataFrame({"caption": [trained]})])
    prompts.write_parquet(folder / "data/evaluation_prompts.parquet")
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    path = text_with(
        folder / "sd15_pickapic.toml",
        ("resolution = 32", "resolution = 50"),
        ("size = 32", "size = 30"),
        ('judge = "scorer:pickscore"', 'judge = "openai:gpt-4o"\n\n[jobs]\nlaunch = ["no-such"]'),
        ('precision = "bf16"', 'precision = "bf16"\noptimizer = "prodigy"'),
    )
    monkeypatch.setattr("pipelines.fit.find_spec", lambda name: name != "prodigyopt" or None)
    found = missing(path)
    says = {
        "scorer pickscore": "holds no config.json; put it there",
        "scorer hps_v2.1": "holds no HPS_v2.1_compressed.pt",
        "scorer imagereward": "holds no ImageReward.pt",
        "scorer aesthetic": "is not there",
        "model.base": "unet holds no weights; fetch the folder again",
        "model.resolution": "50 is no multiple of 4; write 48",
        "generation.size": "30 is no multiple of 4; write 32",
        "generation.prompts": "1 of 13 are prompts of the votes",
        "ksort.dataset": "total_overlaps.npy",
        "ksort.judge": "set OPENAI_API_KEY",
        "jobs.launch": "no program no-such",
        "package prodigyopt": "pip install prodigyopt",
    }
    for what, said in says.items():
        assert said in found.get(what, "nothing said"), (what, found)
    assert set(found) == set(says)


def test_check_finds_too_little_disk_and_memory(made, monkeypatch):
    monkeypatch.setattr("pipelines.needs.free_space", lambda path: 0)
    monkeypatch.setattr("pipelines.needs.memory_of_machine", lambda: 1)
    assert set(missing(made["own_votes"])) == {"disk", "memory"}


@pytest.mark.parametrize(
    ("changes", "what", "said"),
    [
        ([('"outcome" = "choice"', '"outcome" = "verdict"')], "votes", "verdict"),
        ([('"image_a" = "left_image"', '"image_a" = "picture"')], "votes", "no column picture"),
        ([("own_votes/*.csv", "absent/*.csv")], "votes.sources", "absent"),
        ([("most_rejected = 0.05", 'rater_salt = "NO_SALT"')], "votes.rater_salt", "NO_SALT"),
        ([("stable-diffusion-v1-5/stable-diffusion-v1-5", "sd")], "model.base", "hub/sd"),
    ],
)
def test_check_finds_what_was_planted_in_the_votes(made, tmp_path, changes, what, said):
    shutil.copytree(made["own_votes"].parent, tmp_path / "x")
    found = missing(text_with(tmp_path / "x" / "own_votes.toml", *changes))
    assert said in found.get(what, "nothing said"), found
    assert set(found) <= {what, "votes"}


def test_of_large_votes_check_reads_the_smallest_file(made, monkeypatch):
    monkeypatch.setattr("pipelines.needs.MOST_BYTES", 1000)
    found = {each.what: each for each in needs(read_study(made["sd15_pickapic"]))}
    assert re.fullmatch(r"7\d votes, \d rows rejected, in the smallest of 3 files",
                        found["votes"].said)  # fmt: skip
    assert all(each.met for each in found.values())


def test_check_finds_votes_that_cannot_train(made, tmp_path):
    shutil.copytree(made["own_votes"].parent, tmp_path / "x")
    columns = (
        f'"image_{side}" = "{name}_image", ' for side, name in (("a", "left"), ("b", "right"))
    )
    path = text_with(tmp_path / "x" / "own_votes.toml", *((each, "") for each in columns))
    (file,) = (tmp_path / "x/data/own_votes").glob("*.csv")
    pl.read_csv(file).drop("left_image", "right_image").write_csv(file)
    found = missing(path)
    assert set(found) == {"votes to train on"}
    assert "[votes.columns]" in found["votes to train on"]


def test_check_finds_votes_whose_images_did_not_come(made, tmp_path):
    shutil.copytree(made["flux_hpdv3"].parent, tmp_path / "x")
    shutil.rmtree(tmp_path / "x/data/hpdv3/images")
    found = missing(tmp_path / "x" / "flux_hpdv3.toml")
    assert set(found) == {"images"}
    assert "0 of 64 tried can be used" in found["images"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("stable-diffusion-v1-5/stable-diffusion-v1-5", "else/none"), "has no stand-in"),
        (('"pickscore", "clip"', '"pickscore", "vqa"'), "the scorer vqa has no stand-in"),
        (("[study]", "[study"), "own.toml"),
    ],
)
def test_what_has_no_stand_in_is_said_in_a_sentence(tmp_path, change, says, monkeypatch, capsys):
    study = tmp_path / "own.toml"
    study.write_text(study_of("own_votes").read_text())
    text_with(study, change)
    monkeypatch.setattr(sys, "argv", ["rehearsal", str(study), "--out", str(tmp_path / "out")])
    assert main() == 1
    assert says in capsys.readouterr().err


@pytest.mark.slow
def test_own_votes_run_to_the_report_and_then_nothing_is_recomputed(
    tmp_path, instance, warm_python
):
    path = rehearse(study_of("own_votes"), tmp_path, policies=("base", "arenapo"))
    path.write_text(f"{path.read_text()}\n[jobs]\nlaunch = {json.dumps(warm_python)}\n")
    launcher = Launcher(read_study(path), instance, lambda line: None)
    launcher.chain()
    report = launcher.lake.read("report")
    assert set(report["policy"]) == {"base", "arenapo"}
    assert report["mean_score"].is_not_null().all()
    assert launcher.chain() == []


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("study", STUDIES, ids=lambda path: path.stem)
def test_every_study_runs_is_up_to_date_and_follows_new_votes(study, tmp_path):
    names = [entry["name"] for entry in tomllib.loads(study.read_text())["policy"]]
    path = rehearse(study, tmp_path / "x", policies=[name for name in SOME if name in names])
    home = tmp_path / "home"
    home.mkdir()

    def pipelines(command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pipelines", command, path],
            cwd=ROOT, capture_output=True, text=True, check=False,
            env=os.environ | {"DAGSTER_HOME": str(home)},
        )  # fmt: skip

    for command, said in (("check", "everything is there"), ("run", "stages ran")):
        done = pipelines(command)
        assert done.returncode == 0, done.stderr[-3000:]
        assert said in done.stdout + done.stderr
    again = pipelines("run")
    assert "nothing had changed; nothing was recomputed" in again.stderr, again.stderr[-3000:]
    lake = Lake(read_study(path).lake)
    before = lake.read("votes").height
    deliver(read_study(path).votes.sources[0])
    done = pipelines("run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert lake.read("votes").height > before
    assert lake.read("report")["policy"].n_unique() == len(read_study(path).policies)


def deliver(source: Path) -> None:
    """Bring a second delivery of votes: another shard, another file, or a longer train.json."""
    new = world(offset=VOTES, votes=40)
    if "pickapic" in str(source):
        write_pickapic(new, source.parent, ["train-00003-of-00004-new.parquet"])
    elif source.suffix == ".json":
        known = json.loads(source.read_text())
        write_hpd_v3(new, source)
        source.write_text(json.dumps(known + json.loads(source.read_text())))
    else:
        raw = tomllib.loads(study_of("own_votes").read_text())["votes"]
        write_table(new, source.parent / "0002.csv", raw["columns"], raw["outcomes"])

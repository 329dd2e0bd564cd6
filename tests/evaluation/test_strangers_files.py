"""What strangers send cannot run code, leave its folder, fill the page or move the terminal."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from by_name import load_scorer
from ksort_worlds import write_dataset, write_new_images
from PIL import Image
from tiny_vlm import save_tiny_vlm

from evaluation.__main__ import main
from evaluation.comparison.figures import image_grid, ksort_chart, win_rate_chart
from evaluation.errors import EvaluationError
from evaluation.ksort.dataset import read_dataset
from evaluation.ksort.judges import RecordedJudge
from evaluation.ksort.rating import evaluate
from evaluation.policies import find_policy, load_pipeline


class Bomb:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


CODE = "from pathlib import Path\nPath({path!r}).touch()\nclass Evil: pass\n"


@pytest.mark.parametrize(
    ("scorer", "file"),
    [
        ("hps_v2.1", "HPS_v2.1_compressed.pt"),
        ("imagereward", "ImageReward.pt"),
        ("aesthetic", "sac+logos+ava1-l14-linearMSE.pth"),
        ("clip", "pytorch_model.bin"),
        ("vqa", "pytorch_model.bin"),
    ],
)
def test_a_pickle_among_a_scorers_weights_is_not_run(tmp_path, monkeypatch, scorer, file):
    monkeypatch.setattr("evaluation.hub.out_of_reach", lambda: True)
    ran = tmp_path / "ran"
    folder = (
        save_tiny_vlm(tmp_path / "model", "yes", steps=0) if scorer == "vqa" else tmp_path / "model"
    )
    folder.mkdir(exist_ok=True)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    if scorer == "clip":
        (folder / "config.json").write_text('{"model_type": "clip"}')
    (folder / file).write_bytes(pickle.dumps({"state_dict": Bomb(ran)}))
    with pytest.raises(EvaluationError):
        load_scorer(f"{scorer}={folder}")
    assert not ran.exists()


def test_code_in_a_models_folder_is_not_run(tmp_path, tiny_pipeline, monkeypatch):
    monkeypatch.setattr("evaluation.hub.out_of_reach", lambda: True)
    ran = tmp_path / "ran"
    folder = save_tiny_vlm(tmp_path / "model", "yes", steps=0)
    (folder / "evil.py").write_text(CODE.format(path=str(ran)))
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        path = folder / name
        content = json.loads(path.read_text()) if path.is_file() else {}
        kinds = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer")
        content |= {"auto_map": dict.fromkeys(kinds, "evil.Evil"), "model_type": "evil"}
        path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError):
        load_scorer(f"vqa={folder}")
    assert not ran.exists()
    policy = tmp_path / "policy"
    shutil.copytree(tiny_pipeline, policy)
    (policy / "evil.py").write_text(CODE.format(path=str(ran)))
    (policy / "unet" / "evil.py").write_text(CODE.format(path=str(ran)))
    index = json.loads((policy / "model_index.json").read_text())
    for change in ({"_class_name": ["evil", "Evil"]}, {"unet": ["evil", "Evil"]}):
        (policy / "model_index.json").write_text(json.dumps(index | change))
        with pytest.raises(EvaluationError):
            load_pipeline(find_policy(None, str(policy)), "cpu")
        assert not ran.exists()


@pytest.mark.parametrize(
    "name", ["../../outside", "/tmp/outside", "..", ".", "", "a/b", "sample_0000/", "a\0b"]
)
def test_an_instance_that_is_no_plain_name_is_refused_before_anything_is_written(tmp_path, name):
    world = tmp_path / "world"
    write_dataset(world, np.random.default_rng(0), instances=2)
    names = np.array(["sample_0000", name + "x" if name.endswith("\0") else name])
    np.save(world / "Image_meta" / "subfolders.npy", names)
    with pytest.raises(EvaluationError, match=r"subfolders\.npy: .* is not the name of a folder"):
        read_dataset(world)


@pytest.mark.parametrize("kind", ["pickle", "giant", "empty", "flat", "words"])
def test_an_array_that_is_none_is_one_sentence(tmp_path, kind):
    write_dataset(tmp_path, np.random.default_rng(0), instances=2)
    path = tmp_path / "Image_meta" / "avg_capacitys.npy"
    if kind == "pickle":
        np.save(path, np.array([[Bomb(tmp_path / "ran")] * 4] * 2, dtype=object))
    elif kind == "giant":  # 8 TB by its header
        head = b"{'descr': '<f8', 'fortran_order': False, 'shape': (250000000000, 4), }"
        path.write_bytes(
            b"\x93NUMPY\x01\x00" + (118).to_bytes(2, "little") + head.ljust(117) + b"\n"
        )
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        np.save(path, np.float64(3) if kind == "flat" else np.array([["a"] * 4] * 2))
    with pytest.raises(EvaluationError, match=r"avg_capacitys"):
        read_dataset(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("prompt", ["half \ud800"]),
        ("prompt", [["a"]]),
        ("prompt", []),
        ("img_rank", [0, 1, 2, float("nan")]),
        ("img_rank", {"0": 1}),
        ("models_name", ["no-underscore"] * 4),
        ("models_name", [1, 2, 3, 4]),
    ],
)
def test_an_instance_that_is_none_is_one_sentence(tmp_path, key, value):
    write_dataset(tmp_path, np.random.default_rng(0), instances=1)
    path = tmp_path / "Image" / "sample_0000" / "result.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(EvaluationError, match=r"result\.json: expected"):
        read_dataset(tmp_path).instance(0)


@pytest.mark.parametrize("score", ["1 (2/0)", "1 (2/0.0)", "1 (1.2.3/4)", "words", "1 (nan/1)"])
def test_a_rating_that_is_none_is_one_sentence(tmp_path, score):
    write_dataset(tmp_path, np.random.default_rng(0), instances=1)
    path = tmp_path / "Image_meta" / "Arena-Leaderboard-Image.json"
    board = json.loads(path.read_text())
    board["sorted_score_list"][0]["⭐ Score (μ/σ)"] = score
    path.write_text(json.dumps(board))
    with pytest.raises(EvaluationError, match=r"expected \"score \(mu/sigma\)\""):
        read_dataset(tmp_path)


def test_a_broken_image_costs_its_instance_and_no_more(tmp_path, monkeypatch):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=4)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    (images / "sample_0001.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "flat_scorer.py").write_text(
        "def score(prompts, images):\n    return [0] * len(images)\n"
    )
    out = tmp_path / "result.json"
    arguments = ["ksort", "--dataset", tmp_path / "world", "--images", images, "--out", out]
    assert main([*map(str, arguments), "--judge", "scorer:flat=flat_scorer:score"]) == 0
    result = json.loads(out.read_text())
    assert len(result["rounds"]) == 3
    (left,) = result["skipped"]
    assert left["instance"] == "sample_0001"
    assert "not a readable image" in left["reason"]


EVIL = "\x1b[2J\x9b31m$\\frac$ \u202eevil <img src=x onerror=alert(1)>\u2028"


def test_foreign_names_move_neither_terminal_nor_page_nor_figure(tmp_path, capsys):
    rows = []
    for policy in ("base", EVIL):
        for i in range(4):
            prompt = f"{EVIL} {i} " + "x" * 20_000
            rows.append((policy, prompt, f"{i}.png", EVIL, float(i)))
            Image.new("RGB", (8, 8)).save(tmp_path / f"{i}.png")
    names = ("policy", "prompt", "image", "category", "clip")
    frame = pl.DataFrame(rows, schema=names, orient="row")
    frame.write_parquet(tmp_path / "scores.parquet")
    out = tmp_path / "out"
    assert (
        main(["compare", str(tmp_path / "scores.parquet"), "--baseline=base", f"--out={out}"]) == 0
    )
    page = (out / "comparison.html").read_text()
    said = capsys.readouterr().out
    for letter in "\x1b\x9b\u202e\u2028":
        assert letter not in page + said.replace("\n", "")
    assert "<img src=x" not in page
    assert "&lt;img src=x" in page
    assert len(page) < 60_000  # of eight prompts of 20,000 letters
    grid = image_grid({EVIL: tmp_path / "scores.parquet"}, limit=None)
    row = {"win_rate": 0.5, "win_rate_low": 0.4, "win_rate_high": 0.6, "verdict": "open"}
    chart = win_rate_chart(pl.DataFrame([row | {"policy": EVIL}]), EVIL, limit=None)
    rounds = [{"mu": 25.0, "sigma": 8.0}]
    assert min(map(len, (grid, chart, ksort_chart({EVIL: {"rounds": rounds}})))) > 1000


def test_a_table_with_nonsense_is_one_sentence(tmp_path, capsys):
    head = "policy,prompt,image,clip"
    for content, said in (
        ("policy,policy,prompt,image\na,b,c,d\n", "two columns 'policy'"),
        (f"{head}\nbase,,a.png,1\n", "row 1 has no prompt"),
        (f"{head},seed\nbase,p,a.png,1,0.5\n", "the seed 0.5 is no whole number"),
        (f"{head},seed\nbase,p,a.png,1,first\n", "the seed 'first' is no whole number"),
        (f"{head}\nbase,p,a.png,high\n", "the column 'clip' holds no scores"),
        ("", "not a readable csv table"),
        (f"{head}\n", "no image of the baseline 'base'"),
        (f"{head}\nbase,p,a.png\n", "not a readable csv table"),
    ):
        (tmp_path / "scores.csv").write_text(content)
        arguments = ["compare", str(tmp_path / "scores.csv"), "--baseline=base"]
        assert main([*arguments, "--out", str(tmp_path / "out")]) == 1, content
        error = capsys.readouterr().err
        assert said in error, content
        assert error.count("\n") == 1
    rows = {"policy": ["base"], "prompt": [["a list"]], "image": ["a.png"], "clip": [1.0]}
    pl.DataFrame(rows).write_parquet(tmp_path / "scores.parquet")
    arguments[1] = str(tmp_path / "scores.parquet")
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 1
    assert "not a readable parquet table" in capsys.readouterr().err


def test_ids_that_some_rows_lack_are_no_ids(tmp_path):
    """A csv writes nothing where there is no id: that is not one id of many prompts."""
    path = tmp_path / "scores.csv"
    path.write_text(
        "policy,prompt_id,prompt,image,clip\nbase,1,a,a.png,1\nbase,2,b,b.png,1\n"
        "new,,a,c.png,2\nnew,,b,d.png,0\n"
    )
    assert main(["compare", str(path), "--baseline=base", "--out", str(tmp_path / "out")]) == 0
    rows = json.loads((tmp_path / "out" / "comparison.json").read_text())["comparisons"]
    assert [(row["policy"], row["images"]) for row in rows] == [("base", 2), ("new", 2)]


def test_recorded_judgments_may_hold_line_separators_and_no_nonsense(tmp_path):
    path = tmp_path / "judge.jsonl"
    path.write_text('{"instance": "a\u2028b", "ranks": [0, 1, 2, 3, 4]}\n', encoding="utf-8")
    assert RecordedJudge(path).ranks == {"a\u2028b": [0, 1, 2, 3, 4]}
    for line in ("{", "[]", '{"instance": "a"}', '{"instance": "a", "ranks": 5}', "[" * 100_000):
        path.write_text(line)
        with pytest.raises(EvaluationError, match=r"judge\.jsonl: line 1"):
            RecordedJudge(path)
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=1)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    path.write_text('{"instance": "sample_0000", "ranks": [0, 1, 2, 3, NaN]}')
    with pytest.raises(EvaluationError, match="not five ranks"):
        evaluate(read_dataset(tmp_path / "world"), images, RecordedJudge(path))


def test_what_is_no_file_of_kept_scores_is_one_sentence(tmp_path, capsys):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "images.csv").write_text("policy,prompt,image\nbase,p,a.png\n")
    (tmp_path / "kept.sqlite").write_bytes(b"no database at all" * 100)
    arguments = ["score", str(tmp_path / "images.csv"), "--scorer=clip"]
    arguments += [f"--kept={tmp_path / 'kept.sqlite'}", f"--out={tmp_path / 's.parquet'}"]
    assert main(arguments) == 1
    assert "kept.sqlite: holds no kept scores" in capsys.readouterr().err


def test_a_comparison_takes_no_other_json_for_a_rating(tmp_path, capsys):
    frame = pl.DataFrame({"policy": ["base"], "prompt": ["a"], "image": ["a.png"], "clip": [1.0]})
    frame.write_parquet(tmp_path / "scores.parquet")
    arguments = ["compare", str(tmp_path / "scores.parquet"), "--baseline=base"]
    arguments += [f"--out={tmp_path / 'out'}", f"--ksort=base={tmp_path / 'x.json'}"]
    for content, said in (("[1]", "is no result"), ("{", "not readable JSON"), ("{}", "is no")):
        (tmp_path / "x.json").write_text(content)
        assert main(arguments) == 1
        assert said in capsys.readouterr().err

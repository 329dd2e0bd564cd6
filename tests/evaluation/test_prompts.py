"""Prompt sets in the layouts they are published in, and overlap with the training prompts."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from evaluation.__main__ import main
from evaluation.errors import EvaluationError
from evaluation.prompts import (
    Prompt,
    identify,
    normalised,
    overlap,
    read_prompts,
    training_prompts,
)

CASES = Path(__file__).parents[3] / "shared" / "cases" / "prompts"


def pickapic(folder):
    path = folder / "test_unique.parquet"
    rows = [("a fox", "x"), ("a bear", "y"), ("a fox", "z")]
    pl.DataFrame(rows, schema=("caption", "image_0_uid"), orient="row").write_parquet(path)
    return path, [("a fox", None), ("a bear", None)]


def hpdv2(folder):
    path = folder / "benchmark_prompts"
    path.mkdir()
    (path / "photo.json").write_text(json.dumps(["a man", "a cat"]))
    (path / "anime.json").write_text(json.dumps(["a girl"]))
    return path, [("a girl", "anime"), ("a man", "photo"), ("a cat", "photo")]


def hpdv2_test(folder):
    path = folder / "test.json"
    rows = [{"prompt": "a hill", "image_path": ["1.jpg"] * 9, "rank": [1] * 9}]
    path.write_text(json.dumps(rows))
    return path, [("a hill", None)]


def partiprompts(folder):
    path = folder / "PartiPrompts.tsv"
    path.write_text(
        "Prompt\tCategory\tChallenge\tNote\n"
        'bond\tAbstract\tBasic\tBiology-inspired\n"Happy" sign, neon\tArtifacts\tWriting\t\n'
    )
    return path, [("bond", "Abstract"), ('"Happy" sign, neon', "Artifacts")]


def drawbench(folder):
    path = folder / "DrawBench.csv"
    path.write_text('Prompts,Category\nA red car.,Colors\n"One, two, three.",Counting\n')
    return path, [("A red car.", "Colors"), ("One, two, three.", "Counting")]


def geneval(folder):
    path = folder / "evaluation_metadata.jsonl"
    row = {"tag": "single_object", "include": [{"class": "bench", "count": 1}]}
    path.write_text(json.dumps({**row, "prompt": "a photo of a bench"}) + "\n")
    return path, [("a photo of a bench", "single_object")]


def lines(folder):
    path = folder / "mine.txt"
    path.write_text("first\n\n  second \n")
    return path, [("first", None), ("second", None)]


LAYOUTS = (pickapic, hpdv2, hpdv2_test, partiprompts, drawbench, geneval, lines)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_published_layout_is_read_as_it_is(layout, tmp_path):
    path, expected = layout(tmp_path)
    assert read_prompts(path) == [Prompt(identify(text), text, kind) for text, kind in expected]


def test_ids_are_kept_where_there_are_some_and_else_follow_the_text(tmp_path):
    path = tmp_path / "own.csv"
    path.write_text("prompt_id,prompt\n1,a\n2,b\n")
    assert [one.prompt_id for one in read_prompts(path)] == ["1", "2"]
    (tmp_path / "one.txt").write_text("a fox\n")
    (tmp_path / "two.txt").write_text("a bear\na fox\n")
    assert read_prompts(tmp_path / "one.txt")[0] == read_prompts(tmp_path / "two.txt")[1]


def test_an_id_of_two_sets_that_means_two_prompts_is_refused(tmp_path):
    for name, text in (("x.csv", "a"), ("y.csv", "b")):
        (tmp_path / name).write_text(f"prompt_id,prompt\n1,{text}\n")
    with pytest.raises(EvaluationError, match=r"y\.csv: prompt_id '1' is another prompt"):
        read_prompts(tmp_path / "x.csv", tmp_path / "y.csv")


def test_of_a_training_set_the_held_out_prompts_are_drawn(tmp_path):
    path = tmp_path / "training_set.parquet"
    rows = [("a", "train"), ("b", "held_out"), ("b", "held_out"), ("c", "train"), ("c", "train")]
    pl.DataFrame(rows, schema=("prompt", "split"), orient="row").write_parquet(path)
    assert [one.prompt for one in read_prompts(path)] == ["b"]
    assert training_prompts(path) == ["a", "c"]


def test_overlap_looks_through_case_punctuation_and_blanks():
    assert normalised("A  Red,car. ") == normalised("a red car") == "a red car"
    assert normalised("５ cats") == "5 cats"
    trained = ["a red car", "two dogs"]
    assert overlap(["A red car!", "a red cat", "Two  dogs", "A red car!"], trained) == [
        "A red car!",
        "Two  dogs",
    ]


def test_the_command_writes_the_table_and_reports_the_overlap(tmp_path, capsys):
    draw, _ = drawbench(tmp_path)
    photos, _ = hpdv2(tmp_path)
    training = tmp_path / "training.jsonl"
    training.write_text(json.dumps({"prompt": "a red car"}) + "\n")
    out = tmp_path / "prompts.parquet"
    arguments = ["prompts", draw, photos, "--training", training, "--out", out]
    assert main([str(one) for one in arguments]) == 0
    said = capsys.readouterr().out
    assert "5 prompts" in said
    assert "1 of them are among the 1 prompts" in said
    table = pl.read_parquet(out)
    assert table.columns == ["prompt_id", "prompt", "category", "in_training"]
    assert table.filter("in_training")["prompt"].to_list() == ["A red car."]
    assert [one.prompt for one in read_prompts(out)] == table["prompt"].to_list()


def test_what_is_no_prompt_set_is_one_sentence(tmp_path):
    bad = tmp_path / "bad.json"
    for content, message in (
        ("[1]", r"row 1 has no prompt \(it has 1\)"),
        ('{"prompt": "a"}', "expected a list of prompts"),
        ("[", "not readable JSON"),
        ("[]", "holds no prompt"),
        ('[{"text": "a"}]', "it has text"),
    ):
        bad.write_text(content)
        with pytest.raises(EvaluationError, match=message):
            read_prompts(bad)
    with pytest.raises(EvaluationError, match="no such file"):
        read_prompts(tmp_path / "absent.txt")
    (tmp_path / "x.doc").write_text("")
    with pytest.raises(EvaluationError, match=r"prompts are \.parquet, \.csv"):
        read_prompts(tmp_path / "x.doc")
    (tmp_path / "empty").mkdir()
    with pytest.raises(EvaluationError, match=r"holds <style>\.json files"):
        read_prompts(tmp_path / "empty")


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is not here")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bom.csv", ["a dog"]),
        ("bom.txt", ["a dog", "a cat"]),
        ("semicolon.csv", ["a dog"]),
        ("dup.jsonl", ["a dog", "A dog."]),
        ("latin1.txt", "latin1.txt: line 1 is not UTF-8 (Latin-1?); save the file as UTF-8"),
        ("surrogate.jsonl", "surrogate.jsonl: row 2: prompt holds half an emoji or a zero byte"),
        ("nul.jsonl", "nul.jsonl: row 1: prompt holds half an emoji or a zero byte"),
        ("empty.jsonl", "empty.jsonl: row 2 has no prompt"),
    ],
)
def test_files_as_people_have_them_are_read_or_refused_in_one_sentence(name, expected):
    if isinstance(expected, list):
        assert [one.prompt for one in read_prompts(CASES / name)] == expected
    else:
        with pytest.raises(EvaluationError, match=re.escape(expected)):
            read_prompts(CASES / name)


def test_a_line_separator_inside_a_prompt_ends_no_line(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a dog\u2028and a cat"}\n{"prompt": "x"}\n', encoding="utf-8")
    assert [one.prompt for one in read_prompts(path)] == ["a dog\u2028and a cat", "x"]


def test_sets_whose_ids_clash_are_refused(tmp_path, capsys):
    (tmp_path / "a.csv").write_text("prompt_id,prompt\n1,a dog\n")
    (tmp_path / "b.csv").write_text("prompt_id,prompt\n1,a cat\n")
    files = [str(tmp_path / name) for name in ("a.csv", "b.csv")]
    assert main(["prompts", *files, "--out", str(tmp_path / "out.parquet")]) == 1
    assert "prompt_id '1' is another prompt in an earlier file" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()

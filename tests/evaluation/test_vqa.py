"""Prompt following: P("yes") and P(answer) of a real, tiny vision-language model; OCR."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from by_name import load_scorer
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import gmean
from tiny_vlm import save_tiny_vlm

from evaluation.__main__ import main
from evaluation.errors import EvaluationError
from evaluation.scorers.naming import content, parse
from evaluation.scorers.ocr import OcrScorer, accuracy, asked_text
from evaluation.scorers.vqa import (
    FIGURE,
    Atom,
    VisionLanguageModel,
    read_questions,
    vqa,
)

# The first two rows of facebookresearch/GenEval2's geneval2_data.jsonl, verbatim.
GENEVAL2 = """\
{"prompt": "a green backpack and a pig", "atom_count": 3, "vqa_list": [["How many backpacks are in \
the image?", "one"], ["Is the backpack green?", "Yes"], ["Are there any backpacks in the image?", \
"Yes"], ["How many pigs are in the image?", "one"], ["Are there any pigs in the image?", "Yes"]], \
"skills": ["count", "attribute", "object", "count", "object"]}
{"prompt": "seven green croissants", "atom_count": 3, "vqa_list": [["How many croissants are in \
the image?", "seven"], ["Are the croissants green?", "Yes"], ["Are there any croissants in the \
image?", "Yes"]], "skills": ["count", "attribute", "object"]}
"""
PROMPTS = ["a green backpack and a pig", "seven green croissants"]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A LLaVA that has learned nothing, whose tokenizer knows the words of the answers."""
    words = "Yes yes one seven 1 7 Image no"
    return save_tiny_vlm(tmp_path_factory.mktemp("vqa") / "model", words, steps=0)


@pytest.fixture(scope="module")
def questions(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("geneval2") / "geneval2_data.jsonl"
    path.write_text(GENEVAL2)
    return path


@pytest.fixture(scope="module")
def images() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [Image.fromarray(rng.integers(0, 256, (32, 40, 3), dtype=np.uint8)) for _ in PROMPTS]


def plain_probability(folder: Path, text: str, words: list[str], image: Image.Image) -> float:
    """One question to transformers itself: the softmax of the next token, its words summed."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(folder)
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    content = [{"type": "image"}, {"type": "text", "text": text}]
    asked = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    with torch.no_grad():
        output = model(**processor(text=[asked], images=[image], return_tensors="pt"))
    chances = output.logits[0, -1].softmax(-1)
    ids = {processor.tokenizer.encode(word, add_special_tokens=False)[0] for word in words}
    return float(chances[sorted(ids)].sum())


def test_without_questions_it_is_the_probability_of_yes(model, images):
    scores = load_scorer(f"vqa={model}").score(PROMPTS, images)
    plain = [
        plain_probability(model, FIGURE.replace("{prompt}", prompt), ["Yes", "yes"], image)
        for prompt, image in zip(PROMPTS, images, strict=True)
    ]
    np.testing.assert_allclose(scores, plain, rtol=1e-5)
    assert np.ptp(scores) > 0


def test_with_geneval2s_questions_it_is_soft_tifa(model, questions, images):
    """The geometric and the arithmetic mean, and the skills, as the authors' script has them."""
    scorer = vqa(str(model), read_questions(questions))
    assert scorer.also == ("mean", "count", "attribute", "object")
    found = scorer.score(PROMPTS, images)
    for row, line, image in zip(found, GENEVAL2.splitlines(), images, strict=True):
        one = json.loads(line)
        each = []
        for question, answer in one["vqa_list"]:
            words = {"one": ["one", "One", "1"], "seven": ["seven", "Seven", "7"]}
            known = words.get(answer, ["Yes", "yes"])
            text = f"{question} Answer in one word."
            each.append(plain_probability(model, text, known, image))
        skills = np.array(one["skills"])
        means = [np.mean(np.array(each)[skills == s]) for s in ("count", "attribute", "object")]
        np.testing.assert_allclose(row, [gmean(each), np.mean(each), *means], rtol=1e-4)


def test_questions_are_read_in_their_published_layouts(questions, tmp_path):
    read = read_questions(questions)
    assert list(read.atoms) == PROMPTS
    assert read.atoms[PROMPTS[1]][0] == Atom(
        "How many croissants are in the image?", "seven", "count"
    )
    assert read.atoms[PROMPTS[1]][0].answers() == ["seven", " seven", "Seven", " Seven", "7", " 7"]
    # DPG-Bench's header and two of its rows' forms (TencentQQGYLab/ELLA, dpg_bench.csv).
    path = tmp_path / "dpg_bench.csv"
    path.write_text(
        "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,"
        "question_natural_language\n"
        'sample1,"a red cube",,1,0,entity,whole,"entity - whole (cube)","Is there a cube?"\n'
        'sample1,"a red cube",,2,1,attribute,color,"attribute - color (cube, red)",'
        '"Is the cube red?"\n'
    )
    read = read_questions(path)
    assert read.skills() == ["entity", "attribute"]
    assert [atom.question for atom in read.atoms["a red cube"]] == [
        "Is there a cube?", "Is the cube red?",
    ]  # fmt: skip
    bad = tmp_path / "bad.jsonl"
    bad.write_text(GENEVAL2.replace('"skills": ["count", "attribute", "object"]', '"skills": []'))
    assert read_questions(bad).skills() == ["count", "attribute", "object"]
    bad.write_text('{"prompt": "x", "questions": [["y", "z"]], "skills": ["a", "b"]}\n')
    with pytest.raises(EvaluationError, match=r"bad\.jsonl: line 1: expected"):
        read_questions(bad)


def test_the_command_writes_a_column_for_each_skill(model, questions, images, tmp_path):
    rows = []
    for i, (prompt, image) in enumerate(zip([*PROMPTS, "none"], [*images, images[0]], strict=True)):
        image.save(tmp_path / f"{i}.png")
        rows.append(f"base,{prompt},{i}.png")
    (tmp_path / "images.csv").write_text("policy,prompt,image\n" + "\n".join(rows) + "\n")
    out = tmp_path / "scores.parquet"
    arguments = ["score", str(tmp_path / "images.csv"), "--scorer", f"vqa={model}"]
    arguments += ["--questions", str(questions), "--out", str(out)]
    assert main(arguments) == 0  # a prompt that nothing is asked about is no failure
    table = pl.read_parquet(out)
    assert {"vqa", "vqa.mean", "vqa.count", "vqa.attribute", "vqa.object"} <= {*table.columns}
    assert table["vqa"].null_count() == 1
    whole = vqa(str(model), read_questions(questions)).score(PROMPTS, images)
    np.testing.assert_allclose(table["vqa.count"][:2].to_numpy(), whole[:, 2], rtol=1e-5)
    other = content(parse("vqa"))
    assert content(parse(f"vqa={model}")) != other


def test_questions_of_different_length_are_padded_on_the_left(model, images):
    language = VisionLanguageModel("vqa", str(model))
    inputs = language.inputs(
        [[("user", [images[0], text])] for text in ("Yes", "Yes yes one seven Yes")]
    )
    assert inputs.attention_mask[0, 0] == 0
    assert (inputs.attention_mask[:, -1] == 1).all()


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ('a sign that says "OPEN"', "OPEN"),
        ("a mug with “hello world” and 'so long'", "hello world so long"),
        ("the artist's room, and dogs' toys", ""),
        ("a plain dog", ""),
    ],
)
def test_the_text_that_a_prompt_asks_for(prompt, text):
    assert asked_text(prompt) == text
    assert OcrScorer(None).asks(prompt) == bool(text)


def test_ocr_accuracy_is_the_share_of_letters_that_are_right():
    assert accuracy("Open now", "OPENNOW!") == 1
    assert accuracy("open", "opan") == 0.75
    assert accuracy("open", "") == 0
    assert accuracy("ab", "something else entirely") == 0


def test_text_is_read_in_an_image():
    pytest.importorskip("rapidocr", reason="the extra `ocr` is not installed")
    pytest.importorskip("onnxruntime")
    image = Image.new("RGB", (320, 120), "white")
    ImageDraw.Draw(image).text((40, 35), "OPEN", fill="black", font=ImageFont.load_default(44))
    scores = load_scorer("ocr").score(['a sign "OPEN"', 'a sign "CLOSED"'], [image] * 2)
    assert scores[0] == 1
    assert scores[1] < 0.6

"""GenAI-Bench's pairs, and fal's imgsys.

Layouts: TIGER-Lab/GenAI-Bench, image_generation (prompt, left_model, right_model, left_image,
right_image: image, vote_type: leftvote, rightvote, tievote, bothbad_vote); fal/imgsys-results
(model_a, model_b: string, preference: float64, prompt: string).
"""

import polars as pl

from arena.votes.read import read_votes


def test_images_with_their_bytes_are_named_by_path(tmp_path):
    path = tmp_path / "train.parquet"
    image = {"bytes": b"\xff\xd8" * 1000, "path": "left.jpg"}
    row = {"prompt": "p", "left_model": "m", "right_model": "n", "vote_type": "bothbad_vote"}
    row |= {"left_image": image, "right_image": image | {"path": None}}
    pl.DataFrame([row]).write_parquet(path)
    reading = read_votes([path])
    assert reading.files[0].format == "genai_bench"
    assert reading.votes.select("outcome", "image_a", "image_b").rows() == [
        ("tie", "left.jpg", None)
    ]


def test_imgsys_s_numbers(read_text):
    lines = "".join(f"m,n,{each},p\n" for each in ("0.0", "1.0", "0.5", "", "nan", "-1"))
    reading = read_text(f"model_a,model_b,preference,prompt\n{lines}")
    assert reading.votes["outcome"].to_list() == ["a", "b", "tie", "tie", "tie", "tie"]


def test_a_preference_in_words_is_no_tie(read_text):
    reading = read_text("model_a,model_b,preference\nm,n,left\nm,n,n\nm,n,who knows\n")
    assert reading.votes["outcome"].to_list() == ["a", "b"]
    assert reading.rejected["value"].to_list() == ["who knows"]

"""Argilla's records.

Layout: the card of data-is-better-together/open-image-preferences-v1-results (id, status,
_server_id, images: struct of image_1, image_2, prompt; model_1, model_2, evolution, category,
sub_category, preference.responses, .users and .status: sequences of strings; prompt: a vector) and
its question (image_1, image_2, both_good, both_bad).
"""

import polars as pl

from arena.votes.read import read_votes

RECORD = {
    "id": "3368-quality",
    "status": "completed",
    "images": {"image_1": "1.jpg", "image_2": "2.jpg", "prompt": "a cat"},
    "model_1": "dev",
    "model_2": "sd",
    "preference.responses": ["image_1", "both_bad", "image_2"],
    "preference.responses.users": ["u", "v", "w"],
    "preference.responses.status": ["submitted", "submitted", "draft"],
    "prompt": [0.1, 0.2],
}


def test_every_submitted_response_is_a_vote(read_records):
    reading = read_records(RECORD, RECORD | {"preference.responses": None})
    assert reading.votes.select("outcome", "rater").rows() == [("a", "u"), ("tie", "v")]
    assert reading.votes["prompt"].to_list() == ["a cat"] * 2
    assert reading.files[0].skipped == {
        "responses that were draft": 1,
        "records that nobody has answered": 1,
    }


# argilla-io/argilla, records/_resource.py, Record.to_dict: what records.to_json writes.
def test_nested_records_hold_the_same_votes(read_records):
    answers = [{"value": "image_2", "user_id": "u"}, {"value": "both_good", "user_id": "v"}]
    nested = {"id": "7", "fields": {"prompt": "a cat", "image_1": "1.jpg", "image_2": "2.jpg"}}
    nested |= {"metadata": {"model_1": "dev", "model_2": "sd"}, "suggestions": {}, "vectors": {}}
    reading = read_records(nested | {"responses": {"preference": answers}})
    assert reading.votes.select("model_a", "image_b", "outcome", "rater", "prompt").rows() == [
        ("dev", "2.jpg", "b", "u", "a cat"),
        ("dev", "2.jpg", "tie", "v", "a cat"),
    ]
    assert reading.files[0].unread == ["suggestions", "vectors"]


def test_of_several_questions_the_one_about_the_better_image_is_read(read_records):
    first = {"style.responses": ["photo"], "style.responses.users": ["u"]}
    reading = read_records(first | {"style.responses.status": ["submitted"]} | RECORD)
    assert reading.votes["outcome"].to_list() == ["a", "tie"]


def test_images_with_their_bytes_are_named_by_path(tmp_path):
    images = {f"image_{k}": {"bytes": b"\xff", "path": f"{k}.jpg"} for k in (1, 2)}
    path = tmp_path / "records.parquet"
    pl.DataFrame([RECORD | {"images": images | {"prompt": "a cat"}}]).write_parquet(path)
    votes = read_votes([path]).votes
    assert votes.select("image_a", "image_b", "prompt").rows()[0] == ("1.jpg", "2.jpg", "a cat")

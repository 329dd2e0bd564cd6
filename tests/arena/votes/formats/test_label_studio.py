"""Label Studio's exports of its pairwise template.

Layouts: labelstud.io/guide/task_format (id, data, annotations with result, was_cancelled,
completed_by, created_at) and HumanSignal/label-studio-sdk, converter/exports/csv2.py (annotator,
annotation_id, created_at, updated_at, lead_time beside the task's data, id and the answers, which
stand under the names of their control tags) and converter/utils.py (`get_annotator`: the number, or
the address where the annotator is an object).
"""

import pytest

TASK = {
    "id": 1,
    "project": 83,
    "data": {"prompt": "p", "img1": "1.png", "img2": "2.png", "model_1": "m", "model_2": "n"},
    "annotations": [],
    "predictions": [],
}


def annotation(number, selected, **more):
    value = {"selected": selected}
    result = {"from_name": "pw", "to_name": "img1,img2", "type": "pairwise", "value": value}
    return {
        "id": number,
        "completed_by": 10,
        "result": [result],
        "was_cancelled": False,
        "created_at": "2021-03-09T22:16:08.728353Z",
        **more,
    }


def test_a_task_has_as_many_votes_as_annotations(read_records):
    others = annotation(2, "right", completed_by={"email": "x@example.org"})
    cancelled = annotation(3, "left", was_cancelled=True)
    task = TASK | {"annotations": [annotation(1, "left"), others, cancelled]}
    reading = read_records(task, TASK)
    assert reading.votes.select("vote_id", "outcome", "rater", "image_a").rows() == [
        ("1", "a", "10", "1.png"),
        ("2", "b", "x@example.org", "1.png"),
    ]
    assert reading.files[0].skipped == {
        "annotations that were cancelled": 1,
        "tasks without an annotation": 1,
    }


def test_a_choice_beside_the_pair_may_be_a_tie(read_records):
    choice = {"from_name": "c", "to_name": "img1", "type": "choices", "value": {"choices": ["Tie"]}}
    task = TASK | {"annotations": [annotation(1, None) | {"result": [choice]}]}
    assert read_records(task).votes["outcome"].to_list() == ["tie"]


def test_a_project_that_names_no_models_says_so_row_by_row(read_records):
    reading = read_records(
        TASK | {"data": {"img1": "1.png"}, "annotations": [annotation(1, "left")]}
    )
    assert reading.rejected.select("column", "reason").rows() == [("model_a", "empty")]


@pytest.mark.parametrize("mark", [",", "\t"], ids=["CSV", "TSV"])
def test_flat_rows_have_the_answer_under_the_control_tag_s_name(mark, read_text):
    names = ["annotation_id", "annotator", "created_at", "id", "img1", "img2", "lead_time"]
    names += ["model_1", "model_2", "prompt", "pw", "updated_at"]
    row = ["100", "4", "2026-03-01T09:10:00Z", "1", "1.png", "2.png", "7.2"]
    row += ["m", "n", "left", "right", "2026-03-01T09:10:30Z"]
    lines = [mark.join(f'"{cell}"' for cell in cells) for cells in (names, row)]
    vote = read_text("\n".join(lines)).votes.row(0, named=True)
    assert (vote["outcome"], vote["vote_id"], vote["prompt"]) == ("b", "100", "left")


@pytest.mark.parametrize("answer", ["Left", {"choices": ["Image 1"]}, "Left is better", "model_a"])
def test_a_flat_answer_may_be_a_choice_in_the_project_s_own_words(answer, read_records):
    flat = {"annotation_id": 1, "annotator": 4, "batch": "B", "model_1": "m", "model_2": "n"}
    if answer == "Left":
        flat |= {"choice": answer}
    else:
        flat = {"choice": answer} | flat
    assert read_records(flat).votes["outcome"].to_list() == ["a"]

"""Delimited text and JSON as people write them, and as files arrive damaged."""

import json

import pytest

from arena.votes.faults import VotesError
from arena.votes.read import read_votes

HEADER = "model_a,model_b,outcome"
GOOD = '{"model_a": "x", "model_b": "y", "outcome": "a"}'


def test_a_row_of_other_width_is_rejected_and_the_others_stay(read_text):
    reading = read_text(f"{HEADER}\nx,y,a\nx,y\n\nx,y,b,more\ny,x,tie\n")
    assert (reading.rows, reading.votes.height) == (4, 2)
    assert reading.rejected.select("row", "reason").rows() == [
        (2, "2 fields where the header has 3"),
        (3, "4 fields where the header has 3"),
    ]


def test_a_quote_that_is_never_closed_takes_no_votes_with_it_unsaid(read_text):
    reading = read_text(f'{HEADER},prompt\nm,n,a,x\nm,n,a,"y\n' + "m,n,b,z\n" * 5)
    assert (reading.rows, reading.accepted, reading.rejected.height) == (7, 1, 6)
    assert set(reading.rejected["reason"]) == {"a quote before it is never closed"}
    assert reading.rejected["row"].to_list() == [2, 3, 4, 5, 6, 7]


@pytest.mark.parametrize("before", ["sep=;\r\n", '"sep=;"\r\n', "\r\n \r\n"])
def test_what_excel_writes_before_the_header_is_none(before, read_text):
    assert read_text(f"{before}model_a;model_b;outcome\r\nm;n;a\r\n").accepted == 1


def test_a_header_without_a_known_name_shows_nothing_of_the_file(tmp_path):
    path = tmp_path / "votes.csv"
    path.write_text("flux,sdxl,a,alice\nsdxl,flux,b,bob\n")
    with pytest.raises(VotesError, match="is its header line missing") as caught:
        read_votes([path])
    assert not any(word in str(caught.value) for word in ("flux", "sdxl", "alice"))
    path.write_text("flux,sdxl,flux\n")
    with pytest.raises(VotesError, match="two columns have one name") as caught:
        read_votes([path])
    assert "flux" not in str(caught.value)


def test_an_encoding_that_is_none_says_what_to_do(tmp_path):
    path = tmp_path / "latin.csv"
    path.write_bytes(f"{HEADER}\né,y,a\n".encode("latin-1"))
    with pytest.raises(VotesError, match=r"latin\.csv: not UTF-8 text; .*save it as UTF-8"):
        read_votes([path])


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("text", [f"{HEADER}\nx,y,a\n", f"[{GOOD}]", GOOD, f"{GOOD}\n{GOOD}"])
def test_a_byte_order_mark_is_no_letter(text, encoding, read_text):
    assert read_text(text.encode(encoding)).accepted >= 1


def test_a_line_that_is_no_json_is_rejected_and_the_others_stay(read_text):
    reading = read_text(f'{GOOD}\n{{"model_a": \n[1]\n7\n{GOOD}\n')
    assert (reading.rows, reading.votes.height) == (5, 2)
    assert reading.rejected["row"].to_list() == [2, 3, 4]


def test_half_a_character_is_no_text(read_text):
    half = GOOD.replace("x", r"\ud800")
    for text in (f"{GOOD}\n{half}\n", f"[{GOOD}, {half}]"):
        reading = read_text(text)
        assert reading.rejected.select("row", "reason").rows() == [
            (2, "not text (half of a character)")
        ]


def test_a_key_that_comes_late_is_read(read_text):
    late = GOOD.replace("}", ', "rater": "r"}')
    reading = read_text((GOOD + "\n") * 2000 + late + "\n")
    assert reading.votes["rater"][-1] == "r"


@pytest.mark.parametrize(
    "text",
    [
        f'{{"votes": [{GOOD}]}}',
        f'{{"0": {GOOD}, "1": {GOOD}}}',
        f'{{"schema": {{"fields": []}}, "data": [{GOOD}]}}',
        '{"columns": ["model_a", "model_b", "outcome"], "data": [["x", "y", "a"]]}',
        '{"model_a": {"0": "x"}, "model_b": {"0": "y"}, "outcome": {"0": "a"}}',
        f"{GOOD}{GOOD}",
        "\n".join([json.dumps(json.loads(GOOD), indent=2)] * 2),  # jq
        '[{"model_a": {"id": 7, "name": "x"}, "model_b": {"name": "y"}, "outcome": "a"}]',
    ],
)
def test_rows_may_be_nested_as_pandas_and_others_do(text, read_text):
    reading = read_text(text)
    assert reading.votes.select("model_a", "model_b", "outcome").rows()[0] == ("x", "y", "a")


def test_a_json_list_that_is_cut_off_says_so(tmp_path):
    path = tmp_path / "cut.json"
    path.write_text(f"[{GOOD}, {GOOD}"[:-9])
    with pytest.raises(VotesError, match=r"cut\.json: not readable JSON"):
        read_votes([path])


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"models":'])
def test_json_nested_without_end_is_a_sentence(opening, tmp_path):
    path = tmp_path / "deep.json"
    path.write_text(opening * 100_000)
    with pytest.raises(VotesError, match=r"deep\.json"):
        read_votes([path])


@pytest.mark.parametrize(
    "row", ["\"['x', 'y']\",\"[2, 1]\"", "['x' 'y'],[2 1]", "['x'\t'y'],[2. 1.]"]
)
def test_a_list_in_a_csv_may_be_python_s_or_numpy_s(row, read_text):
    reading = read_text(f"models,ranks\n{row}\n")
    assert reading.votes.select("model_a", "model_b", "outcome").rows() == [("x", "y", "b")]


def test_a_prompt_in_brackets_stays_as_it_is(read_text):
    text = "model,rater,prompt,score\nx,r,[a red fox],1\ny,r,[a red fox],2\n"
    assert read_text(text).votes["prompt"].to_list() == ["[a red fox]"]


@pytest.mark.parametrize("text", ["[]", "{}", '[["model_a"], ["x"]]'])
def test_json_without_a_named_column_says_so(text, tmp_path):
    path = tmp_path / "votes.json"
    path.write_text(text)
    with pytest.raises(VotesError, match="it holds no row with named columns"):
        read_votes([path])

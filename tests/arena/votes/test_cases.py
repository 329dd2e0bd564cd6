"""The cases that people have, with the right values of shared/cases/README.md."""

from datetime import UTC, datetime

import polars as pl
import pytest

from arena.schema import UNNAMED
from arena.votes.faults import VotesError
from arena.votes.summary import describe

MOMENT = datetime(2024, 4, 24, 18, 36, 59, 500_000, tzinfo=UTC)


def outcomes(reading):
    return reading.votes["outcome"].to_list()


def how_many(reading):
    counted = reading.votes["outcome"].value_counts()
    return dict(counted.iter_rows())


def raters(reading):
    return reading.votes["rater"].drop_nulls().n_unique()


def images(reading):
    return pl.concat([reading.votes["image_a"], reading.votes["image_b"]]).drop_nulls().n_unique()


def votes_cast(reading):
    """Return how many people's votes the rows hold."""
    table = reading.votes.select("votes_a", "votes_b", "votes_tie")
    return int(table.sum_horizontal().sum()) + table["votes_a"].null_count()


def test_hpd_v2_training_pairs(case):
    reading = case("hpd_v2/train.json")
    assert outcomes(reading) == ["a", "b", "b", "a"]
    assert (images(reading), raters(reading)) == (6, 3)
    assert set(reading.votes["model_a"]) == {UNNAMED}


def test_hpd_v2_test_counts_every_annotator_and_not_the_merged_rank(case):
    reading = case("hpd_v2/test.json")
    assert (reading.rankings.height, reading.votes.height, raters(reading)) == (6, 18, 3)
    assert reading.rankings["ranks"].to_list() == [[1, 2, 3], [2, 1, 3], [1, 3, 2]] * 2


def test_hpd_v2_pairs_without_embeddings(case):
    reading = case("hpd_v2/test_no_embeds.parquet")
    assert outcomes(reading) == ["a", "b", "a"]
    assert raters(reading) == 2


def test_hpd_v3_counts_who_chose_each(case):
    reading = case("hpd_v3/train.json")
    assert votes_cast(reading) == 76
    won = {}
    for row in reading.votes.iter_rows(named=True):
        a, b = row["model_a"], row["model_b"]
        for pair, n in (((a, b), "votes_a"), ((b, a), "votes_b")):
            won[pair] = won.get(pair, 0) + row[n]
    assert (won["flux", "sdxl"], won["sdxl", "flux"]) == (23, 15)
    assert (won["flux", "kolors"], won["kolors", "flux"]) == (12, 7)
    assert (won["kolors", "sdxl"], won["sdxl", "kolors"]) == (10, 9)


def test_rapidata_s_counts(case):
    reading = case("rapidata/train_0001.parquet")
    assert (votes_cast(reading), raters(reading)) == (104, 0)
    assert reading.votes["image_a"][0] == "dalle-3/155_0.jpg"


def test_rapidata_s_shares_are_one_dimension(case):
    reading = case("rapidata/t2i_preference.parquet")
    assert reading.votes["dimension"].unique().to_list() == ["preference"]
    assert reading.votes["outcome"][0] == "a"
    other = case("rapidata/t2i_preference.parquet", dimension="alignment")
    assert other.votes["dimension"].unique().to_list() == ["alignment"]
    with pytest.raises(VotesError, match="parquet: no dimension is called colour; there are p"):
        case("rapidata/t2i_preference.parquet", dimension="colour")


def test_rapidata_s_order_names_its_models_by_the_assets(case):
    votes = case("rapidata/order_result.json").votes
    assert votes.select("model_a", "model_b", "outcome", "votes_a", "votes_b").rows() == [
        ("sd3", "flux", "b", 6, 20)
    ]


def test_a_table_with_a_count(case):
    reading = case("rapidata/counted.csv")
    assert votes_cast(reading) == 52
    assert reading.votes.select("votes_a", "votes_b").rows() == [(9, 0), (0, 17), (20, 0), (0, 6)]


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_argilla_s_records_hold_several_votes_each(kind, case):
    reading = case(f"argilla/records.{kind}")
    assert how_many(reading) == {"a": 2, "b": 2, "tie": 2}
    assert raters(reading) == 3
    assert sum(reading.files[0].skipped.values()) == 2


def test_the_raw_log_of_an_arena(case):
    reading = case("battle_log/2024-02-12-conv.json")
    assert how_many(reading) == {"a": 2, "b": 2, "tie": 2}
    assert (reading.rows, reading.rejected.height) == (6, 0)
    assert reading.files[0].skipped == {"events that are no votes": 2}
    assert reading.votes["anonymous"].sum() == 4
    assert not reading.votes["model_a"].str.contains("Model").any()
    first = datetime(2024, 2, 12, 1, 15, 14, 316_700, tzinfo=UTC)
    assert reading.votes["created_at"].min() == first


def test_genai_bench_s_vote_types(case):
    assert outcomes(case("battle_log/genai_bench.jsonl")) == ["a", "b", "tie", "tie"]


def test_label_studio_s_json_has_every_annotation(case):
    votes = case("label_studio/project-3.json").votes
    assert how_many(case("label_studio/project-3.json")) == {"a": 4, "b": 1}
    assert set(votes["rater"]) == {"4", "5"}
    assert {"100", "101"} < set(votes["vote_id"])


@pytest.mark.parametrize("name", ["project-3-min.json", "project-3.csv"])
def test_label_studio_s_flat_exports(name, case):
    votes = case(f"label_studio/{name}").votes
    assert votes["outcome"].to_list() == ["a"] * 3
    assert votes["vote_id"].to_list() == ["100", "200", "300"]
    assert votes.select("model_a", "model_b").rows()[0] == ("flux", "sdxl")
    assert votes["image_a"][0] == "/data/local-files/?d=x/flux_1.png"


def test_imgsys_s_database_rows(case):
    reading = case("imgsys/preferences_rows.csv")
    assert outcomes(reading) == ["a", "b", "tie", "b"]
    assert raters(reading) == 3
    assert reading.votes["created_at"][0].microsecond == 123_456


def test_imgsys_s_published_table_has_null_for_a_tie(case):
    assert outcomes(case("imgsys/train-00000-of-00001.parquet")) == ["a", "b", "tie", "b"]


@pytest.mark.parametrize(
    "name", ["votes.csv", "votes.json", "votes.jsonl", "train-00000-of-00007.parquet"]
)
def test_both_bad_is_a_tie(name, case):
    assert how_many(case(f"both_bad/{name}")) == {"a": 1, "b": 2, "tie": 3}


SPELLINGS = (
    "bigquery.csv",
    "duckdb.csv",
    "duckdb.json",
    "epoch_ms.csv",
    "epoch_s.csv",
    "iso_off.csv",
    "iso_z.csv",
    "minutes_sec_missing.csv",
    "naive.csv",
    "pandas.csv",
    "pandas.json",
    "polars.csv",
    "polars_csv.csv",
    "postgres.csv",
    "postgres_local.csv",
    "strftime_z.csv",
)


@pytest.mark.parametrize("name", SPELLINGS)
def test_one_moment_in_every_spelling(name, case):
    reading = case(f"times/{name}")
    assert (reading.accepted, reading.doubts.height) == (2, 0)
    whole = {"minutes_sec_missing.csv": 0.0, "polars.csv": 59.0}.get(name, 59.5)
    expected = MOMENT.replace(second=int(whole), microsecond=int(whole % 1 * 1e6))
    assert reading.votes["created_at"].min() == expected


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_integers_that_became_floats_overnight_are_the_same_ids(kind, case):
    reading = case(f"ids/monday.{kind}", f"ids/tuesday.{kind}")
    assert raters(reading) == 3
    assert reading.votes["prompt_id"].drop_nulls().n_unique() == 3


def test_images_by_number_are_the_same_as_floats(case):
    whole = case("ids/images_1.parquet", "ids/images_2.parquet")
    floats = case("ids/images_1.parquet", "ids/images_2_float.parquet")
    assert images(whole) == images(floats) == 8
    assert floats.votes.drop("source").equals(whole.votes.drop("source"))


def test_a_float_id_above_two_to_the_53_is_refused(case):
    reading = case("ids/snowflakes_pandas.parquet")
    assert (reading.accepted, reading.rejected.height) == (1, 3)
    assert "export ids as text or as whole numbers" in reading.rejected["reason"][0]
    assert case("ids/snowflakes.csv").votes["vote_id"][1] == "1234567890123456790"


@pytest.mark.parametrize("name", ["na", "nan", "none", "null", "pg"])
def test_words_for_nothing_in_a_csv_are_nothing(name, case):
    reading = case(f"words_for_nothing/{name}.csv")
    assert (reading.accepted, raters(reading), reading.doubts.height) == (3, 1, 0)
    assert reading.votes["created_at"].null_count() == 2


@pytest.mark.parametrize("name", ["nan.jsonl", "rater_nan.jsonl", "rater_none.csv", "nan.parquet"])
def test_a_nan_is_no_rater(name, case):
    reading = case(f"words_for_nothing/{name}")
    assert (raters(reading), reading.rejected.height, reading.doubts.height) == (1, 0, 0)


def test_a_nan_elsewhere_costs_no_vote(case):
    for name in ("confidence_nan.jsonl", "nan_pyarrow.parquet", "time_null.csv"):
        assert case(f"words_for_nothing/{name}").rejected.is_empty()


def test_a_model_called_none_is_none(case):
    reading = case("words_for_nothing/model_none.csv")
    models = pl.concat([reading.votes["model_a"], reading.votes["model_b"]])
    assert (models.n_unique(), reading.rejected.height) == (2, 3)


def test_a_skipped_pair_of_the_image_ranker_is_no_vote(case):
    reading = case("image_ranker/comparisons.csv")
    assert reading.votes.select("model_a", "model_b").rows() == [("flux", "sdxl"), ("sdxl", "flux")]
    assert reading.files[0].skipped == {"pairs that were skipped": 2}


DIALECTS = (
    "bom.csv",
    "crlf.csv",
    "plain.csv",
    "plain.csv.gz",
    "plain.csv.zip",
    "utf16.csv",
    "semicolon.csv",
    "tab.tsv",
    "header_case.csv",
    "header_spaces.csv",
    "data-00000-of-00001.arrow",
    "table.feather",
    "hub_rows.json",
    "pandas_columns.json",
    "pandas_split.json",
    "pandas_table.json",
)


@pytest.mark.parametrize("name", DIALECTS)
def test_one_table_in_every_dialect(name, case):
    votes = case(f"dialects/{name}").votes
    assert votes.select("model_a", "model_b", "outcome").rows() == [
        ("m", "n", "a"),
        ("n", "m", "b"),
        ("m", "n", "tie"),
    ]


def test_latin_1_is_refused_with_what_to_do(case):
    with pytest.raises(VotesError, match=r"latin1\.csv: not UTF-8 text; .*iconv"):
        case("dialects/latin1.csv")


def test_names_are_trimmed_and_those_alike_are_pointed_at(case):
    reading = case("dialects/names_space.csv")
    assert set(reading.votes["model_a"]) | set(reading.votes["model_b"]) == {"m", "M", "n"}
    assert "the same model? 'M' / 'm'" in describe(reading)


def test_outcomes_are_read_whatever_their_case(case):
    assert case("dialects/outcome_case.csv").accepted == 4


def test_who_is_listed_first_does_not_change_a_ranking(case):
    one, other = (
        case(f"kwise_ties/{name}.jsonl").rankings
        for name in ("trueskill15", "trueskill15_other_order")
    )
    ranked = [dict(zip(r["models"][0], r["ranks"][0], strict=True)) for r in (one, other)]
    assert ranked[0] == ranked[1] == {"A": 1, "B": 2, "C": 2, "D": 2, "E": 2}

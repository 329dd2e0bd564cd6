"""The votes stage as Dagster runs it: what a study may ask of it and what it leaves behind."""

import io
import json
import shutil

import dagster as dg
import polars as pl
import pytest
from PIL import Image

from arena.ratings.table import Ratings
from arena.ratings.trueskill import TrueSkill
from arena.votes import sources
from arena.votes.faults import VotesError
from arena.votes.sources import remote_rows
from assets.content import content_hash
from assets.lake import Lake
from assets.ratings import BEFORE
from assets.study import read_study
from assets.votes import observed
from pipelines.chain import RATE, chain_of, of_job
from pipelines.definitions import build_definitions
from pipelines.launch import Launcher, StageFailed


@pytest.fixture
def rate(write_study, instance):
    """Return a function that writes the study, changed, and brings the arena up to date."""

    def run(change=str, votes=None):
        launcher = Launcher(write_study(change, votes), instance, lambda line: None)
        made = launcher.rate()
        return launcher.study, made

    return run


def latest_metadata(instance, name):
    import dagster as dg

    event = instance.get_latest_materialization_event(dg.AssetKey(["small", name]))
    return event.asset_materialization.metadata


def with_keys(*lines):
    return lambda text: text.replace("[arena]", "\n".join([*lines, "", "[arena]"]))


def test_the_materialisation_tells_rows_reasons_and_arrivals(rate, instance, votes_table):
    votes = votes_table(600).with_columns(
        outcome=pl.when(pl.int_range(pl.len()) < 5).then(pl.lit("?")).otherwise("outcome")
    )
    study, _ = rate(votes=votes)
    told = latest_metadata(instance, "votes")
    assert (told["rows"].value, told["accepted"].value, told["rejected"].value) == (600, 595, 5)
    assert "not a, b or tie" in told["rejections"].value
    assert "| new | 1 | 600 |" in told["files"].value
    assert Lake(study.lake).read("rejected")["value"].to_list() == ["?"] * 5


def test_ratings_keep_the_version_before_them(rate, votes_table, tmp_path):
    def with_fixed_draws(text):
        return text.replace('"auto"', "0.1").replace('["votes.parquet"]', '["batches"]')

    folder = tmp_path / "batches"
    folder.mkdir()
    votes = votes_table(600).with_columns(created_at=pl.int_range(pl.len()) + 1_700_000_000)
    versions = []
    for name, batch in (("1", votes[100:400]), ("2", votes[400:]), ("3", votes[:100])):
        batch.write_parquet(folder / f"{name}.parquet")
        study, _ = rate(with_fixed_draws)
        versions.append(content_hash(Lake(study.lake).table("ratings")))
        # What a jump is measured from: the version before this one.
        before = Lake(study.lake).table(BEFORE)
        assert (content_hash(before) if before.exists() else None) in (None, *versions[-2:-1])
    assert before.exists()


def test_a_file_with_too_many_rejections_stops_the_stage(rate, votes_table):
    bad = votes_table(100).with_columns(outcome=pl.lit("?"))
    with pytest.raises(StageFailed, match="100 of 100 rows cannot be used"):
        rate(votes=bad)


def test_the_salt_comes_from_the_environment_or_nothing_is_read(rate, monkeypatch):
    salted = with_keys('rater_salt = "ARENA_TEST_SALT"')
    monkeypatch.delenv("ARENA_TEST_SALT", raising=False)
    with pytest.raises(StageFailed, match="ARENA_TEST_SALT, which is not set"):
        rate(salted)
    monkeypatch.setenv("ARENA_TEST_SALT", "secret")
    study, _ = rate(salted)
    raters = Lake(study.lake).read("votes")["rater"]
    assert raters.n_unique() == 7
    assert not raters.str.contains("rater").any()


def test_no_prompt_and_no_rater_reaches_mlflow(rate, votes_table):
    marked = votes_table(600).with_columns(
        prompt=pl.format("PROMPTMARK {}", "prompt"), rater=pl.format("RATERMARK {}", "rater")
    )
    study, _ = rate(votes=marked)
    store = study.path.parent / "mlflow"
    kept = [path for path in store.rglob("*") if path.is_file()]
    assert len(kept) > 1
    for path in kept:
        content = path.read_bytes()
        assert b"PROMPTMARK" not in content, path
        assert b"RATERMARK" not in content, path


def test_a_model_may_be_called_anything(rate, votes_table):
    names = {"model 0": '../a "b"', "model 1": "<b>x</b>", "model 2": "m|n", "model 3": "模型"}
    votes = votes_table(600).with_columns(pl.col("model_a", "model_b").replace(names))
    study, _ = rate(votes=votes)
    assert set(names.values()) < set(Lake(study.lake).read("votes")["model_a"])


def test_k_wise_votes_are_a_table_of_their_own_and_pairs_for_the_ratings(rate, tmp_path):
    import json

    rankings = [
        {"models": ["model 0", "model 1", "model 2"], "ranks": [k % 3, 1, 2], "prompt": "p"}
        for k in range(20)
    ]
    (tmp_path / "rankings.jsonl").write_text("\n".join(map(json.dumps, rankings)))
    study, _ = rate(
        lambda text: text.replace('["votes.parquet"]', '["votes.parquet", "rankings.jsonl"]')
    )
    lake = Lake(study.lake)
    assert lake.read("rankings").height == 20
    assert lake.read("votes").height == 600 + 60


def test_the_observed_version_follows_content_and_not_time(write_study, tmp_path):
    study = write_study(lambda text: text.replace('["votes.parquet"]', '["*.parquet"]'))
    before = observed(study)
    path = tmp_path / "votes.parquet"
    path.write_bytes(path.read_bytes())
    assert observed(study) == before
    pl.read_parquet(path)[1:].write_parquet(path)
    assert observed(study) != before


def test_a_source_may_be_afar_and_a_format_must_exist(write_study):
    study = write_study(
        lambda text: text.replace('["votes.parquet"]', '["s3://bucket/votes/*.parquet"]')
    )
    assert study.votes.sources == ["s3://bucket/votes/*.parquet"]
    with pytest.raises(ValueError, match=r"votes: no votes format is called 'xml'; there are "):
        write_study(with_keys('format = "xml"'))


def test_a_key_in_a_urls_query_is_stored_and_said_nowhere(rate, instance, monkeypatch, tmp_path):
    url = "https://host/votes.parquet?sig=s3cret"
    monkeypatch.setattr(sources, "fetched", lambda *_: tmp_path / "votes.parquet")
    for module in ("assets.votes", "pipelines.arrivals"):
        monkeypatch.setattr(f"{module}.remote_rows", lambda _: 600)
    study, _ = rate(lambda text: text.replace('["votes.parquet"]', f'["{url}"]'))
    lake = Lake(study.lake)
    assert lake.read("intake")["file"].to_list() == ["https://host/votes.parquet"]
    for path in lake.root.rglob("*.parquet"):
        assert "s3cret" not in str(pl.read_parquet(path).rows()), path
    runs = [str(instance.all_logs(run.run_id)) for run in instance.get_runs()]
    assert "s3cret" not in "".join(runs)
    definitions = build_definitions(study).resolve_asset_graph()
    assert "s3cret" not in str(definitions.get(study.key("vote_files")).metadata)
    with pytest.raises(VotesError, match=r"host/votes\.parquet: cannot be read") as caught:
        remote_rows("http://127.0.0.1:1/host/votes.parquet?sig=s3cret")
    assert "s3cret" not in str(caught.value)


def test_k_wise_votes_are_rated_as_rankings_and_not_as_their_pairs(rate, instance, tmp_path):
    rows = [
        {"models": ["p", "q", "r"], "images": ["p1", "q1", "r1"], "ranks": ranks, "prompt": "x"}
        for ranks in ([1, 2, 3], [1, 3, 2], [2, 1, 2])
    ]
    (tmp_path / "rankings.jsonl").write_text("\n".join(map(json.dumps, rows)))
    study, _ = rate(lambda text: text.replace('["votes.parquet"]', '["rankings.jsonl"]'))
    lake = Lake(study.lake)
    rated = Ratings.read(lake.table("ratings")).table
    expected = TrueSkill().fit(rankings=lake.read("rankings")).table
    assert rated.select("model", "mu", "sigma").equals(expected.select("model", "mu", "sigma"))


def test_votes_about_broken_images_do_not_train_and_stay_in_the_arena(
    rate, instance, votes_table, tmp_path
):
    votes = votes_table(60)
    names = pl.concat([votes["image_a"], votes["image_b"]]).unique().sort().to_list()
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "white").save(stream, "png")
    content = [stream.getvalue()] * len(names)
    content[0] = content[0][:40]
    images = pl.DataFrame({"image": names, "bytes": content})
    images[:-1].write_parquet(tmp_path / "images.parquet")  # and the last one is missing

    def with_images(text):
        text = text.replace('["votes.parquet"]', '["votes.parquet"]\nimages = "images.parquet"')
        return text.replace("check_images = false\n", "")

    study, _ = rate(with_images, votes)
    lake = Lake(study.lake)
    assert lake.read("images").drop_nulls("fault")["image"].to_list() == [names[0], names[-1]]
    pairs = lake.read("training_set")
    trained = {*pairs["image_winner"], *pairs["image_loser"]}
    assert not trained & {names[0], names[-1]}
    strict = votes.filter(pl.col("outcome") != "tie")
    broken = pl.any_horizontal(pl.col("image_a", "image_b").is_in([names[0], names[-1]]))
    assert pairs.height == strict.filter(~broken).height
    assert lake.read("gaps").height == votes.height
    assert names[0] in latest_metadata(instance, "images")["unusable_such_as"].value


def test_images_given_by_their_paths_have_equal_hashes_in_another_folder(
    write_study, instance, votes_table, tmp_path
):
    votes = votes_table(60).drop("vote_id")
    (tmp_path / "pictures").mkdir()
    for name in {*votes["image_a"], *votes["image_b"]}:
        Image.new("RGB", (8, 8), "white").save(tmp_path / "pictures" / f"{name}.png")
    broken = votes["image_a"][0]
    (tmp_path / "pictures" / f"{broken}.png").write_bytes(b"no picture")
    named = pl.format("pictures/{}.png", pl.col("image_a", "image_b")).name.keep()

    def with_checked_images(text):
        return text.replace("check_images = false\n", "")

    def made(study, where):
        launcher = Launcher(study, where, lambda line: None)
        launcher.rate()
        keys = [study.key(name) for name in of_job(chain_of(study), RATE)]
        events = [where.get_latest_materialization_event(key) for key in keys]
        return [event.asset_materialization.tags["dagster/data_version"] for event in events]

    study = write_study(with_checked_images, votes.with_columns(named))
    here = made(study, instance)
    other = tmp_path / "another" / "place"
    keep = shutil.ignore_patterns("lake", "dagster", "another", "mlflow*")
    shutil.copytree(tmp_path, other, ignore=keep)
    (tmp_path / "home").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "home")) as second:
        assert made(read_study(other / "small.toml"), second) == here
    lake = Lake(study.lake)
    broken_ones = lake.read("images").drop_nulls("fault")["image"].to_list()
    assert broken_ones == [f"pictures/{broken}.png"]
    # What a job that works in the study's folder opens.
    trained = lake.read("training_set")["image_winner"]
    assert trained.len() > 0
    assert all((study.path.parent / name).is_file() for name in trained)

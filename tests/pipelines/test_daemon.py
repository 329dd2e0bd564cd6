"""The real pages and daemon, days of them in minutes: votes come, things break, nothing is lost.

A real web server, daemon, code server and MLflow; only what a job computes is not real (fake_jobs).
It waits on sensors that look every half minute, so it runs when it is asked for: `pytest --long`.
"""

import os
import signal
import time
from collections import Counter

import dagster as dg
import psutil
import pytest
from served import make_home, served, wait_until
from small_study import second_study

from assets.content import content_hash
from assets.lake import Lake
from assets.lineage import made_from
from assets.movement import moved_since_training
from assets.tracking import Tracking
from assets.votes import observed
from pipelines.automation import taken
from pipelines.launch import Launcher
from pipelines.runs import IN_PROGRESS, UNFINISHED, is_of

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

RETRAIN_ABOVE = 0.3
AUTOMATION = (
    f"[automation]\nvotes = 10\nhours = 0.003\nretrain_above = {RETRAIN_ABOVE}\n\n[arena]\n"
)
SMALL, LARGE = 8, 700
TRAINED = ("dpo", "arenapo")


class Landing:
    """The folder where batches of votes are dropped, and what was dropped there."""

    def __init__(self, folder, votes_table):
        self.folder, self.votes_table, self.votes, self.batches = folder, votes_table, set(), 0

    def drop(self, rows=SMALL, twice=False, spoil=None):
        """Drop a batch the way a careful sender does: aside, then renamed."""
        self.batches += 1
        batch = self.votes_table(rows, seed=self.batches)
        self.votes |= set(batch["vote_id"])
        for name in [f"{self.batches:02}.csv"] + [f"{self.batches:02}-again.csv"] * twice:
            self.place(name, spoil(batch.write_csv()) if spoil else batch.write_csv())
        return batch

    def place(self, name, text):
        aside = self.folder.parent / f"{name}.partial"
        aside.write_text(text)
        aged = time.time() - 100  # a file this old is taken at the next look
        os.utime(aside, (aged, aged))
        aside.replace(self.folder / name)


def runs(instance, job, *statuses, **tags):
    wanted = dg.RunsFilter(job_name=f"small__{job}", statuses=statuses or None, tags=tags)
    found = instance.get_runs(wanted)
    return [run for run in found if "arenapo/chain" not in run.tags]


def materialisations(instance, asset, partition=None):
    wanted = dg.AssetRecordsFilter(
        dg.AssetKey(["small", asset]), asset_partitions=[partition] if partition else None
    )
    records = instance.fetch_materializations(wanted, limit=1000, ascending=True).records
    return [record.asset_materialization for record in records]


def open_runs(study):
    tracking = Tracking.of(study)
    client = tracking.client()
    experiment = tracking.experiment(client, study.name)
    return client.search_runs([experiment], "attributes.status = 'RUNNING'")


def test_twenty_batches_while_the_daemon_lives_and_dies(write_chain, tmp_path, votes_table):
    (tmp_path / "landing").mkdir()
    landing = Landing(tmp_path / "landing", votes_table)
    landing.drop(rows=600)
    home = make_home(tmp_path / "home")
    study = write_chain(
        lambda text: text.replace('["votes.parquet"]', '["landing"]').replace(
            "[arena]\n", AUTOMATION
        )
    )
    lake = Lake(study.lake)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        Launcher(study, instance, print).chain()  # a policy's first training is a person's word

    second = second_study(study)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        Launcher(second, instance, print).chain()
    untouched = content_hash(second.lake)

    with served([study.path, second.path], home) as (pages, instance):

        def rated():
            return taken(instance, study) == observed(study) and not runs(
                instance, "rate_votes", *IN_PROGRESS
            )

        def settled(rows):
            wait_until(rated, "all votes are rated")
            assert lake.read("votes").height == rows == len(landing.votes)

        # Some, one of them twice, and more while a run is going.
        for twice in (False, True, False):
            landing.drop(twice=twice)
        wait_until(lambda: runs(instance, "rate_votes", dg.DagsterRunStatus.STARTED), "a run")
        for _ in range(3):
            landing.drop()
        settled(600 + 6 * SMALL)

        # A broken batch: a row that is no vote is rejected, the others of its file count.
        landing.drop(spoil=lambda text: f"{text}bad,model 1,model 2,perhaps,,,,\n")
        settled(600 + 7 * SMALL)
        rejected = lake.read("rejected")
        assert rejected.select("column", "value").rows() == [("outcome", "perhaps")]
        assert rejected["file"][0].endswith(f"{landing.batches:02}.csv")
        assert rejected["reason"][0]

        # A file that is none at all is quarantined by itself, and the others go on.
        landing.place("torn.parquet", "PAR1")
        landing.drop()
        settled(600 + 8 * SMALL)
        (quarantined,) = lake.read("quarantined").iter_rows(named=True)
        assert quarantined["file"].endswith("torn.parquet")
        (landing.folder / "torn.parquet").unlink()
        for _ in range(2):
            landing.drop()
        settled(600 + 10 * SMALL)
        for name, found in moved_since_training(study, lake).items():
            assert found.change <= RETRAIN_ABOVE
            assert len(materialisations(instance, "policy", name)) == 1

        # The daemon alone is killed: everything ends, and starts again with what came meanwhile.
        pages.daemon().kill()
        assert pages.process.wait(timeout=120) == 1
        for _ in range(2):
            landing.drop()
        pages.start()
        settled(600 + 12 * SMALL)

        # The arena moves enough; all is killed while the first policy trains again.
        slow = study.path.parent / "fake.json"
        quick = slow.read_text()
        slow.write_text(quick.replace('"pause": 0.0', '"pause": 0.5').replace(": 3,", ": 2000,"))
        landing.drop(rows=LARGE)
        log = study.path.parent / "steps.log"
        begun = log.read_text().count("begins")
        wait_until(lambda: log.read_text().count("begins") > begun, "a policy trains again")
        everything = pages.processes()
        killed = runs(instance, "train_and_evaluate", dg.DagsterRunStatus.STARTED)
        pages.kill()
        wait_until(
            lambda: not [each for each in everything if each.is_running()], "nothing is left over"
        )
        slow.write_text(quick)
        for twice in (True, False, False):
            landing.drop(twice=twice)
        pages.start()
        settled(600 + 15 * SMALL + LARGE)
        assert killed
        wait_until(
            lambda: all(instance.get_run_by_id(run.run_id).is_finished for run in killed),
            "run monitoring ends the runs that were killed",
        )
        wait_until(
            lambda: all(len(materialisations(instance, "policy", name)) == 2 for name in TRAINED),
            "both policies are trained again",
        )

        # A run's process is killed alone: the place in the pool is free again without a person.
        slow.write_text(quick.replace('"pause": 0.0', '"pause": 0.5').replace(": 3,", ": 2000,"))
        begun = log.read_text().count("begins")
        started = pages.launch("train_and_evaluate", "dpo")
        wait_until(lambda: log.read_text().count("begins") > begun, "a person's run trains")
        pool = instance.event_log_storage.get_concurrency_info("gpu")
        assert (pool.slot_count, pool.active_slot_count) == (1, 1)
        trainer = int(log.read_text().splitlines()[-1].split()[1])
        os.kill(psutil.Process(trainer).ppid(), signal.SIGKILL)
        wait_until(lambda: instance.get_run_by_id(started).is_finished, "the run is over")
        assert instance.get_run_by_id(started).status == dg.DagsterRunStatus.FAILURE
        wait_until(
            lambda: not instance.event_log_storage.get_concurrency_info("gpu").active_slot_count,
            "the pool is free",
        )
        wait_until(lambda: not psutil.pid_exists(trainer), "the job is over")
        slow.write_text(quick)
        for _ in range(4):
            landing.drop()
        settled(600 + 19 * SMALL + LARGE)
        wait_until(
            lambda: not instance.get_runs(dg.RunsFilter(statuses=UNFINISHED)),
            "all is quiet",
        )

    # Every vote once, no run for the same files twice, none forgotten.
    assert landing.batches == 21
    votes = lake.read("votes")
    assert votes["vote_id"].is_unique().all()
    assert set(votes["vote_id"]) == landing.votes
    with dg.DagsterInstance.from_config(str(home)) as instance:
        made = materialisations(instance, "votes")
        states = Counter(made_from(each)[0]["vote_files"] for each in made)
        assert max(states.values()) == 1, states
        asked = runs(
            instance, "train_and_evaluate", **{"dagster/sensor_name": "small__moved_policies"}
        )
        for run in asked:
            change = float(run.tags["arenapo/why"].partition("change ")[2].partition(",")[0])
            assert change > RETRAIN_ABOVE
        for name in TRAINED:
            assert len(materialisations(instance, "policy", name)) == 2
        for name, found in moved_since_training(study, lake).items():
            assert found.change <= RETRAIN_ABOVE, name
        # The other study of this home: no run of its own, and nobody else's wrote into its lake.
        theirs = [run for run in instance.get_runs() if is_of(second, run)]
        assert all("arenapo/chain" in run.tags for run in theirs)
    assert content_hash(second.lake) == untouched
    assert open_runs(study) == []

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from pipelines.definitions import build_definitions

ROOT = Path(__file__).parents[2]

CHAIN = {
    *("votes", "ratings", "gaps", "training_set", "policy", "generations"),
    *("scorecard", "ksort_rating", "champion", "report"),
}


def test_importing_the_definitions_loads_nothing_slow():
    code = (
        "import json, sys; import pipelines.definitions; "
        "slow = ('torch', 'diffusers', 'transformers', 'mlflow', 'matplotlib', 'scipy.stats'); "
        "print(json.dumps([m for m in slow "
        "if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_every_stage_of_the_chain_has_a_check(write_study):
    definitions = build_definitions(write_study())
    graph = definitions.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.materializable_asset_keys} == CHAIN
    checked = {key.asset_key.to_user_string() for key in graph.asset_check_keys}
    assert checked == CHAIN


def test_the_gpu_stages_share_one_pool(write_study):
    definitions = build_definitions(write_study())
    pools = {
        name: definitions.resolve_assets_def(name).op.pool
        for name in ("policy", "generations", "scorecard", "ksort_rating")
    }
    assert set(pools.values()) == {"gpu"}


def test_only_stages_that_need_no_gpu_may_start_by_themselves(write_study):
    graph = build_definitions(write_study()).resolve_asset_graph()
    by_themselves = {
        key.to_user_string()
        for key in graph.materializable_asset_keys
        if graph.get(key).automation_condition is not None
    }
    assert by_themselves == {"champion", "report"}


def test_a_policy_is_a_partition_and_a_scorecard_needs_the_baseline(write_study):
    definitions = build_definitions(write_study())
    scorecard = definitions.resolve_assets_def("scorecard")
    assert scorecard.partitions_def.get_partition_keys() == ["base", "dpo", "arenapo"]
    mapping = scorecard.get_partition_mapping(dg.AssetKey("generations"))
    needed = mapping.get_upstream_mapped_partitions_result_for_partitions(
        scorecard.partitions_def.subset_with_partition_keys(["dpo"]),
        scorecard.partitions_def,
        scorecard.partitions_def,
    )
    assert set(needed.partitions_subset.get_partition_keys()) == {"base", "dpo"}


@pytest.mark.slow
def test_dg_accepts_the_project():
    dg_command = [str(Path(sys.executable).parent / "dg"), "check", "defs"]
    done = subprocess.run(dg_command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

import json
import subprocess
import sys
from pathlib import Path

import pytest

from assets.lake import Lake
from pipelines.chain import chain_of
from pipelines.definitions import build_definitions

ROOT = Path(__file__).parents[2]

SLOW = ("torch", "diffusers", "transformers", "mlflow", "matplotlib", "scipy.stats")


def test_importing_the_definitions_loads_nothing_slow():
    code = (
        "import json, sys; import pipelines.definitions; "
        f"print(json.dumps([m for m in {SLOW} if m in sys.modules]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_the_table_of_stages_and_the_definitions_say_the_same(write_study):
    study = write_study()
    chain, definitions = chain_of(study), build_definitions(study)
    graph = definitions.resolve_asset_graph()
    assert set(graph.materializable_asset_keys) == set(map(study.key, chain))
    for name, stage in chain.items():
        node, checks = graph.get(study.key(name)), stage.blocking + stage.checks
        assert node.code_version == stage.code_version(study)
        assert node.is_partitioned == stage.by_policy
        assert {key.path[-1] for key in node.parent_keys} == {
            each.partition("[")[0] for each in stage.inputs
        }
        assert {key.name for key in node.check_keys} == set(checks), name
        assert checks, f"{name} has no check"
    for each in definitions.asset_checks or ():
        for spec in each.check_specs:
            assert spec.blocking == (spec.name in chain[spec.asset_key.path[-1]].blocking)


def test_what_a_stage_leaves_is_what_lies_in_the_lake(finished):
    for stage in chain_of(finished).values():
        for policy in stage.partitions(finished):
            for path in stage.left(policy):
                if (stage.name, policy) != ("policy", "base"):
                    assert Lake(finished.lake).exists(path), path


def test_the_gpu_stages_share_one_pool_over_all_studies(write_study):
    study = write_study()
    definitions = build_definitions(study)
    by_policy = [name for name, stage in chain_of(study).items() if stage.by_policy]
    pools = {definitions.resolve_assets_def(study.key(name)).op.pool for name in by_policy}
    assert pools == {"gpu"}


def test_a_scorecard_needs_the_baselines_images_and_its_own(write_study):
    study = write_study()
    definitions = build_definitions(study)
    scorecard = definitions.resolve_assets_def(study.key("scorecard"))
    assert scorecard.partitions_def.get_partition_keys() == ["base", "dpo", "arenapo"]
    mapping = scorecard.get_partition_mapping(study.key("generations"))
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

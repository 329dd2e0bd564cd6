"""A person's word over the promotion rule: pin a version, go back to the one before, unpin."""

import dagster as dg

from assets import model_registry as registry
from assets.champion import keep_standing
from assets.lake import Lake
from assets.lineage import (
    CODE_VERSION,
    DATA_VERSION,
    INPUTS,
    SETTINGS,
    Finding,
    findings,
    latest,
)
from assets.stage import Chain
from assets.study import Study
from assets.tracking import Tracking
from assets.turns import turn
from pipelines.alerts import tell

BACK, UNPIN = "--back", "--unpin"


def promote(study: Study, chain: Chain, instance: dg.DagsterInstance, who: str) -> str:
    """Pin WHO (a policy or a version), the champion before (BACK), or nobody (UNPIN); say so.

    Dagster is told too, so that the page shows it and the report follows. Raises ValueError for a
    version or policy that does not exist.
    """
    client = Tracking.of(study).client()
    with turn(Lake(study.lake), instance, "study", print):
        if who == UNPIN:
            registry.unpin(client, study.name)
            said = "nobody is pinned; the rule decides from the next scorecard on"
        elif who == BACK:
            before = registry.roll_back(client, study.name)
            said = f"version {before} is champion again" if before else "there is no champion now"
        else:
            chosen = registry.version_called(client, study.name, who)
            registry.pin(client, study.name, str(chosen.version))
            said = f"version {chosen.version} ({chosen.tags.get('policy')}) is champion"
            if doubt := _doubt(study, chain, instance, str(chosen.tags.get("policy"))):
                said += f", although {doubt}"
        standing = registry.champion_of(client, study.name)
        keep_standing(Lake(study.lake), standing)
        made = latest(instance, study.key("champion"), None)
        # What it was made from stays as it was: a person's word makes nothing stale.
        as_before = {
            key: made.metadata[key] for key in (INPUTS, SETTINGS) if made and key in made.metadata
        }
        code = (made.tags or {}).get(CODE_VERSION) if made else None
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                study.key("champion"),
                metadata={
                    **as_before,
                    "decision": f"{said}, by hand",
                    "champion": f"version {standing.version}" if standing else "none",
                },
                tags={DATA_VERSION: registry.content_of(standing)}
                | ({CODE_VERSION: code} if code else {}),
            )
        )
    tell(study, chain, instance, print)
    return f"{said}; what serves loads models:/{study.name}@champion"


def _doubt(study: Study, chain: Chain, instance: dg.DagsterInstance, policy: str) -> Finding | None:
    """Return a failed blocking check of the policy's newest images, if there is one."""
    if policy not in study.policies:
        return None
    found = findings(instance, study, chain["generations"], policy)
    return next((each for each in found if not each.passed), None)

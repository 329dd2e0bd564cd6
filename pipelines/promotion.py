"""A person's word over the promotion rule: make a policy champion, or go back to the one before."""

import dagster as dg

from assets import champion
from assets.lake import Lake
from assets.study import Study
from assets.tracking import Tracking
from pipelines.alerts import tell


def promote(study: Study, instance: dg.DagsterInstance, who: str | None) -> str:
    """Make WHO (a policy or a version) champion, or with None the champion before; say so.

    Dagster is told too, so that the page shows it and the report follows.
    Raises ValueError for a version or policy that does not exist.
    """
    tracking = Tracking.of(study)
    client = tracking.client()
    with Lake(study.lake).held("study", print):
        if who is None:
            before = champion.roll_back(client, study.name)
            said = f"version {before} is champion again" if before else "there is no champion now"
        else:
            chosen = champion.version_called(client, study.name, who)
            if "rolled_back" in chosen.tags:
                client.delete_model_version_tag(study.name, chosen.version, "rolled_back")
            champion.crown(client, study.name, str(chosen.version))
            said = f"version {chosen.version} ({chosen.tags.get('policy')}) is champion"
        standing = champion.champion_of(client, study.name)
        instance.report_runless_asset_event(
            dg.AssetMaterialization(
                "champion",
                metadata={"decision": f"{said}, by hand"},
                tags={"dagster/data_version": champion.content_of(standing)},
            )
        )
    tell(study, instance, print)
    return f"{said}; what serves loads models:/{study.name}@champion"

"""When stages run by themselves: when content moved, not when somebody clicked.

The stages up to the training set cost seconds and follow new votes at once. The stages of the GPU
never start by themselves: a person starts them.
"""

from collections.abc import Iterable

import dagster as dg

# How often the vote files are looked at while the daemon runs.
EVERY_FIVE_MINUTES = dg.AutomationCondition.cron_tick_passed("*/5 * * * *")

# Fires when an upstream's data version moved since this asset was last asked for, never for a
# materialisation that changed nothing (which AutomationCondition.eager() would follow too).
CONTENT_MOVED = (
    dg.AutomationCondition.any_deps_match(dg.AutomationCondition.data_version_changed()).since(
        dg.AutomationCondition.newly_requested() | dg.AutomationCondition.newly_updated()
    )
    & ~dg.AutomationCondition.any_deps_missing()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)


def follow_content(
    definitions: Iterable[dg.AssetsDefinition], names: Iterable[str]
) -> list[dg.AssetsDefinition]:
    """Give CONTENT_MOVED to the assets called `names` and leave the others as they are."""
    keys = {dg.AssetKey(name) for name in names}
    return list(
        dg.map_asset_specs(
            lambda spec: (
                spec.replace_attributes(automation_condition=CONTENT_MOVED)
                if spec.key in keys
                else spec
            ),
            definitions,
        )
    )


def new_votes(target: Iterable[str]) -> dg.AutomationConditionSensorDefinition:
    """Return the sensor that evaluates the conditions; it starts with the daemon."""
    return dg.AutomationConditionSensorDefinition(
        "new_votes",
        target=dg.AssetSelection.assets(*target),
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        description="Looks at the vote files; when they changed, rates and pairs anew.",
    )

"""A table of the lake as Dagster's pages show tables: rows, columns, and the warehouse's name."""

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import pyarrow.parquet as pq

from assets.lake import Lake, table_name


def described(
    lake: Lake, name: str, lineage: Mapping[str, Sequence[tuple[dg.AssetKey, str]]] | None = None
) -> dict[str, Any]:
    """Return a table's row count, column schema and place as metadata.

    lineage: column -> (asset, column) that it is made from.
    """
    path = lake.table(name)
    schema = pq.read_schema(path)
    found: dict[str, Any] = {
        "dagster/row_count": pq.read_metadata(path).num_rows,
        "dagster/column_schema": dg.TableSchema(
            [dg.TableColumn(field.name, str(field.type)) for field in schema]
        ),
        "dagster/table_name": f"warehouse.main.{name}",
        "dagster/storage_kind": "duckdb",
        "table": dg.MetadataValue.path(lake.where(table_name(name))),
    }
    if lineage:
        found["dagster/column_lineage"] = dg.TableColumnLineage(
            {
                column: [dg.TableColumnDep(key, of) for key, of in sources]
                for column, sources in lineage.items()
                if column in schema.names
            }
        )
    return found

"""The small study, and the stores that it writes to, new for every test."""

from object_store import s3, s3_server  # noqa: F401
from small_study import (  # noqa: F401
    empty_home,
    finished,
    instance,
    migrated_store,
    ran_before,
    votes_table,
    write_chain,
    write_study,
)

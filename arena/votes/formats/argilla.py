"""Argilla's export of a preference question: a record has lists of responses, users and statuses.

Each submitted response is a vote; a discarded one and a record that nobody has answered are none.
Layout: `data-is-better-together/open-image-preferences-v1` and its results; the question may have
any name (`preference.responses`). Nested: argilla-io/argilla, records/_resource.py, `to_dict`.
"""

from collections.abc import Iterator
from typing import Any

from arena.votes.layout import Format, Found, Record, first, listed
from arena.votes.spellings import meaning, plain
from arena.votes.text_tables import as_text

RESPONSES, USERS, STATUS = ".responses", ".responses.users", ".responses.status"


def _question(record: dict[str, Any]) -> str:
    """Return the name of the question that asks which is better, of several in a record."""
    asked = [name for name in record if name.endswith(RESPONSES)]
    told = (n for n in asked if any(meaning(plain(str(each))) for each in listed(record[n])))
    return str(first(told) or first(asked)).removesuffix(RESPONSES)


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """Return a nested record, as `dataset.records.to_json` writes it, like one of the hub's."""
    answers = record.get("responses")
    if not isinstance(answers, dict):
        return record
    flat = {"id": record.get("id")}
    for inner in (record.get("fields"), record.get("metadata")):
        flat |= inner if isinstance(inner, dict) else {}
    for question, given in answers.items():
        given = [each for each in listed(given) if isinstance(each, dict)]
        flat[question + RESPONSES] = [each.get("value") for each in given]
        flat[question + USERS] = [each.get("user_id") for each in given]
    return flat


def _votes(records: Iterator[Record], found: Found) -> Iterator[Record]:
    for row, record in records:
        record = _flat(record)
        question = _question(record)
        responses = record.get(question + RESPONSES)
        if not isinstance(responses, list) or not responses:
            found.skip("records that nobody has answered")
            continue
        images = record.get("images")
        images = images if isinstance(images, dict) else record
        shared = {
            "model_a": record.get("model_1"),
            "model_b": record.get("model_2"),
            "image_a": as_text(images.get("image_1")),
            "image_b": as_text(images.get("image_2")),
            "prompt": images.get("prompt") or record.get("prompt"),
            "prompt_id": record.get("id"),
        }
        users, statuses = (listed(record.get(question + end)) for end in (USERS, STATUS))
        for k, response in enumerate(responses):
            if k < len(statuses) and statuses[k] not in (None, "submitted"):
                known = statuses[k] in ("discarded", "draft", "pending")
                found.skip(f"responses that were {statuses[k] if known else 'not submitted'}")
            else:
                yield (
                    row,
                    shared | {"outcome": response, "rater": users[k] if k < len(users) else None},
                )


ARGILLA = Format(
    "argilla",
    "data-is-better-together/open-image-preferences-v1-results",
    [f"*{RESPONSES} model_1 model_2", "fields responses metadata"],
    records=_votes,
)

"""The raw log of FastChat's servers (Chatbot Arena, GenAI-Arena): one event a line.

leftvote, rightvote, tievote and bothbad_vote are votes; chat, upvote, flag, ... are none. Names are
hidden until the vote: `models` is then two empty texts, and `states` tells. Where both name a model
they must agree, as FastChat's own clean_battle_data.py demands (lm-sys/FastChat,
fastchat/serve/monitor/clean_battle_data.py).
"""

import re
from collections.abc import Iterator
from typing import Any

from arena.votes.layout import Format, Found, Record, listed

VOTES = ("leftvote", "rightvote", "tievote", "bothbad_vote")


def _votes(records: Iterator[Record], found: Found) -> Iterator[Record]:
    for row, event in records:
        kind = event.get("type")
        if kind not in VOTES:
            found.skip("events that are no votes")
            continue
        states = event.get("states")
        states = [each if isinstance(each, dict) else {} for each in listed(states)]
        hidden = [_bare(state.get("model_name")) for state in states]
        public = [_bare(name) for name in listed(event.get("models"))]
        names = public if any(public) else hidden
        if len(names) != 2:
            found.fault(row, "models", f"{len(names)} models where two are compared")
        elif any(public) and all(hidden) and hidden and public != hidden:
            found.fault(row, "models", "models and states name different models")
        else:
            yield (
                row,
                {
                    "model_a": names[0],
                    "model_b": names[1],
                    "outcome": kind,
                    "prompt": states[0].get("prompt") if states else None,
                    "rater": event.get("ip"),
                    "created_at": event.get("tstamp"),
                    "anonymous": not any(public),
                },
            )


def _bare(name: Any) -> str:
    """Return a name without the heading that the page shows it under; a hidden one is empty."""
    text = re.sub(r"</?h3>", "", str(name or "")).removeprefix("###").strip()
    return re.sub(r"^Model [AB](:|$)", "", text).strip()


BATTLE_LOG = Format(
    "battle_log",
    "lm-sys/FastChat and TIGER-AI-Lab/GenAI-Arena, <date>-conv.json",
    ["type tstamp models|model"],
    records=_votes,
)

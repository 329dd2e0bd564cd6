"""Tables with one vote a row: our own, and the exports of arenas that differ only in their names.

A team's own csv is the commonest case: any of the names below is known, and `--columns` and
`--outcomes` tell the rest.
"""

import polars as pl

from arena.votes.layout import Format, decided
from arena.votes.spellings import NOTHING

MODELS = {
    "model_a": (
        *("model_a", "model_1", "model1", "left_model", "model_left", "model_0"),
        *("modela", "a_model", "model_a_name", "model_l", "model_a_id"),
        *("generator_a", "system_a", "player_a"),
    ),
    "model_b": (
        *("model_b", "model_2", "model2", "right_model", "model_right", "model_1"),
        *("modelb", "b_model", "model_b_name", "model_r", "model_b_id"),
        *("generator_b", "system_b", "player_b"),
    ),
}
IMAGES = {
    "image_a": (
        *("image_a", "image_1", "image1", "left_image", "image_left", "img_a", "img1"),
        *("image_a_path", "image_a_url", "image_path_a", "path_a", "image_0"),
    ),
    "image_b": (
        *("image_b", "image_2", "image2", "right_image", "image_right", "img_b", "img2"),
        *("image_b_path", "image_b_url", "image_path_b", "path_b", "image_1"),
    ),
}
OUTCOMES = ("outcome", "winner", "choice", "vote", "preference", "preferred")
COLUMNS = {
    **MODELS,
    **IMAGES,
    "outcome": (*OUTCOMES, "preferred_model", "winning_model", "result", "verdict", "label"),
    "vote_id": ("vote_id",),
    "source": ("source",),
    "prompt_id": ("prompt_id", "question_id"),
    "prompt": ("prompt", "caption"),
    "rater": (
        *("rater", "rater_id", "user_id", "user", "annotator", "annotator_id", "worker_id"),
        *("judge", "user_hash", "client_ip"),
    ),
    "created_at": ("created_at", "timestamp", "tstamp", "time", "date", "datetime"),
    "split": ("split",),
    "dimension": ("dimension", "criterion", "aspect"),
    "votes_a": ("votes_a", "wins_a"),
    "votes_b": ("votes_b", "wins_b"),
    "votes_tie": ("votes_tie", "ties"),
    "count": ("count", "n_votes", "num_votes"),
    "anonymous": ("anonymous", "anony"),
}

TABLE = Format(
    "table",
    "design.md, section 3: the votes table of this project",
    ["model_a model_b outcome"],
    COLUMNS,
)


def majority(rows: pl.DataFrame, _: str | None) -> pl.DataFrame:
    """Return rows of counts with the outcome that they make: who got more votes."""
    sides = ("votes_a", "votes_b", "votes_tie")
    counts = (
        pl.col(name).cast(pl.Float64, strict=False) if name in rows.columns else pl.lit(None)
        for name in sides
    )
    one, two, tied = counts
    tie = ((tied > one) & (tied > two)) | (one == two)
    return rows.with_columns(outcome=decided(one > two, one < two, tie))


COUNTED = Format(
    "counted",
    "design.md, section 3: votes_a and votes_b without an outcome",
    ["votes_a votes_b", "wins_a wins_b"],
    {name: names for name, names in COLUMNS.items() if name != "outcome"},
    needs=("model_a", "model_b", "votes_a", "votes_b"),
    lacks=OUTCOMES,
    frame=majority,
)

# The battles of Chatbot Arena, GenAI-Arena (a JSON list) and LMArena (parquet): winner is model_a,
# model_b, tie, "tie (bothbad)" or both_bad. A `question_id` is a conversation's, and the same in
# many rows of lmsys/mt_bench_human_judgments; LMArena's `id` is one vote's.
LMARENA = {**COLUMNS, "vote_id": ("vote_id", "id")}
BATTLES = Format(
    "battles",
    "lmarena-ai/arena-human-preference-140k and -100k, GenAI-Arena's clean_battle_*.json",
    ["model_a model_b winner anony|judge|tstamp|evaluation_order|conversation_a"],
    {**LMARENA, "outcome": ("winner",)},
)
ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")


def _one_hot(rows: pl.DataFrame, _: str | None) -> pl.DataFrame:
    """Turn the three columns, of which one is 1, into an outcome."""
    a, b, tie = (pl.col(name).cast(pl.Float64, strict=False) == 1 for name in ONE_HOT)
    told = pl.format("{}, {}, {}", *(pl.col(n).cast(pl.String).fill_null("none") for n in ONE_HOT))
    outcome = decided(a & ~b & ~tie, b & ~a & ~tie, tie & ~a & ~b, told)
    return rows.with_columns(outcome=outcome)


BATTLES_ONE_HOT = Format(
    "battles_one_hot",
    "lmsys/lmsys-arena-human-preference-55k, train.csv",
    [f"model_a model_b {' '.join(ONE_HOT)}"],
    {name: names for name, names in LMARENA.items() if name != "outcome"},
    also=ONE_HOT,
    needs=("model_a", "model_b", *ONE_HOT),
    frame=_one_hot,
)

# GenAI-Bench's pairs: vote_type is leftvote, rightvote, tievote or bothbad_vote.
GENAI_BENCH = Format(
    "genai_bench",
    "TIGER-Lab/GenAI-Bench, image_generation",
    ["left_model right_model vote_type"],
    {**COLUMNS, "outcome": ("vote_type",)},
)


def _imgsys(rows: pl.DataFrame, _: str | None) -> pl.DataFrame:
    """Turn the preference into an outcome: 0 is a, 1 is b, another number or nothing a tie."""
    told = pl.col("outcome").cast(pl.String).str.strip_chars()
    side = told.cast(pl.Float64, strict=False)
    nothing = told.is_null() | told.str.to_lowercase().is_in(NOTHING)
    outcome = pl.when(side == 0).then(pl.lit("a")).when(side == 1).then(pl.lit("b"))
    outcome = outcome.when(side.is_not_null() | nothing).then(pl.lit("tie"))
    return rows.with_columns(outcome=outcome.otherwise(told))


IMGSYS = Format(
    "imgsys",
    "fal/imgsys-results, and the rows of its database",
    ["model_a model_b preference"],
    {**LMARENA, "outcome": ("preference",)},
    frame=_imgsys,
)

"""Tables with one vote a row: our own, and the exports of arenas that differ only in their names.

A team's own csv is the commonest case: any of the names below is known, and `--columns` and
`--outcomes` tell the rest.
"""

import polars as pl

from arena.votes.layout import Format, has

MODELS = {
    "model_a": ("model_a", "model_1", "model1", "left_model", "model_left", "model_0"),
    "model_b": ("model_b", "model_2", "model2", "right_model", "model_right", "model_1"),
}
IMAGES = {
    "image_a": ("image_a", "image_1", "image1", "left_image", "image_left", "img_a", "img1"),
    "image_b": ("image_b", "image_2", "image2", "right_image", "image_right", "img_b", "img2"),
}

TABLE = Format(
    "table",
    "design.md, section 3: the votes table of this project",
    has("model_a", "model_b", "outcome"),
    {
        **MODELS,
        **IMAGES,
        "outcome": ("outcome", "winner", "choice", "vote", "preference"),
        "vote_id": ("vote_id",),
        "source": ("source",),
        "prompt_id": ("prompt_id",),
        "prompt": ("prompt", "caption"),
        "rater": ("rater", "rater_id", "user_id", "annotator", "worker_id", "judge"),
        "created_at": ("created_at", "timestamp", "tstamp", "time", "date"),
        "split": ("split",),
        "dimension": ("dimension",),
        "votes_a": ("votes_a",),
        "votes_b": ("votes_b",),
        "votes_tie": ("votes_tie",),
        "count": ("count",),
        "anonymous": ("anonymous", "anony"),
    },
)

# GenAI-Arena's and Chatbot Arena's battles (a JSON list), and LMArena's exports (parquet): winner
# is model_a, model_b, tie, "tie (bothbad)" or both_bad.
# huggingface.co/datasets/lmarena-ai/arena-human-preference-140k, TIGER-Lab/GenAI-Arena-Bench
BATTLES = Format(
    "battles",
    "lmarena-ai/arena-human-preference-140k and GenAI-Arena's clean_battle_*.json",
    has("model_a", "model_b", "winner"),
    {
        "model_a": ("model_a",),
        "model_b": ("model_b",),
        "outcome": ("winner",),
        "vote_id": ("question_id", "id"),
        "prompt": ("prompt",),
        "rater": ("judge",),
        "created_at": ("tstamp", "timestamp"),
        "anonymous": ("anony",),
    },
)

# GenAI-Bench's pairs: vote_type is leftvote, rightvote, tievote or bothbad_vote.
GENAI_BENCH = Format(
    "genai_bench",
    "TIGER-Lab/GenAI-Bench, image_generation",
    has("left_model", "right_model", "vote_type"),
    {
        "model_a": ("left_model",),
        "model_b": ("right_model",),
        "outcome": ("vote_type",),
        "prompt": ("prompt",),
        "image_a": ("left_image",),
        "image_b": ("right_image",),
    },
)


def _imgsys(rows: pl.DataFrame, dimension: str | None) -> pl.DataFrame:
    """Turn the preference into an outcome: 0 is a, 1 is b, anything else a tie."""
    del dimension
    side = pl.col("outcome").cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False)
    outcome = pl.when(side == 0).then(pl.lit("a")).when(side == 1).then(pl.lit("b"))
    return rows.with_columns(outcome=outcome.otherwise(pl.lit("tie")))


IMGSYS = Format(
    "imgsys",
    "fal/imgsys-results, and the rows of its database",
    has("model_a", "model_b", "preference"),
    {
        "model_a": ("model_a",),
        "model_b": ("model_b",),
        "outcome": ("preference",),
        "vote_id": ("id",),
        "prompt": ("prompt",),
        "rater": ("client_ip",),
        "created_at": ("created_at",),
    },
    frame=_imgsys,
)

"""K-wise votes as the pairs that they imply, together and in order."""

import polars as pl


def pairs_of(rankings: pl.DataFrame) -> pl.DataFrame:
    """Return every pair of every K-wise vote: model_a, model_b, outcome, ranking and created_at.

    rankings: the lists models and ranks; vote_id and created_at where there are. Raises ValueError
    for a null, and for lists of different lengths, naming the vote.
    """
    for name in ("models", "ranks"):
        if name not in rankings.columns:
            raise ValueError(f"the K-wise votes have no column {name}; needed are models, ranks")
    sizes = rankings.select(pl.col("models", "ranks").list.len().fill_null(0))
    wrong = (sizes["models"] != sizes["ranks"]).arg_true()
    if len(wrong):
        m, r = sizes.row(wrong[0])
        raise ValueError(f"K-wise vote {wrong[0] + 1}: {m} models but {r} ranks; give one each")
    number = pl.int_range(pl.len()).cast(pl.String)
    named = pl.coalesce("vote_id", number) if "vote_id" in rankings.columns else number
    when = ["created_at"] if "created_at" in rankings.columns else []
    images = (
        rankings.select(*when, "models", "ranks", ranking=named, vote=pl.int_range(pl.len()))
        .explode("models", "ranks")
        .with_columns(place=pl.int_range(pl.len()).over("vote"))
    )
    nulls = images.filter(pl.col("models").is_null() | pl.col("ranks").is_null())
    if len(nulls):
        raise ValueError(f"K-wise vote {nulls['vote'][0] + 1}: a model or a rank is null")
    pairs = images.join(images.select("vote", "models", "ranks", "place"), on="vote", suffix="_b")
    rank, other = pl.col("ranks"), pl.col("ranks_b")
    won = pl.when(rank < other).then(pl.lit("a")).when(rank > other).then(pl.lit("b"))
    return (
        pairs.filter(pl.col("place") < pl.col("place_b"))
        .sort("vote", "place", "place_b")
        .select(
            *when,
            "ranking",
            model_a="models",
            model_b="models_b",
            outcome=won.otherwise(pl.lit("tie")),
        )
    )

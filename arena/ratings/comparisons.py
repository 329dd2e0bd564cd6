"""Votes as an estimator sees them: who met whom, in which order, and who won.

A vote needs nine bytes here whatever its prompt, images and rater weigh, so a hundred million of
them fit in a gigabyte. Estimators take `Comparisons`, or a votes table that becomes one:

    comparisons = Comparisons.of(votes)                 # a polars or pandas frame
    comparisons = Comparisons.of(votes, rankings)       # and K-wise votes beside them

This is the one place where K-wise votes and rows that sum several raters are told from single
votes, so every command rates, tunes and predicts the same thing.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from arena.compiled import compiled
from arena.schema import OUTCOMES, PAIRS, REQUIRED
from arena.votes.rankings import pairs_of

A_WINS, B_WINS, TIE = 0, 1, 2
SINGLE = -1  # the ranking of a vote that belongs to none


def as_frame(table: Any) -> pl.DataFrame:
    """Return a polars frame of a polars frame, a lazy one, or a pandas frame (NaN is null)."""
    if isinstance(table, pl.DataFrame):
        return table
    if isinstance(table, pl.LazyFrame):
        return table.collect()
    if type(table).__module__.partition(".")[0] == "pandas":
        return pl.from_pandas(table)
    raise TypeError(f"a polars or pandas frame is needed, not {type(table).__name__}")


@dataclass(frozen=True)
class Comparisons:
    """Votes in time order as integer codes.

    models: M names, sorted. a, b: (n,) int32, positions in `models`. outcome: (n,) int8, one of
    A_WINS, B_WINS, TIE; where a row sums several raters, the majority's. A model compared with
    itself keeps its row, and tells no estimator anything.

    tally: (n, 3) int32, how many raters said each outcome, or None where every row is one vote.
    ranking: (n,) int32, the number of the K-wise vote that implies the pair (its pairs stand
    together), SINGLE for others, or None without any. timed: whether every vote has its time; where
    not, the order is that of the file. ids: (n,) the votes' vote_id, where the table had them.
    """

    models: list[str]
    a: np.ndarray
    b: np.ndarray
    outcome: np.ndarray
    tally: np.ndarray | None = None
    ranking: np.ndarray | None = None
    timed: bool = True
    ids: pl.Series | None = None

    @staticmethod
    def of(votes: Any = None, rankings: Any = None) -> "Comparisons":
        """Return the votes' comparisons by `created_at` (unknown times last), then by position.

        votes: a frame with model_a, model_b and outcome (a, b or tie); optional are created_at,
        votes_a, votes_b, votes_tie, ranking and vote_id, as in `schema.VOTES`. Comparisons are
        returned as they are. rankings: K-wise votes, a frame with the lists models and ranks (equal
        ranks tie) and perhaps created_at; pairs of them among the votes, by `ranking`, are not
        counted twice. At one time a pairwise vote comes before a K-wise one. Raises ValueError for
        a missing column, a null and an outcome that is none, naming the row.
        """
        if isinstance(votes, Comparisons):
            if rankings is not None:
                raise ValueError("give the votes as a table to rate them together with rankings")
            return votes
        table = checked(votes) if votes is not None else pl.DataFrame(schema=_NAMES)
        # Joined even with no rows, the names of all votes would turn from codes to texts and back.
        if rankings is not None and len(pairs := checked_pairs(as_frame(rankings))):
            if "ranking" in table.columns:
                again = pl.col("ranking").is_in(pairs["ranking"].unique().implode())
                table = table.filter(~again.fill_null(False))
            table = pl.concat([table, pairs], how="diagonal_relaxed") if len(table) else pairs
        table = in_time_order(table)
        timed = "created_at" in table.columns and not table["created_at"].null_count()
        ranking = None
        if "ranking" in table.columns and table["ranking"].null_count() < len(table):
            # The pairs of a K-wise vote are rated together: where its first one stands.
            row, known = pl.col("row"), pl.col("ranking").is_not_null()
            first = pl.when(known).then(row.min().over("ranking")).otherwise(row)
            table = table.with_row_index("row").sort(first, maintain_order=True).drop("row")
            number = pl.when(known).then(pl.col("ranking").rle_id()).otherwise(SINGLE)
            ranking = table.select(number.cast(pl.Int32)).to_series().to_numpy()
        models, (a, b, outcome) = _coded(table)
        return Comparisons(
            models=models,
            a=a,
            b=b,
            outcome=outcome,
            tally=tallied(table, outcome),
            ranking=ranking,
            timed=timed or table.is_empty(),
            ids=table["vote_id"] if "vote_id" in table.columns else None,
        )

    def __len__(self) -> int:
        return len(self.a)

    def part(self, start: int, stop: int) -> "Comparisons":
        """Return the comparisons from position start up to stop (exclusive), in time order."""
        return self.only(slice(start, stop))

    def between_models(self) -> "Comparisons":
        """Return the comparisons of two different models: those that tell something."""
        return self.only(self.a != self.b)

    def only(self, rows: Any) -> "Comparisons":
        """Return these comparisons: a slice, a mask (n,) or positions, whose order they take."""
        return replace(
            self,
            a=self.a[rows],
            b=self.b[rows],
            outcome=self.outcome[rows],
            tally=None if self.tally is None else self.tally[rows],
            ranking=None if self.ranking is None else self.ranking[rows],
            ids=None,
        )

    def recoded(self, models: list[str]) -> "Comparisons":
        """Return the same with codes as positions in `models`, sorted names that hold theirs."""
        if self.models == models:
            return self
        code = np.searchsorted(models, self.models).astype(np.int32)
        return replace(self, models=models, a=code[self.a], b=code[self.b])

    def single_votes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (row (N,), outcome (N,)) of every rater's own vote, in the order of the rows.

        The votes that a row sums are mixed evenly, as nothing tells their order.
        """
        if self.tally is None:
            return np.arange(len(self)), self.outcome
        row = np.repeat(np.arange(len(self)), self.tally.sum(1))
        outcome = np.repeat(np.tile(np.arange(3, dtype=np.int8), len(self)), self.tally.ravel())
        count = self.tally.ravel()
        first = np.repeat(np.cumsum(count) - count, count)
        turn = (np.arange(len(row)) - first + 0.5) / np.repeat(count, count)
        order = np.lexsort((outcome, turn, row))
        return row, outcome[order]

    def each_rater(self) -> "Comparisons":
        """Return the comparisons with every rater's own vote as a row."""
        if self.tally is None:
            return self
        row, outcome = self.single_votes()
        return replace(self.only(row), outcome=outcome, tally=None)

    def counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Return (wins, ties), both (M, M) int64: wins[i, j] times i beat j; ties is symmetric.

        A row that sums several raters counts each of them. The diagonal (a model that met itself)
        is zero.
        """
        tally = self.tally if self.tally is not None else np.empty((0, 3), np.int32)
        return _counts(len(self.models), self.a, self.b, self.outcome, tally)


_NAMES = dict.fromkeys(REQUIRED, pl.String)


def checked(votes: Any) -> pl.DataFrame:
    """Return votes as a polars frame (`as_frame`).

    Raises ValueError where they cannot be rated, naming column and row.
    """
    table = as_frame(votes)
    for name in REQUIRED:
        if name not in table.columns:
            raise ValueError(f"the votes have no column {name}; needed are {', '.join(REQUIRED)}")
        if table[name].null_count():
            row = int(table[name].is_null().arg_true()[0]) + 1
            raise ValueError(f"vote {row}: {name} is null; leave such votes out")
    numbers = [name for name in REQUIRED if table.schema[name].is_numeric()]
    table = table.with_columns(pl.col(numbers).cast(pl.String))
    known = table["outcome"].cast(pl.Enum(OUTCOMES), strict=False)
    if known.null_count():
        row = int(known.is_null().arg_true()[0])
        said = table["outcome"][row]
        raise ValueError(f"vote {row + 1}: outcome {said!r} is none of {', '.join(OUTCOMES)}")
    return table


def _coded(table: pl.DataFrame) -> tuple[list[str], list[np.ndarray]]:
    """Return the names in use, sorted, and (a, b, outcome): int32 positions among them, and int8.

    Columns of one Enum are codes already: to find a hundred million names again takes seconds.
    """
    kind, other = (table.schema[side] for side in ("model_a", "model_b"))
    known = isinstance(kind, pl.Enum) and other == kind
    if not known:
        met = (table[side].unique().cast(pl.String) for side in ("model_a", "model_b"))
        kind = pl.Enum(pl.concat(met).unique().sort())
    made = table.select(REQUIRED).rechunk()
    made = made.select(
        pl.col("model_a", "model_b").cast(kind).to_physical().cast(pl.Int32),
        pl.col("outcome").cast(pl.Enum(OUTCOMES)).to_physical().cast(pl.Int8),
    )
    a, b, outcome = (made[name].to_numpy() for name in made.columns)
    names = kind.categories.to_list()  # type: ignore[attr-defined]
    if not known:
        return names, [a, b, outcome]
    used = sorted(name for name, met in zip(names, _used(len(names), a, b), strict=True) if met)
    if used != names:
        place = {name: k for k, name in enumerate(used)}
        moved = np.array([place.get(name, -1) for name in names], np.int32)
        a, b = moved[a], moved[b]
    return used, [a, b, outcome]


def tallied(table: pl.DataFrame, outcome: np.ndarray) -> np.ndarray | None:
    """Return (n, 3) int32 of how many raters said each outcome; None where each row is a vote."""
    names = [f"votes_{outcome}" for outcome in OUTCOMES]
    given = [name for name in names if name in table.columns]
    if not given or all(table[name].null_count() == len(table) for name in given):
        return None
    counts = table.select(
        pl.col(name).cast(pl.Int64) if name in given else pl.lit(None, pl.Int64).alias(name)
        for name in names
    )
    if bool(counts.select((pl.all() < 0).any()).row(0).count(True)):
        raise ValueError("votes_a, votes_b and votes_tie are how many raters: 0 or more")
    summed = ~counts.select(pl.all_horizontal(pl.all().is_null())).to_series().to_numpy()
    tally = counts.fill_null(0).to_numpy().astype(np.int32)
    return np.where(summed[:, None], tally, np.eye(3, dtype=np.int32)[outcome])


@compiled
def _used(m: int, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return (m,) bool: which of m codes are in a or b."""
    used = np.zeros(m, np.bool_)
    for k in range(len(a)):
        used[a[k]] = used[b[k]] = True
    return used


@compiled
def _counts(
    m: int, a: np.ndarray, b: np.ndarray, outcome: np.ndarray, tally: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    seen = np.zeros((3, m, m), np.int64)
    for k in range(len(a)):
        if len(tally):
            for o in range(3):
                seen[o, a[k], b[k]] += tally[k, o]
        else:
            seen[outcome[k], a[k], b[k]] += 1
    for i in range(m):
        seen[:, i, i] = 0
    return seen[A_WINS] + seen[B_WINS].T, seen[TIE] + seen[TIE].T


def in_time_order(votes: pl.DataFrame) -> pl.DataFrame:
    """Sort votes by `created_at`, unknown times last; equal times keep their position."""
    if "created_at" not in votes.columns or votes["created_at"].is_sorted(nulls_last=True):
        return votes
    return votes.sort("created_at", nulls_last=True, maintain_order=True)


def pairs_table(votes: Any) -> pl.DataFrame:
    """Count wins and ties for every pair of models that met (columns: `schema.PAIRS`)."""
    comparisons = Comparisons.of(votes)
    wins, ties = comparisons.counts()
    i, j = np.nonzero(np.triu(wins + wins.T + ties, 1))
    names = np.array(comparisons.models, dtype=object)
    return pl.DataFrame(
        {
            "model_a": names[i],
            "model_b": names[j],
            "wins_a": wins[i, j],
            "wins_b": wins[j, i],
            "ties": ties[i, j],
        },
        schema=PAIRS,
    ).sort("model_a", "model_b")


def checked_pairs(rankings: pl.DataFrame) -> pl.DataFrame:
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
    for name in ("models", "ranks"):
        items = rankings[name]
        null = items.list.eval(pl.element().is_null()).list.any() | (items.list.len() == 0)
        if (lacks := null.fill_null(True).arg_true()).len():
            raise ValueError(f"K-wise vote {lacks[0] + 1}: a model or a rank is null")
    number = pl.int_range(pl.len()).cast(pl.String)
    named = pl.coalesce("vote_id", number) if "vote_id" in rankings.columns else number
    when = ["created_at"] if "created_at" in rankings.columns else []
    lists = rankings.select(*when, "models", "ranks", vote_id=named, images="models")
    return pairs_of(lists).select(*when, "ranking", "model_a", "model_b", "outcome")

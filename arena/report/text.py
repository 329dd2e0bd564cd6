"""Ratings and predictions said in text, for the terminal."""

from typing import TYPE_CHECKING

from arena.ratings.table import Ratings

if TYPE_CHECKING:  # it loads scipy, which `fit` has no use for
    from arena.prediction.held_out import Evaluation


def leaderboard(ratings: Ratings) -> str:
    """Return the ratings as text, one block a group of models that were compared."""
    table = ratings.table
    apart = table["group"].n_unique()
    wide = max([len(name) for name in table["model"]] + [len("model")])
    said = ", ".join(f"{key} {value:.4g}" for key, value in ratings.parameters.items())
    lines = [f"{ratings.estimator}: {said}"]
    for (group,), members in sorted(table.group_by("group", maintain_order=True)):
        votes = int(members["votes"].sum()) // 2
        title = f"group {group}: " if apart > 1 else ""
        lines += ["", f"{title}{_count(len(members), 'model')}, {_count(votes, 'vote')}"]
        elo = "elo" in table.columns
        lines.append(
            f"{'':>4}  {'model':<{wide}}  {'elo      95%  ' if elo else '':>{16 * elo}}"
            f"{'mu':>9}  {'95%':>8}  {'votes':>9}  {'wins':>9}  {'losses':>9}  {'ties':>9}"
        )
        for place, row in enumerate(members.iter_rows(named=True), start=1):
            known = f"{row['elo']:7.0f}  ±{1.96 * row['elo_sd']:4.0f}  " if elo else ""
            lines.append(
                f"{place:>4}  {row['model']:<{wide}}  {known}{row['mu']:9.3f}  "
                f"±{1.96 * row['sigma']:7.3f}  {row['votes']:9,}  {row['wins']:9,}  "
                f"{row['losses']:9,}  {row['ties']:9,}"
            )
    if apart > 1:
        lines += [
            "",
            f"The {apart} groups were never compared with each other: "
            "a rating says nothing about a model of another group.",
        ]
    return "\n".join(lines)


def held_out_table(evaluation: "Evaluation") -> str:
    """Return how well each method predicted later votes, the best first."""
    table = evaluation.overall()
    wide = max([len(name) for name in table["method"]] + [len("method")])
    lines = [
        f"prediction of the last {_count(table['votes'][0], 'vote')} from those before "
        "(frozen: before their block; online: before each)",
        f"  {'method':<{wide}}  {'predicts':<8}  {'log-loss':>8}  {'Brier':>6}  {'accuracy':>8}  "
        f"{'calibration':>11}  over the better baseline",
    ]
    for row in table.iter_rows(named=True):
        gain = f"{row['gain']:+.4f} ± {row['gain_half']:.4f}" if row["gain_half"] else ""
        silent = f"  ({row['unrated']:,} unrated)" if row["unrated"] else ""
        lines.append(
            f"  {row['method']:<{wide}}  {row['prediction']:<8}  {row['log_loss']:8.4f}  "
            f"{row['brier']:6.4f}  {row['accuracy']:8.1%}  {row['calibration_error']:11.3f}  "
            f"{gain}{silent}".rstrip()
        )
    return "\n".join(lines)


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}" + ("" if n == 1 else "s")

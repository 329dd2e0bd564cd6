"""Later votes of real people and real matches are predicted better than by baselines and peers."""

import pytest

from arena.prediction.held_out import FIRST, evaluate
from arena.prediction.tune import tune
from benchmarks import held_out

# The best peers' log-loss, docs/evidence/held_out.md: openskill 6.2.0 online, choix 0.4.1 frozen.
PEERS = {"football": 0.9331, "genai_arena": 1.0029}


@pytest.mark.skipif(not held_out.DATA.exists(), reason="../shared/data is not here")
@pytest.mark.parametrize(
    ("data", "method"), [("football", "trueskill"), ("genai_arena", "thurstone")]
)
def test_tuned_on_the_past_beats_every_baseline_and_the_peer_on_the_future(data, method):
    """International football (CC0); GenAI-Arena (TIGER-AI-Lab, Apache-2.0)."""
    votes = getattr(held_out, data)().between_models()
    tuned = tune(votes.part(0, round(len(votes) * FIRST)), method).estimator
    rows = evaluate(votes, {"tuned": tuned}).overall()
    best, *others = rows.select("method", "log_loss", "gain", "gain_half").rows()
    assert best[0] == "tuned"
    assert best[2] > best[3]  # the 95% interval of the gain over the better baseline is above 0
    assert best[1] < PEERS[data]
    assert {row[0] for row in others} >= {"constant", "elo, K=24"}

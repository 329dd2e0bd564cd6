"""Rapidata's results.

Layouts: docs.rapidata.ai, "Interpreting the Results" (aggregator 3.0.0 and 4.1.0: winner is
weighted by the raters' scores, aggregatedResults counts them, Both and Neither are trailing
options), and the cards of Rapidata/700k_Human_Preference_Dataset_FLUX_SD3_MJ_DALLE3 (votes_image1,
votes_image2: int64; image1, image2: image) and Rapidata/HunyuanImage-2.1_t2i_human_preference
(weighted_results_image1_preference, ..._coherence, ..._alignment: float32).
"""

import json

import polars as pl

from arena.votes.read import read_votes

RESULT = {
    "context": "A small blue book sitting on a large red book.",
    "winner_index": 1,
    "winner": "dalle-3_37_2.jpg",
    "aggregatedResults": {"aurora-20-1-25_37_4.png": 0, "dalle-3_37_2.jpg": 3},
    "aggregatedResultsRatios": {"aurora-20-1-25_37_4.png": 0.0, "dalle-3_37_2.jpg": 1.0},
    "summedUserScores": {"aurora-20-1-25_37_4.png": 0.0, "dalle-3_37_2.jpg": 1.196},
    "detailedResults": [
        {"votedFor": "dalle-3_37_2.jpg", "userDetails": {"country": "BY", "language": "ru"}}
    ],
}
INFO = {"createdAt": "2025-02-11T07:31:59.353232+00:00", "version": "3.0.0"}


def order(*results, **info):
    summary = {"A_wins_total": 0, "B_wins_total": 1}
    return {"info": INFO | info, "summary": summary, "results": list(results)}


def counted(**counts):
    return RESULT | {"aggregatedResults": counts}


def sides(votes):
    return votes.select("model_a", "model_b", "outcome", "votes_a", "votes_b", "votes_tie").rows()


def test_an_order_counts_its_raters(read_text):
    reading = read_text(json.dumps(order(RESULT, version="4.1.0", type="Compare")))
    assert reading.files[0].format == "rapidata_order"
    assert sides(reading.votes) == [("aurora-20-1-25", "dalle-3", "b", 0, 3, 0)]
    assert reading.votes["prompt"].item() == RESULT["context"]


def test_both_and_neither_are_ties(read_records, read_text):
    some = counted(**{"m_1.png": 3, "n_1.png": 2, "Both": 4, "Neither": 1})
    few = counted(**{"m_1.png": 3, "n_1.png": 2, "Both": 1})
    reading = read_text(json.dumps(order(some, few)))
    assert sides(reading.votes) == [("m", "n", "tie", 3, 2, 5), ("m", "n", "a", 3, 2, 1)]


def test_assets_without_a_number_are_told_apart(read_text):
    named = [
        {"model_a.jpg": 3, "model_b.jpg": 5},
        {"flux/cat.jpg": 1, "sd3/cat.jpg": 0},
        {"https://x.org/a/midjourney-5.2_37_3.jpg": 1, "https://x.org/a/flux-1-pro_37_0.jpg": 2},
    ]
    reading = read_text(json.dumps(order(*(counted(**each) for each in named))))
    assert reading.votes.select("model_a", "model_b").rows() == [
        ("model_a", "model_b"),
        ("flux", "sd3"),
        ("midjourney-5.2", "flux-1-pro"),
    ]


def test_a_result_of_nobody_or_of_three_is_rejected(read_text):
    nobody = counted(**{"m_1.png": 0, "n_1.png": 0})
    three = counted(**{"m_1.png": 1, "n_1.png": 0, "o_1.png": 0})
    assert read_text(json.dumps(order(nobody, three, {}))).rejected.height == 3


def test_shares_are_read_by_dimension_and_images_by_path(tmp_path):
    image = {"bytes": b"\xff\xd8", "path": "1.jpg"}
    columns = {"prompt": ["p"], "image1": [image], "image2": [image | {"path": "2.jpg"}]}
    columns |= {"model1": ["hunyuan"], "model2": ["flux"]}
    for dimension, share in (("preference", 0.6), ("coherence", 0.3), ("alignment", 0.5)):
        columns[f"weighted_results_image1_{dimension}"] = [share]
        columns[f"weighted_results_image2_{dimension}"] = [1 - share]
        columns[f"detailed_results_{dimension}"] = ["[]"]
    path = tmp_path / "train.parquet"
    pl.DataFrame(columns).write_parquet(path)
    told = {
        dimension: read_votes([path], dimension=dimension).votes.row(0, named=True)
        for dimension in ("preference", "coherence", "alignment")
    }
    assert [vote["outcome"] for vote in told.values()] == ["a", "b", "tie"]
    assert told["preference"]["image_b"] == "2.jpg"


# Rapidata/text-2-video-human-preferences-* and datapointai/text-2-video-human-preferences-motion.
def test_shares_of_videos_have_no_image_in_their_name(read_records):
    row = {"prompt": "p", "model1": "sora", "model2": "veo"}
    row |= {"weighted_results1_Coherence": 0.7, "weighted_results2_Coherence": 0.3}
    row |= {"weighted_results1_Aesthetic": 0.2, "weighted_results2_Aesthetic": 0.8}
    told = [read_records(row, dimension=each).votes for each in (None, "Aesthetic")]
    assert [votes.select("outcome", "dimension").row(0) for votes in told] == [
        ("a", "coherence"),
        ("b", "aesthetic"),
    ]

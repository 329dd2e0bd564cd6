"""Records as their publishers print or ship them, word for word, with where each is from."""

import json

from arena.schema import UNNAMED

# TIGER-AI-Lab/GenAI-Arena, clean_battle_20240220.json, the first two records.
GENAI_ARENA = """[
  {
    "model_a": "imagenhub_SDXLTurbo_generation",
    "model_b": "imagenhub_LCM_generation",
    "winner": "model_a",
    "judge": "arena_user_::1",
    "anony": true,
    "tstamp": 1707700514.3167
  },
  {
    "model_a": "imagenhub_SDXLTurbo_generation",
    "model_b": "imagenhub_LCM_generation",
    "winner": "model_a",
    "judge": "arena_user_::1",
    "anony": false,
    "tstamp": 1707701110.2369
  }
]"""


def test_genai_arena_s_battles(read_text):
    reading = read_text(GENAI_ARENA)
    assert reading.files[0].format == "battles"
    votes = reading.votes
    assert votes.select("outcome", "rater", "anonymous").rows() == [
        ("a", "arena_user_::1", True),
        ("a", "arena_user_::1", False),
    ]
    assert votes.select("model_a", "model_b").unique().rows() == [
        ("imagenhub_SDXLTurbo_generation", "imagenhub_LCM_generation")
    ]
    assert str(votes["created_at"][0]) == "2024-02-12 01:15:14.316700+00:00"


# THUDM/ImageRewardDB, test.json, the first record.
IMAGEREWARD = {
    "id": "005658-0040",
    "prompt": "deathly portal to the abyss, ultra detailed, warm interior light, cinematic shot, "
    "photorealistic, octane render, high definition, fine details, sinister tones, 8 k, mcbess "
    "mood,",
    "generations": [
        "part-005658/images/0040/45b0de4d-5a57-4ae3-8810-ffbd328204fd.webp",
        "part-005658/images/0040/7d4cc31d-2451-4a9d-99e6-3bdc157aaf2d.webp",
        "part-005658/images/0040/f24a2c01-b1ed-4d4f-ba23-5ba5755b1ce7.webp",
        "part-005658/images/0040/e77d096b-cc89-49cc-ae9a-39679ae23aeb.webp",
    ],
    "ranking": [1, 2, 5, 3],
}


def test_imagereward_s_ranking(read_records):
    reading = read_records(IMAGEREWARD)
    assert reading.files[0].format == "imagereward"
    ranking = reading.rankings.row(0, named=True)
    assert (ranking["prompt_id"], ranking["ranks"]) == ("005658-0040", [1, 2, 4, 3])
    assert ranking["images"] == IMAGEREWARD["generations"]
    assert reading.votes["outcome"].to_list() == ["a", "a", "a", "a", "a", "b"]


# j-min/DSG, dsg/data/tifa160-likert-anns.csv: the header, and one prompt by two models and raters.
TIFA160 = """dsg_prompt_split,t2i_model,item_id,source_id,worker_id,question,answer
tifa160,mini-dalle,tifa160_143,partiprompt_366,4375840905,How consistent is the image with the text description?,3
tifa160,mini-dalle,tifa160_143,partiprompt_366,4379690288,How consistent is the image with the text description?,5
tifa160,sd1dot1,tifa160_143,partiprompt_366,4375840905,How consistent is the image with the text description?,5
tifa160,sd1dot1,tifa160_143,partiprompt_366,4379690288,How consistent is the image with the text description?,4
"""  # noqa: E501


def test_tifa160_s_scores(read_text):
    reading = read_text(TIFA160)
    assert reading.files[0].format == "likert"
    assert reading.votes.select("model_a", "model_b", "outcome", "rater", "prompt_id").rows() == [
        ("mini-dalle", "sd1dot1", "b", "4375840905", "tifa160_143"),
        ("mini-dalle", "sd1dot1", "a", "4379690288", "tifa160_143"),
    ]


# linzhiqiu/GenAI-Bench, genai_image.json, the first prompt.
GENAI_BENCH = {
    "00001": {
        "id": "00001",
        "prompt": "A baker pulling freshly baked bread out of an oven in a bakery.",
        "prompt in Chinese": "一位面包师正从面包店的烤箱中取出刚烤好的面包。",
        "models": {
            "DALLE_3": [5, 5, 5],
            "SDXL_Turbo": [2, 4, 3],
            "DeepFloyd_I_XL_v1": [4, 3, 3],
            "Midjourney_6": [3, 3, 3],
            "SDXL_2_1": [3, 2, 2],
            "SDXL_Base": [3, 3, 2],
        },
    }
}


def test_genai_bench_s_scores(read_text):
    reading = read_text(json.dumps(GENAI_BENCH))
    assert (reading.rankings.height, reading.rows) == (3, 18)
    assert reading.rankings["ranks"].to_list() == [
        [1, 4, 2, 3, 3, 3],
        [1, 2, 3, 3, 4, 3],
        [1, 2, 2, 2, 3, 3],
    ]
    assert reading.rankings["prompt"][0] == GENAI_BENCH["00001"]["prompt"]


# MizzenAI/HPSv3, README.md, "All Annotated Pairs (all.json)" and "Test Set", without the comments.
HPD_V3 = """[
    {
    "prompt": "Description of the visual content or the generation prompt.",
    "choice_dist": [12, 7],
    "confidence": 0.9999907,
    "path1": "images/uuid1.jpg",
    "path2": "images/uuid2.jpg",
    "model1": "flux",
    "model2": "infinity"
    },
    {
    "prompt": "Description of the visual content or the generation prompt.",
    "choice_dist": null,
    "confidence": null,
    "path1": "images/uuid1.jpg",
    "path2": "images/uuid2.jpg",
    "model1": "midjourney",
    "model2": "midjourney"
    },
    {
    "prompt": "Description of the visual content or the generation prompt.",
    "choice_dist": null,
    "confidence": null,
    "path1": "images/uuid1.jpg",
    "path2": "images/uuid2.jpg",
    "model1": "hpdv2",
    "model2": "hpdv2"
    }
]"""


def test_hpd_v3_s_three_kinds_of_pairs(read_text, read_records):
    votes = read_text(HPD_V3).votes
    assert votes.select("model_a", "model_b", "outcome", "votes_a", "votes_b").rows() == [
        ("flux", "infinity", "a", 12, 7),
        ("midjourney", "midjourney", "a", None, None),
        (UNNAMED, UNNAMED, "a", None, None),
    ]
    # Its pickapic.json and imagereward.json name no model, and their lists are empty.
    pair = {"prompt": "p", "path1": "1.jpg", "path2": "2.jpg", "confidence": [], "choice_dist": []}
    assert read_records(pair).votes["model_a"].to_list() == [UNNAMED]


# docs.rapidata.ai, "Interpreting the Results", the example of version 3.0.0 up to its raters.
RAPIDATA = """{
  "info": {
    "createdAt": "2025-02-11T07:31:59.353232+00:00",
    "version": "3.0.0"
  },
  "summary": {
    "A_wins_total": 0,
    "B_wins_total": 1
  },
  "results": [
    {
      "context": "A small blue book sitting on a large red book.",
      "winner_index": 1,
      "winner": "dalle-3_37_2.jpg",
      "aggregatedResults": {
        "aurora-20-1-25_37_4.png": 0,
        "dalle-3_37_2.jpg": 3
      },
      "aggregatedResultsRatios": {
        "aurora-20-1-25_37_4.png": 0.0,
        "dalle-3_37_2.jpg": 1.0
      },
      "summedUserScores": {
        "aurora-20-1-25_37_4.png": 0.0,
        "dalle-3_37_2.jpg": 1.196
      },
      "summedUserScoresRatios": {
        "aurora-20-1-25_37_4.png": 0.0,
        "dalle-3_37_2.jpg": 1.0
      }
    }
  ]
}"""


def test_rapidata_s_result_of_an_order(read_text):
    votes = read_text(RAPIDATA).votes
    assert votes.select("model_a", "model_b", "outcome", "votes_a", "votes_b").rows() == [
        ("aurora-20-1-25", "dalle-3", "b", 0, 3)
    ]
    assert votes["prompt"].item() == "A small blue book sitting on a large red book."

"""QuentinWach/image-ranker's csv. Records: its comparisons_autosave.csv at c8b8544, shortened."""

from arena.schema import UNNAMED

FOLDER = "C:/Users/Quentin Wach/Desktop/MU/DATA Library/Images/emiru"


def test_a_folder_is_the_model(read_text):
    pair = f"{FOLDER}/hc3rgfd2 23e.jfif,{FOLDER}/542qsd.jfif"
    reading = read_text(f"Winner,Loser\n{pair}\nNone,{FOLDER}/asdf542.jfif\n")
    vote = reading.votes.row(0, named=True)
    assert (vote["model_a"], vote["outcome"]) == ("emiru", "a")
    assert vote["image_a"] == f"{FOLDER}/hc3rgfd2 23e.jfif"
    assert reading.files[0].skipped == {"pairs that were skipped": 1}


def test_images_without_a_folder_have_no_model(read_text):
    assert read_text("Winner,Loser\n1.png,2.png\n").votes["model_a"].item() == UNNAMED


def test_names_that_are_no_images_are_models(read_text):
    votes = read_text("winner,loser\nflux,sdxl\n").votes
    assert votes.select("model_a", "model_b", "image_a").rows() == [("flux", "sdxl", None)]


def test_what_stands_beside_the_pair_is_read_and_the_rest_is_named(read_text):
    header = "winner,loser,prompt,rater,timestamp,is_tie,mood"
    rows = "flux,sdxl,a fox,u,2024-01-01,False,x\nsdxl,flux,a cup,v,2024-01-02,True,y\n"
    reading = read_text(f"{header}\n{rows}")
    assert reading.votes.select("model_a", "outcome", "prompt", "rater").rows() == [
        ("flux", "a", "a fox", "u"),
        ("sdxl", "tie", "a cup", "v"),
    ]
    assert reading.votes["created_at"].null_count() == 0
    assert reading.files[0].unread == ["mood"]


# data-is-better-together/open-image-preferences-v1-binarized, its columns.
def test_pairs_of_dpo_with_their_models(read_records):
    pair = {"chosen": {"path": "1.jpg"}, "rejected": {"path": "2.jpg"}}
    pair |= {"chosen_model": "dev", "rejected_model": "sd", "evolution": "quality"}
    votes = read_records(pair).votes
    assert votes.select("model_a", "model_b", "outcome", "image_a", "image_b").rows() == [
        ("dev", "sd", "a", "1.jpg", "2.jpg")
    ]

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

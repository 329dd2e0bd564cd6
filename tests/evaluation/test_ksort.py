"""K-Sort Eval: the published algorithm to 1e-9, recovery of a planted ability, and its errors."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import trueskill
from ksort_worlds import PerfectJudge, RandomJudge, make_world, write_dataset, write_new_images
from PIL import Image
from scipy.stats import spearmanr

from arena.votes.formats import kwise
from evaluation.__main__ import main
from evaluation.errors import EvaluationError
from evaluation.ksort import dataset as ksort_dataset
from evaluation.ksort.dataset import Dataset, read_dataset
from evaluation.ksort.judges import Question, RecordedJudge, load_judge
from evaluation.ksort.rating import Environment, correct, evaluate, next_instance, spearman


def published_algorithm(dataset: Path, judgments: dict, variance: str, score: str):
    """The algorithm as published, written plainly: one loop over arrays, scipy and trueskill."""
    environment = trueskill.TrueSkill()
    meta = dataset / "Image_meta"
    capacity = np.load(meta / "avg_capacitys.npy")
    overlap = np.load(meta / "total_overlaps.npy")
    folders = np.load(meta / "subfolders.npy")
    ratings, sigmas = {}, []
    board = json.loads((meta / "Arena-Leaderboard-Image.json").read_text())
    for row in board["sorted_score_list"]:
        mu, sigma = map(float, row["⭐ Score (μ/σ)"].split(" ")[1][1:-1].split("/"))
        ratings[row["🤖 Model"]] = environment.create_rating(mu, sigma)
        sigmas.append(sigma)
    new = environment.create_rating()
    used, trace = [], []
    for _ in range(min(150, len(folders))):
        active = np.abs(np.mean(capacity, axis=1) - new.mu) + 0.5 * overlap
        active[used] = np.inf
        index = int(np.argmin(active))
        used.append(index)
        content = json.loads((dataset / "Image" / folders[index] / "result.json").read_text())
        observed = judgments[str(folders[index])]
        opponents = [ratings[name.split("_")[1]] for name in content["models_name"]]
        rho = spearmanr(content["img_rank"], observed[:-1])[0]
        lam = 1 / (1 + np.exp(-5 * rho))
        old = new
        after = environment.rate([[r] for r in opponents] + [[new]], observed)[-1][0]
        mu = lam * after.mu + (1 - lam) * old.mu
        if variance == "code":
            share = lam**2 / (lam**2 + (1 - lam) ** 2)
            square = share * after.sigma**2 + (1 - share) * old.sigma**2
        else:
            square = lam**2 * after.sigma**2 + (1 - lam) ** 2 * old.sigma**2
        new = environment.create_rating(mu, math.sqrt(square))
        trace.append((str(folders[index]), new.mu, new.sigma))
        if new.sigma < 0.75:
            break
    return trace, new.mu - 3 * (np.mean(sigmas) if score == "code" else new.sigma)


def record(path: Path, judgments: dict) -> Path:
    lines = (json.dumps({"instance": name, "ranks": ranks}) for name, ranks in judgments.items())
    path.write_text("\n".join(lines))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variance", "score", "worlds"), [("code", "code", 100), ("paper", "paper", 10)]
)
def test_agrees_with_the_published_algorithm(tmp_path, variance, score, worlds):
    for seed in range(worlds):
        rng = np.random.default_rng(seed)
        root = tmp_path / f"world{seed}"
        write_dataset(root, rng, instances=int(rng.integers(5, 45)), models=10)
        images = write_new_images(root / "new", root)
        noise = [0.0, 1.0, 50.0][seed % 3]  # a judge who agrees with people, roughly, not at all
        judgments = {}
        for folder in (root / "Image").iterdir():
            human = json.loads((folder / "result.json").read_text())["img_rank"]
            seen = [*human, rng.uniform(-1, 4)] + noise * rng.normal(size=5)
            judgments[folder.name] = [int(rank) for rank in np.argsort(np.argsort(seen))]
        trace, final = published_algorithm(root, judgments, variance, score)
        judge = RecordedJudge(record(root / "judge.jsonl", judgments))
        ours = evaluate(read_dataset(root), images, judge, variance=variance, score=score)
        assert [r.instance for r in ours.rounds] == [name for name, _, _ in trace]
        np.testing.assert_allclose(
            [(r.mu, r.sigma) for r in ours.rounds],
            [(mu, sigma) for _, mu, sigma in trace],
            rtol=0,
            atol=1e-9,
        )
        assert ours.score == pytest.approx(final, abs=1e-9)


@pytest.fixture(scope="module")
def blank(tmp_path_factory) -> Path:
    """A folder with the new model's image of each of 300 instances."""
    folder = tmp_path_factory.mktemp("new")
    Image.new("RGB", (8, 8)).save(folder / "0.png")
    for i in range(1, 300):
        (folder / f"{i}.png").symlink_to(folder / "0.png")
    return folder


def test_what_is_drawn_is_what_is_met_and_then_what_would_be_met_next(blank):
    rng = np.random.default_rng(6)
    world, drawn = make_world(rng, blank / "0.png", instances=9), []

    def draw(instances):
        drawn.append([one.name for one in instances])

    result = evaluate(world, blank, RandomJudge(rng), draw=draw)
    met = [one.instance for one in result.rounds]
    assert [names[0] for names in drawn] == met
    for number, names in enumerate(drawn):
        assert sorted(names) == sorted(set(world.names) - set(met[:number]))  # each once
        mu = result.rounds[number - 1].mu if number else 25.0
        used = [world.names.index(name) for name in [*met[:number], names[0]]]
        if len(names) > 1:
            assert names[1] == world.names[next_instance(world, mu, used)]


@pytest.mark.slow
def test_a_perfect_judge_recovers_the_planted_ability_95_times_in_100(blank):
    rng = np.random.default_rng(3)
    errors, rounds, settled = [], [], 0
    for _ in range(30):
        world = make_world(rng, blank / "0.png", instances=300)
        for _ in range(5):
            truth = rng.normal(25, 4)
            result = evaluate(world, blank, PerfectJudge(world, truth, rng))
            errors.append((result.mu - truth) / result.sigma)
            rounds.append(len(result.rounds))
            settled += result.stopped == "sigma"
    covered = np.mean(np.abs(errors) < 1.96)
    print(f"covered {covered:.1%}, mean rounds to sigma < 0.75: {np.mean(rounds):.1f}")
    assert abs(covered - 0.95) < 2.5 * math.sqrt(0.95 * 0.05 / len(errors))
    assert settled / len(errors) > 0.95  # the others used all 150 rounds
    assert 50 < np.mean(rounds) < 90


@pytest.mark.slow
def test_a_random_judge_does_not_move_the_rating(blank):
    rng = np.random.default_rng(4)
    ratings = []
    for _ in range(25):
        world = make_world(rng, blank / "0.png", instances=300)
        result = evaluate(world, blank, RandomJudge(rng))
        ratings.append(result.mu)
        assert abs(np.mean([one.rho for one in result.rounds])) < 0.3
    spread = np.std(ratings, ddof=1)
    print(f"mean {np.mean(ratings):.2f}, standard deviation {spread:.2f}")
    assert abs(np.mean(ratings) - 25) < 3 * spread / math.sqrt(len(ratings))
    assert spread < 25 / 3 / 3  # a third of what TrueSkill thinks possible at the start


def test_a_judge_who_contradicts_people_moves_nothing(blank):
    world = make_world(np.random.default_rng(5), blank / "0.png", instances=300)

    class Contrary:
        def rank(self, question: Question) -> list[float]:
            human = world.instance(int(question.instance)).human_ranks
            return [*(3.0 - rank for rank in human), -1.0]  # and the new one is always best

        def summary(self):
            return {"name": "contrary"}

    result = evaluate(world, blank, Contrary())
    moves = np.diff([25.0, *(one.mu for one in result.rounds)])
    contradicted = np.array([one.rho for one in result.rounds]) == -1
    assert contradicted.mean() > 0.5
    assert np.abs(moves[contradicted]).max() < 0.1
    assert result.sigma > 2


def test_the_same_seed_shows_the_same_order_and_another_seed_another(tmp_path):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=8)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    shown: list[list[tuple[int, ...]]] = []
    for seed in (0, 0, 1):
        seen: list[tuple[int, ...]] = []

        class Watching:
            def rank(self, question: Question, seen=seen) -> list[float]:
                seen.append(question.shown)
                return [0, 1, 2, 3, 4]

            def summary(self):
                return {}

        evaluate(read_dataset(tmp_path / "world"), images, Watching(), seed=seed)
        shown.append(seen)
    assert shown[0] == shown[1] != shown[2]
    assert all(sorted(order) == [0, 1, 2, 3, 4] for order in shown[0])


def test_matching_prefers_close_capacity_and_little_overlap(tmp_path):
    dataset = Dataset(
        tmp_path, ("a", "b", "c"), np.array([20.0, 24, 25]), np.array([0, 0, 4.0]), {}
    )
    assert next_instance(dataset, 25.0, []) == 1  # |24 - 25| < 0.5 x 4
    assert next_instance(dataset, 25.0, [], alpha=0.1) == 2
    assert next_instance(dataset, 25.0, [1]) == 2


def test_correction_trusts_agreement_and_distrusts_its_opposite():
    assert correct(1.0, (25.0, 8.0), (30.0, 6.0))[0] == pytest.approx(29.966, abs=1e-3)
    assert correct(-1.0, (25.0, 8.0), (30.0, 6.0)) == pytest.approx((25.033, 8.0), abs=1e-2)
    _, paper = correct(0.0, (25.0, 8.0), (25.0, 8.0), "paper")
    assert paper == pytest.approx(8 / math.sqrt(2))  # the paper's weights shrink without evidence


def test_a_ranking_without_order_correlates_zero():
    assert spearman([1, 1, 1, 1], [0, 1, 2, 3]) == 0.0
    assert spearman([1, 2, 2, 4], [0, 1, 3, 2]) == pytest.approx(
        spearmanr([1, 2, 2, 4], [0, 1, 3, 2])[0]
    )


@pytest.mark.parametrize("ranks", [[0, 1], [1, 0], [0, 0]])
def test_an_absurd_upset_still_gives_a_rating(ranks):
    environment = Environment()
    players = [(environment.create_rating(2000, 0.5),), (environment.create_rating(-2000, 0.5),)]
    for (rating,) in environment.rate(players, ranks):
        assert math.isfinite(rating.mu)
        assert 0 < rating.sigma <= 0.6


def run(*arguments) -> int:
    return main(["ksort", *map(str, arguments)])


def test_the_command_writes_the_result_and_says_what_it_found(tmp_path, capsys):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=6)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    names = [folder.name for folder in (tmp_path / "world" / "Image").iterdir()]
    judge = record(tmp_path / "j.jsonl", {name: [1, 2, 3, 4, 0] for name in names})
    out = tmp_path / "result.json"
    arguments = ("--dataset", tmp_path / "world", "--images", images, "--out", out)
    assert run(*arguments, "--judge", f"recorded:{judge}") == 0
    result = json.loads(out.read_text())
    assert len(result["rounds"]) == 6
    assert set(result["rounds"][0]) == {"instance", "ranks", "rho", "mu", "sigma"}
    assert result["rounds"][-1]["mu"] == result["mu"] > 25
    assert "score" in capsys.readouterr().out


def test_images_are_drawn_for_the_instances_that_are_met_only(tiny_pipeline, tmp_path):
    """The judge is certain, so few of the instances are met; a repeat draws nothing."""
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=40)
    new = tmp_path / "new"
    names = [folder.name for folder in (tmp_path / "world" / "Image").iterdir()]
    judge = record(tmp_path / "j.jsonl", {name: [1, 2, 3, 4, 0] for name in names})
    lines = [json.loads(line) for line in judge.read_text().split("\n") if line]
    dataset = read_dataset(tmp_path / "world")
    for i, name in enumerate(dataset.names):  # agrees with people, and the new one is best
        human = dataset.instance(i).human_ranks
        next(x for x in lines if x["instance"] == name)["ranks"] = [*(h + 1 for h in human), 0]
    judge.write_text("\n".join(map(json.dumps, lines)))
    arguments = ["--dataset", tmp_path / "world", "--images", new, "--out", tmp_path / "r.json"]
    arguments += ["--judge", f"recorded:{judge}", "--base", tiny_pipeline, "--steps", 1]
    assert run(*arguments, "--guidance", 2) == 0
    rounds = json.loads((tmp_path / "r.json").read_text())["rounds"]
    drawn = {path.stem: path.stat().st_mtime_ns for path in new.glob("*.png")}
    assert drawn.keys() == {one["instance"] for one in rounds}
    assert run(*arguments, "--guidance", 2) == 0
    assert drawn == {path.stem: path.stat().st_mtime_ns for path in new.glob("*.png")}


def test_errors_are_one_sentence_that_names_the_file(tmp_path, capsys):
    write_dataset(tmp_path / "world", np.random.default_rng(0), instances=3)
    images = write_new_images(tmp_path / "new", tmp_path / "world")
    judge = record(tmp_path / "j.jsonl", {"sample_0000": [0, 1, 2, 3, 4]})
    out = ("--out", tmp_path / "result.json")
    base = ("--dataset", tmp_path / "world", "--images", images, *out)
    assert run(*base, "--judge", f"recorded:{judge}") == 1
    assert "no judgment of instance 'sample_000" in capsys.readouterr().err
    judge.write_text('{"instance": "x", "ranks": [1, 2]}\n')
    assert run(*base, "--judge", f"recorded:{judge}") == 1
    assert "j.jsonl: line 1: 2 ranks, expected 5" in capsys.readouterr().err
    assert run(*base, "--judge", "oracle:me") == 1
    assert "unknown judge 'oracle:me'" in capsys.readouterr().err
    assert run("--dataset", tmp_path, "--images", images, *out, "--judge", "recorded:x") == 1
    assert "not a K-Sort Eval data set" in capsys.readouterr().err
    (images / "sample_0001.png").unlink()
    record(judge, {f"sample_000{i}": [0, 1, 2, 3, 4] for i in range(3)})
    assert run(*base, "--judge", f"recorded:{judge}") == 1
    assert "no image sample_0001.png" in capsys.readouterr().err
    assert not (tmp_path / "result.json").exists()


def test_a_leaderboard_that_lacks_a_model_is_named(tmp_path):
    write_dataset(tmp_path, np.random.default_rng(0), instances=2)
    path = tmp_path / "Image" / "sample_0000" / "result.json"
    content = json.loads(path.read_text())
    content["models_name"][2] = "9_Nobody"
    path.write_text(json.dumps(content))
    with pytest.raises(EvaluationError, match=r"sample_0000.*'Nobody' is not in Arena-Leaderboard"):
        read_dataset(tmp_path).instance(0)


def test_a_judge_is_made_from_its_name(tmp_path):
    with pytest.raises(
        EvaluationError, match=r"recorded:FILE\.jsonl, openai:MODEL, local:FOLDER or"
    ):
        load_judge("recorded", tmp_path)
    with pytest.raises(EvaluationError, match=r"absent\.jsonl: no such file"):
        load_judge(f"recorded:{tmp_path / 'absent.jsonl'}", tmp_path)


def test_models_have_the_names_that_the_arena_gives_them():
    assert ksort_dataset.ALIASES == kwise.ALIASES

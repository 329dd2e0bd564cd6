"""The house's imports run one way, and in no circle: a test over the import graph."""

import ast
from functools import cache
from pathlib import Path

import pytest

HOUSE = Path(__file__).parents[1]
ROOMS = ("arena", "training", "evaluation", "assets", "pipelines", "voting")
# Who may import whom, besides their own room.
ALLOWED = {
    "arena": set(),
    "training": {"arena"},
    "evaluation": {"arena", "examples"},  # the miniature's scorer, where it is asked for
    "assets": {"arena", "training", "evaluation"},
    "pipelines": {"arena", "training", "evaluation", "assets", "voting"},
    "voting": {"arena", "training"},  # of training the study's reader only
}
# The jobs' doors report through Dagster's pipes when Dagster started them, and log to MLflow's run.
DOORS = {"training.__main__", "training.report", "evaluation.__main__"}
ORCHESTRATION = {"dagster", "dagster_pipes", "mlflow"}


@cache
def imports(path: Path, deferred: bool) -> frozenset[str]:
    """Return the modules that a file imports: when it is loaded, or (deferred) anywhere in it."""
    found = set()
    open_ = list(ast.parse(path.read_text()).body)
    while open_:
        node = open_.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            open_ += node.orelse
        elif deferred or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            open_ += list(ast.iter_child_nodes(node))
    return frozenset(found)


def modules(room: str) -> dict[str, Path]:
    """Return every module of a room by its dotted name."""
    found = {}
    for path in (HOUSE / room).rglob("*.py"):
        parts = list(path.relative_to(HOUSE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_knows_only_the_rooms_below_it(room):
    known = ALLOWED[room] | {room}
    others = {path.name for path in HOUSE.iterdir() if (path / "__init__.py").exists()}
    for name, path in modules(room).items():
        reached = {each.partition(".")[0] for each in imports(path, deferred=True)}
        assert reached & others <= known, name


@pytest.mark.parametrize("room", ["arena", "training", "evaluation", "voting"])
def test_the_method_knows_no_orchestrator(room):
    for name, path in modules(room).items():
        reached = {each.partition(".")[0] for each in imports(path, deferred=True)}
        assert name in DOORS or not reached & ORCHESTRATION, name


@pytest.mark.parametrize("room", ROOMS)
def test_no_room_has_a_circle(room):
    paths = modules(room)
    edges = {
        name: {each for each in imports(path, deferred=False) if each in paths and each != name}
        for name, path in paths.items()
    }
    left = dict(edges)
    while free := [name for name, above in left.items() if not above & set(left)]:
        for name in free:
            del left[name]
    assert not left, f"a circle among {sorted(left)}"


def test_the_voting_page_reads_a_study_and_trains_nothing():
    reached = {
        each
        for path in modules("voting").values()
        for each in imports(path, deferred=True)
        if each.startswith("training.")
    }
    assert reached == {"training.study_file", "training.study_file.read_study"}


def test_dagsters_private_modules_are_imported_in_one_place():
    private = {
        name
        for room in ("assets", "pipelines")
        for name, path in modules(room).items()
        if any(each.startswith("dagster._") for each in imports(path, deferred=True))
    }
    assert private == {"assets.dagster_internals"}

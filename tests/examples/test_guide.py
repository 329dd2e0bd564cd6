"""Every command of the guide to a first real study is run, on the stand-ins of its rehearsal."""

import os
import re
import runpy
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "guide" / "first_real_study.md"
STUDY = "experiments/sd15_pickapic.toml"
Run = Callable[[list[str]], subprocess.CompletedProcess[str]]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def commands() -> list[str]:
    """Return the lines of the page's shell blocks, in order."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def typed(line: str, folder: Path) -> list[str]:
    """Return the words of a command of the page, with the rehearsal's names for the real study's.

    What follows `.venv/bin/python`, for that is every command's first word.
    """
    words = []
    for word in shlex.split(line.replace("/tmp/rehearsal", str(folder))):
        if word == STUDY and "examples.rehearsal" not in line:
            word = str(folder / "sd15_pickapic.toml")
        if word.startswith("data/"):
            word = str(folder / word.replace("prompts/*", "data/test_unique-*"))
            found = sorted(Path(word).parent.glob(Path(word).name)) if "*" in word else ()
            words += map(str, found or [word])
            continue
        words.append(word)
    assert words[:2] == [".venv/bin/python", "-m"], line
    return words[1:]


def start(words: list[str]) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own."""
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Return a function that runs a command in this process, which has loaded what it needs."""
    monkeypatch.chdir(ROOT)
    terminate = signal.getsignal(signal.SIGTERM)

    def run(words: list[str]) -> subprocess.CompletedProcess[str]:
        monkeypatch.setattr(sys, "argv", words[1:])
        monkeypatch.setattr(os, "_exit", sys.exit)  # `arena` ends its process so
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        said = capsys.readouterr()
        return subprocess.CompletedProcess(words, ended.value.code or 0, said.out, said.err)

    yield run
    signal.signal(signal.SIGTERM, terminate)


def follow(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch, *, long: bool) -> list[str]:
    """Follow the page; return the commands that ran. What serves pages is only asked for help.

    long: also `run`, and again what is the same command on a rehearsal's study and on the real one.
    """
    home = folder / "home"
    home.mkdir(parents=True)
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    ran, runs = [], 0
    for line in commands():
        if line.startswith("hf "):
            program = shutil.which("hf", path=str(Path(sys.executable).parent)) or "hf"
            helped = subprocess.run(
                [program, "download", "--help"], capture_output=True, text=True, check=False,
                env=os.environ | {"NO_COLOR": "1", "COLUMNS": "200"},
            ).stdout  # fmt: skip
            assert {w for w in line.split() if w.startswith("--")} <= set(helped.split()), helped
        elif line.startswith(".venv/bin/python"):
            again = " pipelines run " in line
            if not long and (again or line.split()[:4] in [each.split()[:4] for each in ran]):
                continue
            line_here = re.sub(r"(pipelines ui).*", r"\1 --help", line)
            done = run(typed(line_here, folder))
            assert done.returncode == 0, (line, done.stdout[-2000:], done.stderr[-3000:])
            runs += again
            if runs == 2 and again:  # the third follows a new file of prompts
                assert "nothing was recomputed" in done.stderr
        else:
            assert re.fullmatch(r"(mkdir -p|mv|export|unset) .*", line), line
            continue
        ran.append(line)
    return ran


def test_what_the_page_says_can_be_typed(tmp_path, here, monkeypatch):
    ran = follow(tmp_path / "x", here, monkeypatch, long=False)
    assert sum("pipelines check" in line for line in ran) == 1
    assert any("evaluation prompts" in line for line in ran)
    assert (tmp_path / "x/data/evaluation_prompts.parquet").is_file()


@pytest.mark.long
def test_the_page_leads_to_a_report(tmp_path, monkeypatch):
    ran = follow(tmp_path / "x", start, monkeypatch, long=True)
    assert sum("pipelines run" in line for line in ran) == 4
    assert (tmp_path / "x/lake/sd15_pickapic/reports/comparison.html").is_file()


def test_the_page_names_what_is_there():
    text = PAGE.read_text()
    for target in re.findall(r"\]\((\.\./[^)#]+)\)", text):
        assert (PAGE.parent / target).exists(), target
    for path in re.findall(r"`((?:examples|tests|docs)/[\w/.]+)`", text):
        assert (ROOT / path).exists(), path
    assert "make setup" in text
    assert "\nsetup:" in (ROOT / "Makefile").read_text()

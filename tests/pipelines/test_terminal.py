"""On a terminal `run` shows one bar; elsewhere it says lines; what jobs print is in the log."""

import os
import pty
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import subprocess, sys, time
from pathlib import Path
from pipelines.terminal import shown
with shown(4, Path(sys.argv[1])) as terminal:
    terminal.say("train_and_evaluate[dpo]: policy, generations")
    subprocess.run([sys.executable, "-c", "print('a library warns'); print('dpo 30/120')"])
    time.sleep(1.2)
    terminal.say("  check weights_are_finite of policy[dpo] failed")
    terminal.done(3)
    terminal.say("train_and_evaluate[dpo]: done in 1 s")
print("the table")
"""


def test_a_terminal_shows_what_is_done_in_one_bar_and_no_other_words(tmp_path):
    mine, theirs = pty.openpty()
    log = tmp_path / "run.log"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, log], cwd=ROOT, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    screen = b""
    while True:
        try:
            read = os.read(mine, 10_000)
        except OSError:  # the other end is closed
            break
        if not read:
            break
        screen += read
    os.close(mine)
    assert process.wait() == 0
    shown = screen.decode()
    assert "train_and_evaluate[dpo] " in shown
    assert "3/4 stages" in shown
    assert "dpo 30/120" in shown  # beside the bar
    assert "  check weights_are_finite of policy[dpo] failed" in shown
    assert "a library warns" not in shown
    assert shown.rstrip().endswith("the table")
    assert log.read_text().splitlines() == ["a library warns", "dpo 30/120"]


def test_a_file_gets_a_line_for_each_stage_and_what_jobs_print(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, tmp_path / "run.log"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, *_, last = done.stderr.splitlines()
    assert first.endswith(" s] train_and_evaluate[dpo]: policy, generations")
    assert last.endswith("done in 1 s")
    assert done.stdout.splitlines() == ["a library warns", "dpo 30/120", "the table"]
    assert not (tmp_path / "run.log").exists()

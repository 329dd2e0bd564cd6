"""Lock what the two images install, each file by its hash: `python deploy/lock.py`.

pip itself resolves the extras of pyproject.toml anew, for the Python and the platform that this
runs on, which have to be the images' (CPython 3.11, Linux, x86_64). torch is left out, with what
only torch needs: its build follows the machine's GPU, so the job's image takes it by range.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

HERE = Path(__file__).parent
IMAGES = {
    # Flask-WTF: MLflow's server asks for it where it has passwords.
    "orchestration": (["pipeline", "voting", "kubernetes", "remote"],
                      ["httpx>=0.28", "tqdm>=4.67", "Flask-WTF>=1.2"]),
    "job": (["train"], ["ftfy>=6.3", "httpx>=0.28", "trueskill>=0.4.5", "dagster-pipes>=1.13,<1.14",
                        "mlflow-skinny>=3.17,<4"]),
}  # fmt: skip
# The images' own torch brings these.
WITH_TORCH = ("torch", "triton", "nvidia-", "cuda-")


def wanted(extras: list[str], more: list[str]) -> list[str]:
    """Return the requirements of the project and some of its extras."""
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]
    found = [*project["dependencies"], *more]
    for extra in extras:
        found += project["optional-dependencies"][extra]
    return sorted(found)


def locked(requirements: list[str]) -> list[str]:
    """Return a line for each distribution that pip would install, with the hash of its file."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements))
        file.flush()
        command = ["install", "--quiet", "--dry-run", "--ignore-installed", "--report", "-"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", *command, "-r", file.name],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    lines = []
    for each in json.loads(done.stdout)["install"]:
        name, version = each["metadata"]["name"].lower(), each["metadata"]["version"]
        sha = each["download_info"]["archive_info"]["hashes"]["sha256"]
        if not name.startswith(WITH_TORCH):
            lines.append(f"{name}=={version} --hash=sha256:{sha}")
    return sorted(lines)


def main() -> None:
    """Write deploy/orchestration.lock and deploy/job.lock."""
    for image, (extras, more) in IMAGES.items():
        lines = locked(wanted(extras, more))
        head = "# Made by `python deploy/lock.py`: CPython 3.11, Linux, x86_64.\n"
        (HERE / f"{image}.lock").write_text(head + "\n".join(lines) + "\n")
        print(f"{image}: {len(lines)} distributions")


if __name__ == "__main__":
    main()

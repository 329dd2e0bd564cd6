"""What lies in deploy/ fits the project: files, programs, options, versions and models."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from assets.sections import Jobs

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "arenapo.yaml").read_text()))
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def containers(document):
    template = document.get("spec", {}).get("template")
    return template["spec"]["containers"] if template else []


def commands():
    """Return every command of our own images, as compose and Kubernetes start it."""
    services = COMPOSE["services"].values()
    found = [each["command"] for each in services if each["image"].startswith("arenapo-")]
    found += [
        one["command"]
        for document in MANIFESTS
        for one in containers(document)
        if "arenapo-" in one["image"]
    ]
    return found


def test_dagster_on_postgres_is_the_projects_own_but_for_the_storage():
    ours, theirs = (yaml.safe_load((at / "dagster.yaml").read_text()) for at in (ROOT, DEPLOY))
    assert ours.pop("storage").keys() == {"sqlite"}
    assert theirs.pop("storage").keys() == {"postgres"}
    assert ours == theirs


def test_every_command_is_one_of_ours_with_options_that_it_has():
    known = {"python": 0, "mlflow": 0, "/usr/sbin/sshd": 0}
    for command in commands():
        known[command[0]] += 1
        if command[0] == "python":
            assert command[1:4] == ["-m", "pipelines", "ui"]
    assert all(known.values()), known
    served = next(command for command in commands() if command[0] == "mlflow")
    said = subprocess.run(
        [sys.executable, "-m", "mlflow", "server", "--help"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for option in served[2:]:
        assert option.partition("=")[0] in said, option


def test_images_are_of_this_version_and_built_from_files_that_are_there():
    tags = {each["image"] for each in COMPOSE["services"].values()}
    tags |= {one["image"] for document in MANIFESTS for one in containers(document)}
    tags.add(tomllib.loads((DEPLOY / "kubernetes" / "study.toml").read_text())["jobs"]["image"])
    ours = {tag for tag in tags if "arenapo-" in tag}
    assert {tag.rpartition(":")[2] for tag in ours} == {PROJECT["version"]}
    assert all(":" in tag and not tag.endswith(":latest") for tag in tags)
    for name in ("orchestration", "job"):
        lines = (DEPLOY / f"Dockerfile.{name}").read_text().splitlines()
        copied = [line.split()[1] for line in lines if line.startswith("COPY")]
        assert f"deploy/{name}.lock" in copied
        assert all((ROOT / path).exists() for path in copied)
    torch = next(each for each in PROJECT["optional-dependencies"]["train"] if "torch" in each)
    assert f'"{torch}"' in (DEPLOY / "Dockerfile.job").read_text()


def test_no_secret_of_the_guide_lands_in_an_image_or_a_commit():
    guide = (ROOT / "docs" / "guide" / "many_machines.md").read_text()
    left_out = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    secrets = {"> .env": ".env", "$S3_SECRET > s3.json": "s3.json", "mkdir -m 700 ssh": "ssh"}
    for written, path in secrets.items():
        assert written in guide
        assert f"deploy/{path}" in left_out
        assert {f"/deploy/{path}", f"/deploy/{path}/"} & set(ignored)


@pytest.mark.parametrize("image", ["orchestration", "job"])
def test_what_is_locked_is_hashed_and_within_the_projects_bounds(image):
    sys.path.insert(0, str(DEPLOY))
    try:
        import lock
    finally:
        sys.path.remove(str(DEPLOY))
    text = (DEPLOY / f"{image}.lock").read_text().splitlines()[1:]
    assert all(" --hash=sha256:" in line for line in text)
    versions = {
        canonicalize_name(name): version
        for name, _, version in (line.split()[0].partition("==") for line in text)
    }
    assert not [name for name in versions if name.startswith(("torch", "nvidia"))]
    for each in map(Requirement, lock.wanted(*lock.IMAGES[image])):
        if each.name != "torch":
            assert each.specifier.contains(versions[canonicalize_name(each.name)]), each
    if image == "orchestration":
        assert not {"torch", "transformers"} & versions.keys()


@pytest.mark.parametrize("name", ["kubernetes", "slurm"])
def test_the_fragments_are_sections_of_a_study(name):
    said = tomllib.loads((DEPLOY / name / "study.toml").read_text())
    jobs = Jobs.model_validate(said["jobs"])
    assert jobs.retries > 2
    assert bool(jobs.image) == (name == "kubernetes")


def test_manifests_are_what_kubernetes_knows():
    models = pytest.importorskip("dagster_k8s.models")
    client = pytest.importorskip("kubernetes").client
    for document in MANIFESTS:
        version = document["apiVersion"].rpartition("/")[2]
        kind = getattr(client, f"{version.capitalize()}{document['kind']}")
        models.k8s_model_from_dict(kind, models.k8s_snake_case_dict(kind, document))
    names = {(each["kind"], each["metadata"]["name"]) for each in MANIFESTS}
    assert {("Deployment", "orchestration"), ("PersistentVolumeClaim", "lake")} <= names
    with pytest.raises(Exception, match="nonsense"):
        models.k8s_snake_case_dict(client.V1PodSpec, {"nonsense": 1})

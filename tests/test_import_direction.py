"""jobs → pipeline → algorithms, never back; one door for each library; no pickle from outside."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {"algorithms": set(), "pipeline": {"algorithms"}, "jobs": {"algorithms", "pipeline"}}
DOORS = {
    "ray": {
        "pipeline/actors.py",
        "pipeline/cluster.py",
        "pipeline/cluster_metrics.py",
        "pipeline/connection.py",
        "pipeline/resources.py",
        "pipeline/shard_actors.py",
        "jobs/bench/empty_worker.py",
        "jobs/bench/local_ray.py",
        "jobs/bench/pipeline.py",
        "jobs/bench/soak.py",
        "jobs/cluster/client.py",
        "jobs/doctor.py",
    },
    "av": {"pipeline/video.py"},
    "fsspec": {"pipeline/storage.py"},
    "mlflow": {"pipeline/mlflow_models.py", "pipeline/mlflow_run.py", "jobs/doctor.py"},
}
ALGORITHMS_MAY_IMPORT = {"algorithms", "torch", "numpy"}
PICKLES = {"pickle", "dill", "joblib", "shelve", "marshal"}


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def top_level_imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_down_and_use_the_door(package):
    above = MAY_IMPORT.keys() - MAY_IMPORT[package] - {package}
    for path in sources(package):
        here = path.relative_to(ROOT).as_posix()
        banned = above | {library for library, doors in DOORS.items() if here not in doors}
        assert not banned & set(top_level_imports(path)), here


def test_algorithms_know_torch_numpy_and_the_standard_library_only():
    import sys

    allowed = ALGORITHMS_MAY_IMPORT | set(sys.stdlib_module_names)
    for path in sources("algorithms"):
        assert set(top_level_imports(path)) <= allowed, path


def test_nothing_unpickles():
    """I8: whatever is read from disk or the network goes through formats that hold no code."""
    for package in MAY_IMPORT:
        for path in sources(package):
            assert not PICKLES & set(top_level_imports(path)), path
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and node.attr in ("load", "unsafe_load"):
                    name = node.value.id if isinstance(node.value, ast.Name) else ""
                    assert name not in ("torch", "yaml", "pickle", "cloudpickle"), path
                if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                    raise AssertionError(path)


def test_every_package_is_listed_for_installation():
    import tomllib

    listed = set(
        tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    )
    found = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".")
        for package in MAY_IMPORT
        for path in sources(package)
    }
    assert listed == found

"""Experiments by name: the YAML files that ship with the package, and a user's own by path."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from pipeline.errors import BadInputError

if TYPE_CHECKING:  # the configuration imports torch, which a listing can do without
    from pipeline.config import Experiment

FOLDER = Path(__file__).with_name("experiments")
YAML_SUFFIXES = (".yaml", ".yml")
LEFT_OUT = (
    "A key that a file leaves out takes its value from the experiment that the file extends",
    "(`extends: NAME`, or a YAML file beside it), else from leap-omniglot.",
)


def experiment_names() -> list[str]:
    """Return the names of the experiments that ship with the package, `quickstart` first."""
    names = [path.stem for path in FOLDER.glob("*.yaml")]
    return sorted(names, key=lambda name: (name != "quickstart", name))


def describe(name: str) -> str:
    """Return the one line that says what the experiment `name` is."""
    tree = yaml.safe_load((FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    return str(tree["description"])


def find_experiment(text: str) -> Path:
    """Return the YAML file that `text` names: an experiment's name, or a path.

    BadInputError, with the nearest name, if it is neither.
    """
    names = experiment_names()
    if text in names:
        return FOLDER / f"{text}.yaml"
    path = Path(text)
    if path.suffix in YAML_SUFFIXES or len(path.parts) > 1:
        return path
    near = get_close_matches(text, names, n=1)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    raise BadInputError(f"unknown experiment '{text}'; {hint} (or give a .yaml file)")


def load(text: str, overrides: list[str]) -> Experiment:
    """Return the experiment that `text` names, with `overrides`; BadInputError if it is none."""
    path = find_experiment(text)
    from pipeline.config import load_experiment

    return load_experiment(path, overrides, find_experiment)


def explained_yaml(experiment: Experiment) -> str:
    """Return the resolved experiment as YAML with each key's meaning in a comment above it."""
    from pipeline.config import field_rows

    lines = [f"# {line}" for line in LEFT_OUT]
    section = ""
    for key, value, meaning in field_rows(experiment):
        parent, _, name = key.rpartition(".")
        if parent != section:
            lines += ["", f"{parent}:"]
            section = parent
        indent = "  " if parent else ""
        lines += [f"{indent}# {meaning}", f"{indent}{name}: {_inline(value)}"]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    """Return `value` as YAML on one line."""
    value = list(value) if isinstance(value, tuple) else value
    text: str = yaml.safe_dump(
        value, default_flow_style=True, width=float("inf"), allow_unicode=True
    )
    return text.removesuffix("...\n").strip()

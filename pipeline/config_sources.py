"""Where the keys of an experiment come from: a file, the files it extends, the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config_errors import Key, Problem, shown
from pipeline.errors import BadInputError
from pipeline.redaction import redact
from pipeline.yaml_text import NotYamlError, parse_yaml

MAX_CONFIG_BYTES = 1 << 20
DEFAULT_ALGORITHM = "leap"
ALGORITHM = ("algorithm", "name")
NUM_STEPS, STEPS = ("meta", "num_steps"), ("meta", "steps")  # the second is short for the first
OWN_KEYS = ("name", "description")  # of a file, which one that extends it does not take
BOTH_STEPS = "meta.steps is short for meta.num_steps: give one of the two"

Tree = dict[str, Any]
FindBase = Callable[
    [str], Path
]  # from what `extends` says to a file; relative to the one saying it


@dataclass(frozen=True, slots=True)
class Source:
    """What one file or one override says."""

    name: str
    tree: Tree
    key: Key = ()  # of an override

    def at(self, key: Key) -> tuple[int, Any]:
        """Return how many parts of `key` it has, and the value there."""
        value: Any = self.tree
        for depth, part in enumerate(key):
            below = {str(k): v for k, v in value.items()} if isinstance(value, dict) else {}
            if part not in below:
                return depth, value
            value = below[part]
        return len(key), value


class Draft:
    """An experiment before it is checked: keys and values, each traceable to its source.

    At all times `tree` holds what the sources say together, the later ones over the earlier;
    it shares nothing with theirs and spells every key in full.
    """

    def __init__(self) -> None:
        self.tree: Tree = {}
        self._sources: list[Source] = []
        self.problems: list[tuple[int, str]] = []  # in how it is said: number of the source, text

    def add(self, name: str, tree: Tree, problems: Iterable[str] = ()) -> None:
        """Put what the file `name` says over what is there."""
        self._sources.append(Source(name, tree))
        for problem in problems:
            self._blame_last(problem)
        tree = _merged({}, tree)
        meta = tree.get("meta")
        if isinstance(meta, dict) and STEPS[-1] in meta:
            if NUM_STEPS[-1] in meta:
                self._blame_last(BOTH_STEPS)
            meta[NUM_STEPS[-1]] = meta.pop(STEPS[-1])
        algorithm = tree.get("algorithm")
        if isinstance(algorithm, dict) and "name" in algorithm:
            self._choose_algorithm(algorithm["name"])
        self.tree = _merged(self.tree, tree)

    def override(self, overrides: Iterable[str]) -> None:
        """Set keys by `dotted.key=value`, in order, but the algorithm's name before its options."""
        parsed = [said for said in map(self._parse, overrides) if said is not None]
        both_steps = {said.key for said in parsed} >= {STEPS, NUM_STEPS}
        described = self.tree.get("description")
        first: dict[Key, str] = {}
        for said in sorted(parsed, key=lambda one: one.key != ALGORITHM):
            self._sources.append(said)
            if said.key in first:
                self._blame_last(f"the key is there twice, first in {first[said.key]}")
            first.setdefault(said.key, said.name)
            value = said.at(said.key)[1]
            if said.key == STEPS and both_steps:
                self._blame_last(BOTH_STEPS)
            if said.key == ALGORITHM and self._choose_algorithm(value) and described:
                self.tree["description"] = f"{described}; here with {'.'.join(ALGORITHM)}={value}"
            self._set(NUM_STEPS if said.key == STEPS else said.key, value)

    def error(self, problems: Iterable[Problem] = ()) -> BadInputError:
        """Return the one line that tells its own and the given problems, each with its source."""
        told = self.problems + [self._traced(problem) for problem in problems]
        parts: list[str] = []
        last = None
        for number, text in sorted(told, key=lambda one: one[0]):
            name = "" if number == last else f"{self._sources[number].name}: "
            parts.append(name + text)
            last = number
        return BadInputError("; ".join(parts))

    def _blame_last(self, text: str) -> None:
        self.problems.append((len(self._sources) - 1, text))

    def _parse(self, override: str) -> Source | None:
        """Return what the override says; None, with a problem noted, if it says nothing."""
        name = f"override {redact(override):.100}"
        key, equals, text = override.partition("=")
        parts = tuple(key.split("."))
        if not equals or not all(parts):
            problem = "expected key=value, e.g. meta.steps=50"
        else:
            try:
                value, repeated = parse_yaml(text)
            except NotYamlError as error:
                problem = f"is no YAML value: {error}"
            else:
                if not repeated:
                    return Source(name, _nested(parts, value), parts)
                problem = f"a key is there twice: {repeated[0]}"
        self._sources.append(Source(name, {}))
        self._blame_last(problem)
        return None

    def _choose_algorithm(self, name: object) -> bool:
        """Forget the options of another algorithm; return whether it was another."""
        algorithm = self.tree.get("algorithm")
        section = algorithm if isinstance(algorithm, dict) else {}
        if section.get("name", DEFAULT_ALGORITHM) == name:
            return False
        section.pop("options", None)
        return True

    def _set(self, key: Key, value: Any) -> None:
        tree = self.tree
        *parents, last = key
        for parent in parents:
            below = tree.setdefault(parent, {})
            if not isinstance(below, dict):
                self._blame_last(f"'{parent}' holds no keys, but {shown(below)}")
                return
            tree = below
        tree[last] = _merged({}, value) if isinstance(value, dict) else value

    def _traced(self, problem: Problem) -> tuple[int, str]:
        """Return the number of the source to blame and what to say after its name."""
        best = (False, 0, 0, problem.key)  # wholly there, parts that are there, source, spelling
        for key in (problem.key, *problem.causes):
            for number, source in enumerate(self._sources):
                for spelled in (key, STEPS) if key == NUM_STEPS else (key,):
                    depth, _ = source.at(spelled)
                    best = max(best, (depth == len(spelled), depth, number, spelled))
        *_, number, spelled = best
        key = STEPS if spelled == STEPS else problem.key
        is_said = key == self._sources[number].key
        return number, problem.text if is_said else f"{'.'.join(key)}: {problem.text}"


def read_draft(path: Path, find_base: FindBase) -> Draft:
    """Return what the YAML file `path` says over the files that it extends.

    A name or description is never taken from an extended file. Raises BadInputError for a file
    that cannot be read, is no YAML or holds no keys, and for files that extend each other.
    """
    files: dict[Path, tuple[Tree, list[str]]] = {}
    following: Path | None = path
    while following is not None:
        if any(following.resolve() == file.resolve() for file in files):
            circle = " → ".join(str(file) for file in (*files, following))
            raise BadInputError(f"{path}: extends: files that extend each other: {circle}")
        here, (tree, repeated) = following, _read(following)
        following = _base_of(here, tree, find_base)
        if here != path:
            tree = {key: value for key, value in tree.items() if key not in OWN_KEYS}
        files[here] = tree, repeated
    draft = Draft()
    for file, (tree, repeated) in reversed(files.items()):
        draft.add(str(file), tree, repeated)
    return draft


def _base_of(path: Path, tree: Tree, find_base: FindBase) -> Path | None:
    """Take `extends` out of `tree` and return the file that it refers to."""
    if "extends" not in tree:
        return None
    said = tree.pop("extends")
    if not isinstance(said, str):
        raise BadInputError(
            f"{path}: extends: expected an experiment's name or a YAML file, got {shown(said)}"
        )
    tree.setdefault("description", f"{said}, with changes")
    try:
        base = path.parent / find_base(said)
    except BadInputError as error:
        raise BadInputError(f"{path}: extends: {error}") from None
    if not base.is_file():
        raise BadInputError(f"{path}: extends: there is no file {base}")
    return base


def _read(path: Path) -> tuple[Tree, list[str]]:
    """Return the keys and values of the YAML file `path`, and what is wrong with its keys."""
    try:
        if path.exists() and not path.is_file():
            raise BadInputError(f"{path}: is no file; expected an experiment's YAML file")
        size = path.stat().st_size
        if size > MAX_CONFIG_BYTES:
            raise BadInputError(
                f"{path}: {size} bytes; an experiment file has at most {MAX_CONFIG_BYTES}"
            )
        tree, repeated = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path}: is no text: byte {error.start} is not UTF-8") from None
    except NotYamlError as error:
        where = f"line {error.line}, column {error.column}: " if error.line else ""
        raise BadInputError(f"{path}: is no YAML file: {where}{error}") from None
    if not isinstance(tree, dict):
        raise BadInputError(f"{path}: expected keys and values, e.g. 'seed: 0'; got {_kind(tree)}")
    return tree, repeated


def _kind(value: object) -> str:
    return f"a list of {len(value)}" if isinstance(value, list) else shown(value)


def _nested(key: Key, value: Any) -> Tree:
    """Return the tree that holds `value` at `key` alone."""
    for part in reversed(key):
        value = {part: value}
    tree: Tree = value
    return tree


def _merged(base: Tree, over: Tree) -> Tree:
    """Return a copy of `base` with the values of `over`, mapping by mapping."""
    merged = dict(base)
    for key, value in over.items():
        if isinstance(value, dict):
            below = merged.get(key)
            value = _merged(below if isinstance(below, dict) else {}, value)
        merged[key] = value
    return merged

"""What is wrong with a configuration, in words of its own: none of pydantic's or Python's."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from pipeline.redaction import redact

Key = tuple[str, ...]  # ("meta", "num_steps") for meta.num_steps

TYPES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    dict: "names with true, false, a number or text",
    tuple: "a list of names in brackets",
}
BOUNDS = {
    annotated_types.Ge: "of at least {0.ge}",
    annotated_types.Gt: "above {0.gt}",
    annotated_types.Le: "at most {0.le}",
    annotated_types.Lt: "below {0.lt}",
    annotated_types.MinLen: "of at least {0.min_length} character",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, with the key to name and others that may have caused it."""

    key: Key
    text: str
    causes: tuple[Key, ...] = ()


class ConfigProblems(ValueError):
    """Raised by a check that knows the keys to blame."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(problem.text for problem in problems))
        self.problems = problems


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Return all that is wrong, one problem a key, in the order of the fields of `model`."""
    found: dict[Key, Problem] = {}
    for details in error.errors(include_url=False):
        for problem in _problems(details, model):
            found.setdefault(problem.key, problem)
    return list(found.values())


def known_names(name: str, known: Iterable[str]) -> str:
    """Return the hint after an unknown name: the nearest of `known`, and all of them."""
    known = sorted(known)
    near = get_close_matches(name, known, n=1)
    listed = f"known: {', '.join(known)}" if known else "there are none"
    return f"(did you mean '{near[0]}'? {listed})" if near else f"({listed})"


def shown(value: object) -> str:
    """Return `value` as a user would write it, without passwords, cut at 100 characters."""
    if value is None:
        return "nothing"
    if isinstance(value, str):
        text = f"'{value}'"
    else:
        try:
            text = json.dumps(value, default=str, ensure_ascii=False)
        except (TypeError, ValueError):  # a key of bytes, a number of over 4,300 digits
            text = "something that cannot be shown"
    text = redact(text)
    return text if len(text) <= 100 else f"{text[:100]}…"


def _problems(details: ErrorDetails, model: type[BaseModel]) -> Sequence[Problem]:
    cause = details.get("ctx", {}).get("error")
    if isinstance(cause, ConfigProblems):
        return cause.problems
    key = tuple(str(part) for part in details["loc"])
    if isinstance(cause, ValueError):
        return [Problem(key, str(cause))]
    depth, field = _field_at(key, model)
    section = field.annotation if field is not None else model
    if isinstance(section, type) and issubclass(section, BaseModel):
        if len(key) > depth:
            hint = known_names(key[depth], section.model_fields)
            return [Problem(key[: depth + 1], f"unknown key {hint}")]
        expected = f"keys and values ({', '.join(section.model_fields)})"
    else:
        expected = _expected(field)
    # Below the field stand the names of options, places in a list, and types that were tried.
    key = key[: depth + (get_origin(section) is dict)]
    return [Problem(key, f"expected {expected}, got {shown(details['input'])}")]


def _field_at(key: Key, model: type[BaseModel]) -> tuple[int, FieldInfo | None]:
    """Return how many parts of `key` name a field, and the last of these; None for none."""
    section: Any = model
    field = None
    for depth, part in enumerate(key):
        is_section = isinstance(section, type) and issubclass(section, BaseModel)
        if not is_section or part not in section.model_fields:
            return depth, field
        field = section.model_fields[part]
        section = field.annotation
    return len(key), field


def _expected(field: FieldInfo | None) -> str:
    """Return, in words, the values that `field` takes."""
    kind = field.annotation if field is not None else None
    if NoneType in get_args(kind):
        (kind,) = (one for one in get_args(kind) if one is not NoneType)
        return f"{TYPES[kind]} or null"
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"{', '.join(others)} or {last}"
    word = TYPES[get_origin(kind) or kind]  # type: ignore[index]  # every field has a type
    limits = field.metadata if field is not None else []
    if get_origin(kind) is tuple:  # of names, which are counted, not their characters
        least = [m.min_length for m in limits if isinstance(m, annotated_types.MinLen)]
        return f"{word}, {least[0]} at least" if least else word
    bounds = " and ".join(BOUNDS[type(m)].format(m) for m in limits if type(m) in BOUNDS)
    return f"{word} {bounds}".strip()

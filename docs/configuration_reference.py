"""The reference of all keys of an experiment, from the fields that check them."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.config import Experiment

WORDS = {int: "whole number", float: "number", str: "text", bool: "true or false"}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def configuration_text() -> str:
    """Return a table for each section, in the order of the experiment's fields."""
    sections = {name: f for name, f in Experiment.model_fields.items() if _section(f)}
    own = {name: f for name, f in Experiment.model_fields.items() if name not in sections}
    parts = ["## The experiment itself", "", *_table(own, "")]
    for name, field in sections.items():
        section = _section(field)
        meaning = (section.__doc__ or "").strip().splitlines()[0]
        parts += ["", f"## {name}", "", meaning, "", *_table(section.model_fields, f"{name}.")]
    return "\n".join(parts)


def _section(field: FieldInfo) -> Any:
    found = field.annotation
    return found if isinstance(found, type) and issubclass(found, BaseModel) else None


def _table(fields: dict[str, FieldInfo], prefix: str) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True)
        row = (
            f"`{prefix}{name}`",
            type_words(field),
            f"`{_shown(default)}`",
            field.description or "",
        )
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def type_words(field: FieldInfo) -> str:
    """Return the type of `field` and its bounds, in words."""
    bounds = [
        f"{sign} {_number(getattr(bound, name))}"
        for bound in field.metadata
        for name, sign in BOUNDS.items()
        if hasattr(bound, name)
    ]
    return ", ".join([_type_words(field.annotation), *bounds])


def _type_words(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return _either([f"`{value}`" for value in inner])
    if origin in (Union, types.UnionType):
        return _either([_type_words(one) for one in inner])
    if origin is tuple:
        return f"list of {_type_words(inner[0])}s"
    if origin is dict:
        return f"names, each with a value: {_type_words(inner[1])}"
    return "null" if annotation is type(None) else WORDS[annotation]


def _either(words: list[str]) -> str:
    *others, last = words
    return f"{', '.join(others)} or {last}" if others else last


def _number(value: float) -> str:
    return "2⁶³" if value == 2**63 else f"{value:,}"


def _shown(value: Any) -> str:
    """Return `value` as it is written in YAML."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(str, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return "{}" if not value else str(value)
    return '""' if value == "" else str(value)

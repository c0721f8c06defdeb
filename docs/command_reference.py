"""The reference of all commands, from what `outerloop --help` is made of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from jobs.cli import app


def commands_text() -> str:
    """Return a section for each command: what it does, how it is called, its options."""
    whole = get_command(app)
    parts = ["## outerloop", "", *_options(whole.params)]
    for name, command in _commands(whole, "outerloop"):
        parts += ["", f"## {name}", "", _sentence(command.help), ""]
        parts += ["```text", " ".join([name, *_words(command.params)]), "```", ""]
        parts += _options(command.params)
    return "\n".join(parts)


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Yield what can be called, by its full name; groups are none, their commands are."""
    for name, command in group.commands.items():
        full_name = f"{prefix} {name}"
        if hasattr(command, "commands"):
            yield from _commands(command, full_name)
        else:
            yield full_name, command


def _words(params: list[Any]) -> Iterator[str]:
    """Yield the words of a call: arguments in their order, what may be left out in brackets."""
    for param in params:
        if _is_argument(param):
            word = param.metavar.strip("[]")
            word = word if param.nargs == 1 or word.endswith("...") else f"{word}..."
            yield word if param.required else f"[{word}]"
    if any(not _is_argument(param) for param in params):
        yield "[options]"


def _options(params: list[Any]) -> Iterator[str]:
    if not params:
        return
    yield "| | meaning | default |"
    yield "|---|---|---|"
    for param in params:
        yield f"| `{_name(param)}` | {_sentence(param.help)} | {_default(param)} |"


def _name(param: Any) -> str:
    if _is_argument(param):
        return str(param.metavar.strip("[]"))
    value = "" if param.is_flag else f" {param.metavar or param.name.upper()}"
    return ", ".join(param.opts) + value


def _default(param: Any) -> str:
    shown = param.default not in (None, "", False)
    return f"`{param.default}`" if shown else ""


def _is_argument(param: Any) -> bool:
    return not param.opts[0].startswith("-")


def _sentence(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")

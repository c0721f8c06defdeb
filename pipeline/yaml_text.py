"""YAML as people write it: a key that is there twice is found, and errors are in plain words."""

from __future__ import annotations

from collections.abc import Hashable
from itertools import chain
from typing import Any

import yaml

MAX_VALUES = 10_000
MAP_TAG = "tag:yaml.org,2002:map"
INT_TAG = "tag:yaml.org,2002:int"
TIMESTAMP_TAG = "tag:yaml.org,2002:timestamp"

# What PyYAML says (the beginning of it), and what that means to the one who wrote the text.
PLAIN_WORDS = {
    "mapping values are not allowed": "a ':' that cannot stand here: quote the value, or mend it",
    "found character '\\t'": "a tab: indent with spaces",
    "found character": "a value cannot begin with this character: quote it",
    "expected <block end>": "this does not fit what is above it: check indentation and brackets",
    "could not find expected ':'": "a key without ':'",
    "expected ',' or": "a bracket is not closed, or a comma is missing",
    "expected the node content": "a value is missing",
    "found unexpected end of stream": "a quote is not closed",
    "found undefined alias": "'*' refers to an anchor that is not there: quote the value",
    "could not determine a constructor": "a tag ('!…'): only plain values are read",
    "found unconstructable recursive": "an anchor that holds itself",
    "found unhashable key": "a key that is a list or a mapping: expected text",
    "but found another document": "a second document ('---'): expected one",
}


class NotYamlError(ValueError):
    """Says why a text is no YAML; `line` and `column` count from one, 0 where they are unknown."""

    def __init__(self, reason: str, line: int = 0, column: int = 0) -> None:
        super().__init__(reason)
        self.line = line
        self.column = column


def parse_yaml(text: str) -> tuple[Any, list[str]]:
    """Return what `text` holds and, in words, each key that is there twice.

    Only plain values are built, a date stays text, and 010 is ten. NotYamlError if the text is no
    YAML.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if _num_values(node, {}) > MAX_VALUES:
                raise NotYamlError(f"more than {MAX_VALUES} values, those of anchors counted too")
            return node and loader.construct_document(node), loader.repeated
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        raise _not_yaml(error) from None
    except yaml.reader.ReaderError:
        raise NotYamlError("a control character, which no text has") from None
    except RecursionError:
        raise NotYamlError("nested too deep") from None
    except NotYamlError:
        raise
    except ValueError:
        raise NotYamlError("a number that is too long, or a value that its tag forbids") from None


def _num_values(node: yaml.Node | None, counted: dict[int, int]) -> int:
    """Return how many values `node` stands for, each as often as an anchor repeats it.

    A few lines of anchors that repeat one another can stand for more than any memory holds.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = 0  # a node that holds itself is refused where it is built
        is_mapping = isinstance(node, yaml.MappingNode)
        below = chain.from_iterable(node.value) if is_mapping else node.value
        counted[id(node)] = 1 + sum(_num_values(one, counted) for one in below)
    return counted[id(node)]


class _Loader(yaml.SafeLoader):
    """SafeLoader without dates, and with a list of the keys that it would let pass in silence."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # as PyYAML declares it
        first: [(tag, pattern) for tag, pattern in resolvers if tag != TIMESTAMP_TAG]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[str] = []

    def plain_mapping(self, node: yaml.MappingNode) -> dict[Hashable, Any]:
        """Build the mapping at once, so that one that holds itself is refused."""
        first_lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in first_lines:
                first = first_lines[name]
                self.repeated.append(f"line {line}: '{name}' is there twice, first on line {first}")
            else:
                first_lines[name] = line
        return self.construct_mapping(node, deep=True)

    def plain_integer(self, node: yaml.ScalarNode) -> int:
        """Build the number: 010 is ten, and not eight, as it is to YAML 1.1 alone."""
        digits = str(node.value).replace("_", "")
        return int(digits) if digits.lstrip("+-").isdigit() else int(self.construct_yaml_int(node))


_Loader.add_constructor(INT_TAG, _Loader.plain_integer)
_Loader.add_constructor(MAP_TAG, _Loader.plain_mapping)


def _not_yaml(error: yaml.MarkedYAMLError) -> NotYamlError:
    problem = error.problem or ""
    # An open bracket or quote is noticed at the end of the text, and mended where it begins.
    is_open = "stream end" in problem or "end of stream" in problem
    mark = (error.context_mark if is_open else None) or error.problem_mark
    reason = next((words for said, words in PLAIN_WORDS.items() if said in problem), problem)
    if mark is None:
        return NotYamlError(reason)
    return NotYamlError(reason, mark.line + 1, mark.column + 1)

"""YAML as data: mappings, lists, texts, whole numbers, booleans; with the line of every mapping.

Rules:

- Whatever YAML could mean beside JSON's values is refused: tags, dates, fractions, null, keys that are no text, a key
  twice in a mapping. So `no` is a boolean and must be quoted to be a text, and the error says where.
- Whole numbers are written as in JSON: `010` would be eight to some readers and ten to others.
- Anchors and aliases may be used; all that they expand to counts against `MAX_NODES`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, TypeAlias

import yaml

from akpolicy.errors import UsageError

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_NODES: Final = 200_000
MAX_DEPTH: Final = 64

# Far more digits than Cedar's numbers have: what is too large there is to be refused there.
_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,99})")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_TEXT: Final = "tag:yaml.org,2002:str"
_NUMBER: Final = "tag:yaml.org,2002:int"
_FLAG: Final = "tag:yaml.org,2002:bool"
_COLLECTIONS: Final = frozenset({"tag:yaml.org,2002:map", "tag:yaml.org,2002:seq"})


class Lined(dict[str, "Value"]):
    """A mapping that knows on which line of its file it begins, counting from 1."""

    line: int = 0


Value: TypeAlias = "Lined | list[Value] | str | int | bool"


@dataclass(slots=True)
class _Reader:
    name: str
    left: int = MAX_NODES

    def value(self, node: yaml.Node, depth: int = 0) -> Value:
        self.left -= 1
        if self.left < 0:
            raise self.wrong(node, f"the file has more than {MAX_NODES} values, aliases counted as what they stand for")
        if depth > MAX_DEPTH:
            raise self.wrong(node, f"values are nested more than {MAX_DEPTH} deep")
        if isinstance(node, yaml.CollectionNode) and node.tag not in _COLLECTIONS:
            raise self.wrong(node, f"the tag `{node.tag}` has no place here")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(element, depth + 1) for element in node.value]
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, depth: int) -> Lined:
        found = Lined()
        found.line = node.start_mark.line + 1
        for key_node, value_node in node.value:
            key = self.value(key_node, depth + 1)
            if not isinstance(key, str):
                raise self.wrong(key_node, "a key must be a text; put it in quotes")
            if key in found:
                raise self.wrong(key_node, f"the key `{key}` is there twice")
            found[key] = self.value(value_node, depth + 1)
        return found

    def scalar(self, node: yaml.Node) -> str | int | bool:
        text = str(node.value)
        if node.tag == _TEXT and not _SURROGATE.search(text):
            return text
        if node.tag == _FLAG:
            return text.lower() in {"true", "yes", "on"}
        if node.tag == _NUMBER and _INTEGER.fullmatch(text):
            return int(text)
        shown = text[:80].encode("utf-8", "replace").decode("utf-8")
        raise self.wrong(node, f"`{shown}` is no text, whole number or boolean; put a text in quotes")

    def wrong(self, node: yaml.Node, message: str) -> UsageError:
        return UsageError(f"{self.name}:{node.start_mark.line + 1}: {message}")


def load(data: bytes, name: str) -> Value:
    """Return the one document in `data`; raise `UsageError` with file and line."""
    if len(data) > MAX_BYTES:
        raise UsageError(f"`{name}` has more than {MAX_BYTES} bytes")
    try:
        node = yaml.compose(data.decode("utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        raise UsageError(f"`{name}` is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark is not None else name
        raise UsageError(f"{where}: is not YAML: {getattr(error, 'problem', None) or error}") from error
    except (ValueError, OverflowError) as error:  # an escape beyond what Unicode has
        raise UsageError(f"{name}: is not YAML: an escape `\\U` stands for no character: {error}") from error
    if node is None:
        raise UsageError(f"`{name}` is empty")
    return _Reader(name).value(node)

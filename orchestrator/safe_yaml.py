"""YAML as settings need it: plain values of a bounded size, so that no file can run code or fill the memory."""

from __future__ import annotations

import re
from typing import Any

import yaml

LONGEST, MOST, DEEPEST, LARGEST = 100_000, 20_000, 40, 2**63
"""Characters of a text, values in it with aliases written out, levels of nesting, and the end of whole numbers."""

_DEEP = f"nested more than {DEEPEST} deep; no setting is"
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null", "seq", "map", "merge")}


class BadYAML(ValueError):
    """Text that is no YAML, or not of the kind that settings need; the message says which, in one line."""


class _Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-4 as the number it looks like and refuses a key that stands twice, or depth."""

    _level = 0

    def fetch_flow_collection_start(self, kind: Any) -> None:
        # The scanner looks ahead, and its time grows with the square of the brackets that are open.
        if self.flow_level > DEEPEST:
            raise BadYAML(_DEEP)
        super().fetch_flow_collection_start(kind)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self._level += 1
        if self._level > DEEPEST:
            raise BadYAML(_DEEP)
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a list or mapping cannot be a key", key.start_mark)
            if key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key.value!r} stands twice; drop one", key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


# YAML 1.1 wants a dot and a sign in an exponent; without this, `lr: 1e-4` is a string.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def parse_yaml(text: str) -> Any:
    """The value of a YAML text: mappings, lists, strings, numbers, booleans and null, and nothing else.

    Raises:
        BadYAML: It is no YAML, has a tag, a date, a loop or a key twice, or is far larger than any sweep file.
    """
    if len(text) > LONGEST:
        raise BadYAML(f"{len(text)} characters are more than the {LONGEST} that settings may have; shorten it")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            values, levels = _extent(node, {})
            if values > MOST:
                raise BadYAML("too many values, once its aliases are written out; write what is meant without aliases")
            if levels > DEEPEST:
                raise BadYAML(_DEEP)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except BadYAML:
        raise
    except yaml.YAMLError as error:
        raise BadYAML(" ".join(str(error).split())) from None
    except (KeyError, ValueError) as error:  # of the library: `!!bool x`, `!!float x`
        raise BadYAML(f"a value is not of the type that its tag says: {error}") from None


def _extent(node: yaml.Node, known: dict[int, tuple[int, int] | None]) -> tuple[int, int]:
    """How many values a node has with its aliases written out, and its levels: before any of them is made."""
    if id(node) in known:
        extent = known[id(node)]
        if extent is None:
            raise BadYAML(f"{_place(node)}: an alias within what it stands for; write it out")
        return extent
    known[id(node)] = None
    if node.tag not in _PLAIN:
        what = node.tag.removeprefix("tag:yaml.org,2002:")
        raise BadYAML(f"{_place(node)}: a value of type {what!r}; settings are plain: quote it if it is meant as text")
    if isinstance(node, yaml.ScalarNode):
        _check_number(node)
        children = []
    else:
        pairs = isinstance(node, yaml.MappingNode)
        children = [each for pair in node.value for each in pair] if pairs else list(node.value)
    extents = [_extent(child, known) for child in children]
    own = 1 + sum(values for values, _ in extents), 1 + max((levels for _, levels in extents), default=0)
    known[id(node)] = own
    return own


def _check_number(node: yaml.ScalarNode) -> None:
    """Refuses what has the shape of a whole number and is none that anything can count to."""
    if node.tag != "tag:yaml.org,2002:int":
        return
    sound = len(node.value) < 100  # no notation of such a number has more signs, and to read them takes long
    try:
        sound = sound and abs(yaml.SafeLoader("").construct_yaml_int(node)) < LARGEST
    except ValueError:  # `0b`
        sound = False
    if not sound:
        short = node.value if len(node.value) < 40 else f"{node.value[:30]}.."
        raise BadYAML(f"{_place(node)}: {short} is no whole number below 2^63; correct it, or quote it as text")


def _place(node: yaml.Node) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"

"""Sweep files as they should not be: a mutation of a shipped one for each number, the same on every machine."""

from __future__ import annotations

import copy
import json
import math
import random
from collections.abc import Callable, Iterator
from typing import Any

from orchestrator.problems import shipped
from orchestrator.safe_yaml import parse_yaml

FILES = {name: file.read_bytes() for name, file in shipped().items()}
LONG = "x" * 60_000


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = {"a": [value]}
    return value


VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 0.5, -0.0, 10**18, -(10**18), 2**63, 10**400, 1e308, -1e308, 5e-324),
    *(math.nan, math.inf, -math.inf, "", " ", "x", LONG, "日本\u202e", "\x1b[31mred\x07", "a\nb", "\u0085", "é"),
    *("../../etc", "/", "/etc/passwd", "..", ".", "~root", "~", "a/b", "C:\\", "/dev/zero", "$HOME", "%s%n", "{0}"),
    *("http://[", "sqlite://", "file:///etc", "postgresql://u:p@", "http://127.0.0.1:99999", "://", ">= 0 * target"),
    *([], {}, [[]], [{}], {"": ""}, [None], list(range(2000)), {str(n): n for n in range(2000)}, ["a"] * 2000),
    *(_nested(12), _nested(30), {"type": "satimp"}, {"type": None}, {"type": [1]}, {"preset": "wga"}, {"preset": {}}),
    *({"float": [0, 1]}, {"float": [1e308, -1e308]}, {"float": [-1e308, 1e308]}, {"float": ["a", "b"]}, {"float": 3}),
    *({"int": [0, 10**18]}, {"int": [1, 10**9], "log": True}, {"int": [0.5, 2]}, {"float": [0, 1], "log": True}),
    *(
        {"choice": []},
        {"choice": [[1], [1]]},
        {"choice": [{}, 2]},
        {"choice": list(range(3000))},
        {"choice": [1, True]},
    ),
    *({"one_of": {}}, {"one_of": []}, {"one_of": {"satimp": None}}, {"one_of": {"satimp": {"beta1": {"one_of": 1}}}}),
    *([{"when": {}}], [{"float": [0, 1], "when": {"a": 1}}], {"float": [0, 1], "when": {"x": [[]]}}, {"when": 3}),
    *({1: 2}, {True: 1}, {None: 1}, {1.5: {}}, {"a.b.c": 1}, {"__class__": 1}, {"model_config": {}}),
]
TEXTS: list[str] = [
    *(
        "\0",
        "\x07",
        "\x1b[2J",
        "\ufeff",
        "\t",
        "\r",
        "\u2028",
        "\x85",
        ": ",
        "- ",
        "? ",
        "&a ",
        "*a",
        "*b ",
        "!!x ",
        "|",
    ),
    *(
        "{",
        "}",
        "[",
        "]",
        "[" * 5000,
        "{a: " * 2000,
        "- " * 3000,
        "%YAML 9.9\n",
        "---\n",
        "...\n",
        "<<: *a\n",
        "'",
        '"',
    ),
    *("9" * 6000, "0x" + "f" * 9000, "1e999", ".inf", ".NaN", "190:20:30", "0b", "0o9", "2020-99-99", "=", "~", "NO"),
    *("!!python/object/apply:os.system ['touch pwned']", "!!python/name:os.system ", "!!binary x", "!!set {a, b}"),
    *("!!timestamp x", "!!int x", "!!float x", "!!bool x", "!!map 1", "!!seq {}", "!<tag:x> 1", '"\\ud800"', '"\\0"'),
]
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)
MERGES = "m0: &m0 {x: 1}\n" + "".join(f"m{n}: &m{n} {{<<: [{', '.join([f'*m{n - 1}'] * 9)}]}}\n" for n in range(1, 9))


def mutated(number: int) -> tuple[bytes, list[str]]:
    """A file and values of `--set`, by number."""
    chance = random.Random(number)
    data = FILES[chance.choice(sorted(FILES))]
    settings: list[str] = []
    for _ in range(chance.choice([1, 1, 2, 4])):
        how = chance.choice([_changed_tree] * 6 + [_changed_text] * 3 + [_replaced, _torn])
        data = how(data, chance)
    if chance.random() < 0.3:
        settings = [_setting(chance) for _ in range(chance.choice([1, 2]))]
    return data, settings


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from _places(value, (*path, key))


def _changed_tree(data: bytes, chance: random.Random) -> bytes:
    """One value replaced, dropped, moved, wrapped, or under another key."""
    try:
        tree = parse_yaml(data.decode())
        places = list(_places(tree))
    except ValueError:
        return data
    if not places:
        return data
    *above, key = chance.choice(places)
    node = tree
    for step in above:
        node = node[step]
    value = chance.choice(VALUES)
    changes: list[Callable[[], Any]] = [
        lambda: node.__setitem__(key, copy.deepcopy(value)),
        lambda: node.__setitem__(key, copy.deepcopy(value)),
        lambda: node.__setitem__(key, [node[key], node[key]]),
        lambda: node.__setitem__(key, {"type": node[key]}),
        lambda: node.__setitem__(key, str(node[key])),
        lambda: node.pop(key),
        lambda: (
            node.__setitem__(chance.choice(["name", "trial", "x", LONG, "\x1b", "a.b", 1]), node.pop(key))
            if isinstance(node, dict)
            else node.clear()
        ),
        lambda: tree.__setitem__(chance.choice(["name", "trial", "budget", "phases", "confirm"]), value),
    ]
    chance.choice(changes)()
    return _written(tree)


def _written(tree: Any) -> bytes:
    try:
        return json.dumps(tree, ensure_ascii=False).replace("NaN", ".nan").replace("Infinity", ".inf").encode()
    except (TypeError, ValueError, RecursionError):
        return repr(tree).encode(errors="replace")


def _changed_text(data: bytes, chance: random.Random) -> bytes:
    """Something put where it does not belong: often in the place of a value."""
    text = data.decode(errors="replace")
    places = [index + 2 for index in range(len(text) - 1) if text[index : index + 2] == ": "]
    place = chance.choice(places) if places and chance.random() < 0.6 else chance.randrange(len(text) + 1)
    return (text[:place] + chance.choice(TEXTS) + text[place:]).encode(errors="replace")


def _replaced(data: bytes, chance: random.Random) -> bytes:
    """Another kind of file altogether, or the same in another encoding."""
    text = data.decode(errors="replace")
    line = chance.choice(text.splitlines() or [""])
    others = [
        *(b"", b"\n", b"\0" * 500, b"[]", b"3", b"null", b"PK\x03\x04", chance.randbytes(300), b"a" * 500_000),
        *(
            BOMB.encode() + data,
            MERGES.encode() + data,
            (BOMB + "name: *a11\n").encode(),
            b"&a [*a]",
            b"name: &n {x: *n}",
        ),
        *(text.encode("utf-16"), text.encode("utf-32"), text.encode("cp1252", "replace"), b"\xff" + data, data + data),
        *(text.replace("\n", "\r").encode(), (text + line + "\n").encode(), b"- " + data, data + b"\n---\n" + data),
    ]
    return chance.choice(others)


def _torn(data: bytes, chance: random.Random) -> bytes:
    """Cut off, or with a few bytes changed."""
    if chance.random() < 0.5:
        return data[: chance.randrange(len(data) + 1)]
    torn = bytearray(data)
    for _ in range(chance.choice([1, 3, 20]) if torn else 0):
        torn[chance.randrange(len(torn))] = chance.randrange(256)
    return bytes(torn)


def _setting(chance: random.Random) -> str:
    known = ["name", "trial.epochs", "trial.loss", "space", "space.optim.lr", "budget.trials", "phases.0.sampler.type"]
    paths = [
        *known,
        "",
        ".",
        "..",
        "a" * 3000,
        "a." * 9000 + "b",
        "phases.999999999999999999999",
        "phases." + "9" * 6000,
    ]
    value = chance.choice([*TEXTS, *(json.dumps(each) for each in VALUES[:40] if each != LONG), BOMB, LONG * 5])
    # No argument of a process has a NUL in it.
    return (chance.choice([*paths, "trial.benchmark.path"]) + chance.choice(["=", "=", "=", ""]) + value).replace(
        "\0", ""
    )

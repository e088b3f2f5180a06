"""A shell script read, never run: the `name=value` overrides that each of its training commands would get.

Of the language it knows what scripts of sweeps are made of: assignments, literal arrays, `for` loops over words, arrays
and their indices, `$name`, `${name[i]}`, `${name:-default}`, `$(echo $x | cut -d' ' -f1)`, `$(seq ..)`, `read .. <<<`.
Both branches of an `if` are read. What else computes a value is `UNKNOWN`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

UNKNOWN = "\0"
"""In the place of a value that only a shell could tell."""

MOST = 4096
"""Commands that a script may come to, and the longest loop; a loop's turns and a word's length are bounded too."""

_OVERRIDE = re.compile(r"^(?:\+{1,2}|~)?([A-Za-z_][\w./@-]*)=(.*)$", re.DOTALL)
_ASSIGNMENT = re.compile(r"^([A-Za-z_]\w*)=(.*)$", re.DOTALL)
_ARRAY = re.compile(r"^([A-Za-z_]\w*)=\s?\((.*)\)$", re.DOTALL)
_SECRET, _END = "\ue000", "\ue001"
_EXPANSION = re.compile(
    r"'(?P<literal>[^']*)'|\\(?P<escaped>.)|\$\{(?P<array>\w+)\[(?P<index>[^\]]+)\]\}|"
    r"\$\{(?P<name>\w+)(?::-(?P<default>[^}]*))?\}|\$(?P<bare>\w+)|(?P<other>\$\{[^}]*\})|"
    rf"{_SECRET}(?P<command>\d+){_END}|(?P<quote>\")",
    re.DOTALL,
)
_QUIET = {"echo", "printf", "mkdir", "cd", "test", "[", "[[", "source", ".", "rm", "cp", "trap", "tee", "set"}
_PREFIXES = {"do", "then", "else", "{", "(", "export", "declare", "local", "readonly", "-a", "time"}
_SKIPPED = {"if", "elif", "fi", "case", "esac", "}", ")", ";;"}


class TooMany(Exception):
    """The loops of a script come to more than `MOST` commands."""


@dataclass
class _Loop:
    name: str
    words: str
    body: list[_Loop | str] = field(default_factory=list)


def commands(text: str) -> list[dict[str, str]]:
    """Name -> value of the overrides of each command, loops unrolled, in the order in which they would run.

    Args:
        text: A script, or a text with overrides only, a command a line. Commands without any, `echo`, and those of
            `eval.py` are left out.

    Raises:
        TooMany: See there.
    """
    hidden: list[str] = []
    statements = list(_statements(_prepared(text, hidden)))
    script = any(not _OVERRIDE.match(word) for line in statements for word in _split(line) if word[0] != "-")
    reader = _Reader(hidden, script)
    reader.run(_tree(statements))
    return reader.found


# -- from text to statements -------------------------------------------------------------------------------------------


def _prepared(text: str, hidden: list[str]) -> str:
    """Without comments, with each command on one line and each `$(...)` replaced by its number in `hidden`."""
    text = "\n".join(_without_comment(line) for line in text.splitlines())
    text = re.sub(r"\\[ \t]*(?:\n|$)", " ", text)
    out, at = [], 0
    while at < len(text):
        if text.startswith("$(", at):
            end = _closing(text, at + 1)
            hidden.append(text[at + 2 : end])
            out.append(f"{_SECRET}{len(hidden) - 1}{_END}")
            at = end + 1
        else:
            out.append(text[at])
            at += 1
    return re.sub(r"\b\w+=[ \t]?\([^()]*\)", lambda found: found[0].replace("\n", " "), "".join(out))


def _without_comment(line: str) -> str:
    quote = ""
    for at, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at]
    return line


def _closing(text: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for at in range(start, len(text)):
        depth += {"(": 1, ")": -1}.get(text[at], 0)
        if depth == 0:
            return at
    return len(text)


def _statements(text: str) -> Iterator[str]:
    """Cut at newlines, `;`, `&`, `|` and their like, but not in quotes or brackets."""
    quote, depth, current = "", 0, ""
    for at, char in enumerate(text + "\n"):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        else:
            depth += {"(": 1, ")": -1}.get(char, 0)
        redirects = char == "&" and (text[at - 1 : at] == ">" or text[at + 1 : at + 2] == ">")
        if not quote and depth <= 0 and char in "\n;&|" and not redirects:
            depth = 0
            if current.strip():
                yield current.strip()
            current = ""
        else:
            current += char
    if current.strip():
        yield current.strip()


def _split(line: str) -> list[str]:
    """Words as they are written, quotes included."""
    return re.findall(r"(?:'[^']*'|\"[^\"]*\"|\\.|[^\s'\"\\])+", line)


def _tree(statements: list[str]) -> list[_Loop | str]:
    top: list[_Loop | str] = []
    open_loops = [top]
    for statement in statements:
        words = _split(statement)
        while words and words[0] in _PREFIXES:
            words = words[1:]
        line = " ".join(words)
        loop = re.match(r"for (\w+) in (.*)", line, re.DOTALL)
        if loop or (words and words[0] in ("for", "while", "until", "select")):
            node = _Loop(loop[1], loop[2]) if loop else _Loop("_", UNKNOWN)
            open_loops[-1].append(node)
            open_loops.append(node.body)
        elif words and words[0] == "done":
            open_loops = open_loops[: max(1, len(open_loops) - 1)]
        elif words and words[0] not in _SKIPPED:
            open_loops[-1].append(line)
    return top


# -- from statements to overrides --------------------------------------------------------------------------------------


class _Reader:
    def __init__(self, hidden: list[str], script: bool) -> None:
        self.hidden, self.script = hidden, script
        self.values: dict[str, str | list[str]] = {}
        self.found: list[dict[str, str]] = []
        self.turns = 0

    def run(self, body: list[_Loop | str]) -> None:
        for node in body:
            if isinstance(node, str):
                self._statement(node)
                continue
            for word in self._words(node.words):
                self.turns += 1
                if self.turns > 16 * MOST:
                    raise TooMany
                self.values[node.name] = word
                self.run(node.body)

    def _statement(self, line: str) -> None:
        if array := _ARRAY.match(line):
            self.values[array[1]] = [word.removesuffix(",") for word in self._words(array[2])]
            return
        words = _split(line)
        if here := re.match(r"(?:IFS=(\S+) )?read (?:-\w+ )*([\w ]+?) ?<<< ?(.*)", line, re.DOTALL):
            self._read(self._expand(here[1] or ""), here[2].split(), self._expand(here[3]))
            return
        assigned = [_ASSIGNMENT.match(word) for word in words]
        if self.script and all(assigned):
            for match in assigned:
                if match:
                    self.values[match[1]] = self._expand(match[2])
            return
        while self.script and words and _ASSIGNMENT.match(words[0]):
            words = words[1:]  # the command's environment
        if not words or words[0] in _QUIET:
            return
        self._command([part for word in words for part in self._parts(word)])

    def _read(self, separator: str, names: list[str], text: str) -> None:
        parts = text.split(separator or None)
        for index, name in enumerate(names):
            last = index == len(names) - 1
            rest = (separator or " ").join(parts[index:]) if last else "".join(parts[index : index + 1])
            self.values[name] = UNKNOWN if UNKNOWN in text else rest

    def _command(self, words: list[str]) -> None:
        overrides = {match[1]: match[2] for word in words if (match := _OVERRIDE.match(word))}
        evaluates = overrides.get("experiment", "").startswith("eval/")
        if not overrides or evaluates or any(word.endswith("eval.py") for word in words):
            return
        if len(self.found) == MOST:
            raise TooMany
        self.found.append(overrides)

    def _parts(self, word: str) -> list[str]:
        """A word expanded; a variable without quotes around it falls into words of its own."""
        if re.fullmatch(r"\$\w+|\$\{\w+(\[[@*]\])?\}|\"\$\{\w+\[@\]\}\"", word):
            return self._words(word)
        return [self._expand(word)]

    def _words(self, text: str) -> list[str]:
        found: list[str] = []
        for word in _split(text):
            plain = word.strip('"')
            every = re.fullmatch(r"\$\{(!?)(\w+)\[[@*]\]\}", plain)
            span = re.fullmatch(r"\{(\d+)\.\.(\d+)\}", plain)
            if every:
                items = self.values.get(every[2], [UNKNOWN])
                items = items if isinstance(items, list) else [items]
                known = items != [UNKNOWN]
                found += list(map(str, range(len(items)))) if every[1] and known else items
            elif span:
                found += _counted(span[1], span[2])
            else:
                value = self._expand(word)
                found += value.split() if plain == word and "'" not in word else [value]
        return found

    def _expand(self, word: str) -> str:
        """A word as a shell would see it, `UNKNOWN` where only a shell could."""
        out, at = "", 0
        for match in _EXPANSION.finditer(word):
            part = self._value_of(match)
            if UNKNOWN in part or len(out) + len(part) > 16 * MOST:
                equals = _OVERRIDE.match(word.strip("'\""))  # the name of an override is known all the same
                return f"{equals[1]}={UNKNOWN}" if equals else UNKNOWN
            out += word[at : match.start()] + part
            at = match.end()
        return out + word[at:]

    def _value_of(self, match: re.Match[str]) -> str:
        parts = match.groupdict()
        if parts["literal"] is not None:
            return str(parts["literal"])
        if parts["escaped"] is not None:
            return str(parts["escaped"])
        if parts["quote"]:
            return ""
        if parts["command"]:
            return self._output_of(self.hidden[int(parts["command"])])
        if parts["array"]:
            items, index = self.values.get(parts["array"]), self._expand(f"${parts['index'].lstrip('$')}")
            index = index if index != UNKNOWN else parts["index"]
            known = isinstance(items, list) and index.isdecimal() and int(index) < len(items)
            return items[int(index)] if known and isinstance(items, list) else UNKNOWN
        value = self.values.get(parts["name"] or parts["bare"] or "", UNKNOWN)
        value = value[0] if isinstance(value, list) and value else value
        if value == UNKNOWN and parts["default"] is not None:
            return self._expand(parts["default"])
        return value if isinstance(value, str) else UNKNOWN

    def _output_of(self, command: str) -> str:
        """What a few harmless commands would print."""
        if cut := re.fullmatch(r"\s*echo (\S+) \| cut -d ?(?:'(.)'|\"(.)\"|(\S)) -f ?(\d+)\s*", command):
            text = self._expand(cut[1])
            parts = text.split(cut[2] or cut[3] or cut[4])
            return parts[int(cut[5]) - 1] if UNKNOWN not in text and int(cut[5]) <= len(parts) else UNKNOWN
        if column := re.fullmatch(r"\s*echo (\S+) \| awk '\{ ?print \$(\d+) ?\}'\s*", command):
            parts = self._expand(column[1]).split()
            return parts[int(column[2]) - 1] if 0 < int(column[2]) <= len(parts) else UNKNOWN
        if counted := re.fullmatch(r"\s*seq (\d+) (\d+)\s*", command):
            return " ".join(_counted(counted[1], counted[2]))
        return UNKNOWN


def _counted(first: str, last: str) -> list[str]:
    if int(last) - int(first) > MOST:
        raise TooMany
    return [str(number) for number in range(int(first), int(last) + 1)]

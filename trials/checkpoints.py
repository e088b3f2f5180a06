"""Whether a checkpoint is as it was written: the sizes and checksums of its files, kept beside them."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

SUMS = "checksums.json"
_BLOCK = 1 << 22


def seal(folder: Path) -> None:
    """Writes the checksums of all files of a checkpoint; about a second a GB, out of the memory of the file system."""
    sums = {name: _sum(folder / name) for name in _names(folder)}
    (folder / SUMS).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def damage_of(folder: Path) -> str:
    """What is wrong with a checkpoint, as in `model.safetensors is cut short`; "" where it is as it was written."""
    try:
        sums = json.loads((folder / SUMS).read_bytes())
        wanted = {str(name): (int(size), int(check)) for name, (size, check) in sums.items()}
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return f"{SUMS} is missing or cannot be read"
    for name, (size, check) in wanted.items():
        file = folder / name
        if not file.is_file():
            return f"{name} is missing"
        if file.stat().st_size != size:
            return f"{name} has {file.stat().st_size} bytes of {size}"
        if _sum(file)[1] != check:
            return f"{name} is not what was written"
    return ""


def _names(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if name != SUMS)


def _sum(file: Path) -> tuple[int, int]:
    """Bytes of a file, and their CRC-32: against accidents, not against somebody."""
    size = check = 0
    with open(file, "rb") as stream:
        while block := stream.read(_BLOCK):
            size, check = size + len(block), zlib.crc32(block, check)
    return size, check

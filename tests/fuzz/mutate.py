"""Damage to bytes, text and JSON that several kinds of cases share. All of it is drawn from a generator."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

FORMULAS = ('=HYPERLINK("http://127.0.0.1:9/","x")', "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1:A9)")
NASTY_TEXTS = (
    "",
    " ",
    "-",
    "..",
    "/",
    "../../../../canary/secret",
    "/etc/passwd",
    "C:\\Windows\\x",
    "\\\\host\\x",
    "a/../../x",
    "~/x",
    "file:///etc/passwd",
    "http://127.0.0.1:9/x.mp4",
    "a" * 300,
    "x/" * 1500,
    "a" * 5000,
    "\x00",
    "a\x00b",
    "\x1b[2J\x1b]0;x\x07",
    "line\nbreak",
    "tab\tbed",
    "\r",
    "\u202egpj.exe",
    "\ufeff",
    "\ufffe",
    "\ud800",
    "\udcff",
    "e\u0301",
    "\u0663",
    "\u00b2",
    "\u0661\u0662\u0663",
    "٣" * 4,
    "\U0001f600",
    "원본",
    "nan",
    "NaN",
    "inf",
    "-inf",
    "1e400",
    "1e-400",
    "0x10",
    "1_000",
    "9" * 400,
    "9" * 5000,
    "-1",
    "2",
    "0.5",
    "true",
    "None",
    "null",
    "[]",
    "{}",
    "0-",
    "1-2-3",
    "nan-nan",
    "3-1",
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "$x_$",
    "$\\frac{",
    "%s%n",
    "{0}",
    "{{7*7}}",
    "$(touch x)",
    "`touch x`",
    "; rm x",
    "| x",
    "real",
    "fake",
    "REAL",
    "FAKE",
    "train",
    "test",
    "val",
    "dev",
    *FORMULAS,
)
NASTY_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    0.5,
    -0.0,
    1e308,
    10**18,
    10**400,
    -(10**400),
    float("nan"),
    float("inf"),
    [],
    {},
    [[]],
    [None],
    [[None, None]],
    {"a": {"b": []}},
    [1, 2, 3],
    ["a", "b"],
    [[3, 1]],
    [[-1, 1]],
    [[0, 1e308]],
    [[0, 10**400]],
    [["nan", "nan"]],
    [[0, 1, 2]],
    {"0": 1},
    "ab",
)
CODECS = (
    "utf-8",
    "utf-8-sig",
    "utf-16",
    "utf-32",
    "utf-16-be",
    "latin-1",
    "cp949",
    "cp1252",
    "utf-7",
    "shift_jis",
)


def pick(rng: np.random.Generator, values: Any) -> Any:
    """One of a sequence, as it is (NumPy's choice() would turn it into an array)."""
    return values[int(rng.integers(len(values)))]


def flip_bits(rng: np.random.Generator, data: bytes, start: int, end: int, count: int) -> bytes:
    """`count` bits flipped between two places."""
    changed = bytearray(data)
    end = min(end, len(data))
    for place in rng.integers(start, max(end, start + 1), count).tolist() if data else ():
        changed[min(place, len(data) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def truncate(data: bytes, tenths: int) -> bytes:
    return data[: len(data) * tenths // 10]


def damage(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Some damage to any file, and what it is."""
    size = len(data)
    how = int(rng.integers(9))
    if how == 0:
        tenths = int(rng.integers(10))
        return truncate(data, tenths), f"cut off at {tenths}/10"
    if how in (1, 2):
        count = int(2 ** rng.integers(0, 9))
        end = 512 if how == 1 else size
        return flip_bits(rng, data, 0, end, count), f"{count} bits flipped in the first {end}"
    if how == 3:
        return b"", "empty"
    first, last = sorted(rng.integers(0, size + 1, 2).tolist())
    if how == 4:
        return data[:first] + data[last:], f"without {first}..{last}"
    if how == 5:
        return data[:first] + bytes(last - first) + data[last:], f"zeros in {first}..{last}"
    if how == 6:
        return data[:last] + data[first:], f"twice {first}..{last}"
    if how == 7:
        noise = rng.integers(0, 256, last - first, dtype=np.uint8).tobytes()
        return data[:first] + noise + data[last:], f"noise in {first}..{last}"
    return data + rng.integers(0, 256, 4096, dtype=np.uint8).tobytes(), "noise after its end"


def nasty_text(rng: np.random.Generator) -> str:
    return pick(rng, NASTY_TEXTS)


def nasty_value(rng: np.random.Generator) -> Any:
    """A JSON value that is probably of a wrong type, or beyond its range."""
    how = int(rng.integers(4))
    if how == 0:
        return nasty_text(rng)
    if how == 1:
        depth = int(pick(rng, (30, 400, 900)))
        value: Any = 1
        for _ in range(depth):
            value = [value] if rng.integers(2) else {"a": value}
        return value
    return pick(rng, NASTY_VALUES)


def _places(value: Any, limit: int = 500) -> list[list[tuple[Any, Any]]]:
    """(container, key) of the values below `value`, by how deep they lie, as many of each depth at most."""
    levels: list[list[tuple[Any, Any]]] = []
    containers = [value]
    while containers and len(levels) < 8:
        found = [
            (container, key)
            for container in containers
            for key in (list(container) if isinstance(container, dict) else range(len(container)))
        ]
        levels.append(found[:limit])
        containers = [c[k] for c, k in found[:limit] if isinstance(c[k], (dict, list))]
    return [level for level in levels if level]


def mutate_json(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """Valid JSON with something wrong in it, or something that is not JSON."""
    how = int(rng.integers(14))
    text = data.decode("utf-8-sig")
    if how == 0:
        depth = int(pick(rng, (900, 5000, 200_000)))
        opening, closing = pick(rng, (("[", "]"), ('{"a":', "}")))
        return (opening * depth + "1" + closing * depth).encode(), f"{depth} deep"
    if how == 1:
        return (text[: len(text) // 2] + "9" * 5000 + text[len(text) // 2 :]).encode(), "5000 digits inside"
    if how == 2:
        return (text + text).encode(), "twice, one after the other"
    if how == 3:
        return text.replace('"', "'").encode(), "single quotes"
    if how == 4:
        codec = pick(rng, CODECS)
        return text.encode(codec, errors="replace"), codec
    if how == 5:
        return json.dumps(
            pick(rng, ([], {}, None, "x", 1, [[]], [{}], {"a": {}}, [None]))
        ).encode(), "another value"
    if how == 6:
        changed, what = damage(rng, data)
        return changed, what
    content = json.loads(text)
    levels = _places(content) if isinstance(content, (dict, list)) else []
    if not levels:
        return b"[" + data + b"]", "wrapped"
    what = ""
    for _ in range(int(rng.integers(1, 4))):
        container, key = pick(rng, pick(rng, levels))
        value = nasty_value(rng)
        if isinstance(container, dict) and key in container and rng.integers(3) == 0:
            container[nasty_text(rng)] = container.pop(key)
            what += f"{key!r} renamed; "
        elif isinstance(container, dict) and rng.integers(4) == 0:
            container.pop(key, None)
            what += f"no {key!r}; "
        elif isinstance(container, dict) or key < len(container):
            container[key] = value
            what += f"{key!r} is {str(value)[:30]!r}; "
    # ASCII: halves of surrogate pairs survive as escapes
    return json.dumps(content).encode(), what


def mutate_table(rng: np.random.Generator, data: bytes) -> tuple[bytes, str]:
    """A CSV, or another text of lines, with something wrong in it."""
    how = int(rng.integers(20))
    text = data.decode("utf-8-sig", errors="replace")
    lines = text.splitlines()
    if how == 0:
        codec = pick(rng, CODECS)
        return text.encode(codec, errors="replace"), codec
    if how == 1:
        return damage(rng, data)
    if how == 2:
        place = int(rng.integers(len(data) + 1))
        return data[:place] + b"\x00" * int(rng.integers(1, 100)) + data[place:], "NUL bytes"
    if how == 3:
        return data.replace(b"\n", pick(rng, (b"\r", b"\r\n", b"\n\n", b"\x0b", b"\x85"))), "other line ends"
    if how == 4:
        size = int(pick(rng, (200_000, 2_000_000)))
        return data + b'"' + b"a" * size + b'"\n', f"a cell of {size} letters"
    if how == 5:
        return data + b'x,"unclosed\n' + data, "an unclosed quote"
    if how == 6:
        return (lines[0] + "\n").encode() if lines else b"", "a header alone"
    if how == 7:
        return "\n".join(lines[1:]).encode(), "no header"
    if how == 8:
        return "\n".join(["," * 20_000, *lines]).encode(), "20,000 columns"
    if how == 9:
        return "\n".join([*lines, *lines[1:]]).encode(), "rows twice"
    if how == 10:
        return data.replace(b",", pick(rng, (b";", b"\t", b",,", b'","'))), "another separator"
    rows = [line.split(",") for line in lines]
    if not rows:
        return b"\xff\xfe", "two bytes"
    what = ""
    if how == 11:
        column = int(rng.integers(len(rows[0])))
        for row in rows:
            del row[column : column + 1]
        what = f"no column {column}"
    elif how == 12:
        column = int(rng.integers(len(rows[0])))
        for row in rows:
            row.insert(column, row[column] if column < len(row) else "")
        what = f"column {column} twice"
    elif how == 13:
        for row in rows[1:]:
            row.append(nasty_text(rng))
        what = "an extra cell in each row"
    elif how == 14:
        rng.shuffle(rows[0])
        what = "columns renamed among each other"
    else:
        for _ in range(int(rng.integers(1, 4))):
            row = pick(rng, rows[1:] or rows)
            column = int(rng.integers(len(row)))
            value = nasty_text(rng)
            row[column] = '"' + value.replace('"', '""') + '"' if any(c in value for c in '",\r\n') else value
            what += f"cell {column} is {value[:30]!r}; "
    return "\n".join(map(",".join, rows)).encode("utf-8", errors="surrogatepass"), what

"""Texts that somebody has changed, by accident or to do harm: for the tests that read them back.

A mutation changes JSON in what it says (fields, types, depth, numbers, names) or in its bytes. What JSON's own writer
cannot write (a key twice, ``NaN``, integers of any length) is written by a placeholder that is replaced in the text.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st

SEED = os.environ.get("NAS_FUZZ_SEED")
"""Other examples than the usual ones, where somebody wants to look further: any number."""
RAW = (
    *("NaN", "-Infinity", "1e999", "9" * 30, "-" + "9" * 5000, '{"a": 1, "a": 2}', "[" * 2000 + "]" * 2000),
    *('"\\ud800"', "0x10", "'se'", "01", "", "{}x", "/* no */ 1", '{"a": 1,}', "[" * 70 + "1" + "]" * 70, "-0"),
)
"""Texts that are put in a value's place as they are; some of them are no JSON."""
WEIRD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2,
        3,
        2**31,
        2**63 - 1,
        -(2**63),
        0.5,
        -1.5,
        1e308,
        5e-324,
        "",
        "se",
        "none",
        "None",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        {"": None},
        ["se", "se"],
        [1, "1", 1.0],
        "a" * 3000,
        "\0",
        "../../x",
        "/etc/passwd",
        "%s%n",
    ),
    *("<img src=x onerror=alert(1)>", '"""', "'); import os; os.system('x'); ('", "\u202e", "ѕe", "se\n", " se", "{0}"),
    *("resnet18", "hf-hub:a/b", "local-dir:/x", "identity", "paper", "replace", "after_stage", "1", {"reduction": 4}),
)
Path = tuple[str | int, ...]


def fuzzing(examples: int) -> Callable[[Any], Any]:
    """Return settings under which a test sees so many examples: always the same, unless NAS_FUZZ_SEED is set."""
    chosen = settings(max_examples=examples, derandomize=SEED is None, database=None, deadline=None)

    def decorate(test: Any) -> Any:
        from hypothesis import HealthCheck, seed

        # A function's fixtures are made once for all its examples, which is meant here.
        mild = settings(chosen, suppress_health_check=list(HealthCheck))(test)
        return mild if SEED is None else seed(int(SEED))(mild)

    return decorate


def paths(value: Any, here: Path = ()) -> list[Path]:
    """Return the places of all values within a value, itself among them."""
    found = [here]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        found += paths(each, (*here, key))
    return found


@st.composite
def changed(draw: st.DrawFn, originals: Sequence[Any]) -> bytes:
    """Draw the JSON of one of some values after a few changes, most of them in what it says."""
    value = json.loads(json.dumps(draw(st.sampled_from(originals))))
    raws: list[str] = []
    for _ in range(draw(st.sampled_from((1, 1, 1, 2, 3)))):
        value = _change(draw, value, raws)
    text = json.dumps(value)
    for number, raw in enumerate(raws):
        text = text.replace(json.dumps(_mark(number)), raw)
    found = text.encode()
    return _bytes_changed(draw, found) if draw(st.integers(0, 3)) == 0 else found


def _mark(number: int) -> str:
    return f"@@raw {number}@@"


def _change(draw: st.DrawFn, value: Any, raws: list[str]) -> Any:
    """Return a value with one change somewhere within it."""
    *parents, last = draw(st.sampled_from(paths(value))) or (None,)
    if last is None:
        return _instead(draw, value, raws)
    holder = value
    for key in parents:
        holder = holder[key]
    kind = draw(st.sampled_from(("drop", "replace", "replace", "replace", "add", "rename", "swap")))
    if kind == "drop":
        del holder[last]
    elif kind == "add":
        new = draw(st.sampled_from(("x", "schema", "options", "__class__", "stage ", "Block")))
        holder.update({new: _instead(draw, None, raws)}) if isinstance(holder, dict) else holder.append(holder[last])
    elif kind == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from((f"{last} ", f"{last}".upper(), "", "\u200b", f"{last}\0")))] = holder.pop(last)
    elif kind == "swap" and isinstance(holder, dict):
        other = draw(st.sampled_from(sorted(holder)))
        holder[last], holder[other] = holder[other], holder[last]
    else:
        holder[last] = _instead(draw, holder[last], raws)
    return value


def _instead(draw: st.DrawFn, old: Any, raws: list[str]) -> Any:
    kind = draw(st.sampled_from(("weird", "weird", "raw", "wrapped", "number", "text", "deep")))
    if kind == "raw":
        raws.append(draw(st.sampled_from(RAW)))
        return _mark(len(raws) - 1)
    if kind == "wrapped":
        return draw(st.sampled_from(([old], {"x": old}, str(old), [old, old], repr(old))))
    if kind == "number":
        return draw(st.one_of(st.integers(-(2**70), 2**70), st.integers(-3, 300), st.floats(allow_nan=False)))
    if kind == "text":
        return draw(st.text(max_size=12))
    if kind == "deep":
        return json.loads("[" * 40 + "1" + "]" * 40)
    return json.loads(json.dumps(draw(st.sampled_from(WEIRD))))


def _bytes_changed(draw: st.DrawFn, text: bytes) -> bytes:
    """Return bytes that were flipped, cut or inserted somewhere."""
    place = draw(st.integers(0, max(0, len(text) - 1)))
    kind = draw(st.sampled_from(("flip", "cut", "insert", "head", "twice")))
    if kind == "flip" and text:
        return text[:place] + bytes([text[place] ^ (1 << draw(st.integers(0, 7)))]) + text[place + 1 :]
    if kind == "cut":
        return text[:place]
    if kind == "head":
        return draw(st.sampled_from((b"\xef\xbb\xbf", b"\xff\xfe", b"PK\x03\x04", b"\x80\x04", b"\0"))) + text
    return text + text if kind == "twice" else text[:place] + draw(st.binary(min_size=1, max_size=8)) + text[place:]

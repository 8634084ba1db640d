"""
Text of the audit log on a terminal: whoever writes an entry must not command the terminal of whoever reads it.

Guarantees:
    * Nothing that `visible()` or `json_line()` returns can move the cursor, change a colour or turn the direction of the text:
      control characters (C0, DEL, C1), bidirectional overrides, zero-width and other characters without a shape of
      their own come out as escapes. A line is one line.
    * `json_line()` stays JSON, equal to what went in.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec


__all__ = ["json_line", "visible"]

_encode = msgspec.json.Encoder().encode


def visible(text: str) -> str:
    r"""
    Return *text* with every character that is not printable as an escape: ``\x1b``, ``\n``, ``\u202e``.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text
    )


def json_line(value: Any) -> str:
    """
    Return *value* as compact JSON in which every character is printable.
    """
    text = _encode(value).decode()
    if text.isprintable():
        return text
    # Such a character can only stand inside a string of the JSON text, where an escape means the same.
    return "".join(char if char.isprintable() else _json_escape(char) for char in text)


def _json_escape(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) <= 0xFFFF else json.dumps(char)[1:-1]

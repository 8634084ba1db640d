"""
Text that is safe to print.
"""

from __future__ import annotations

import json
import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from audit_buffer.commands._text import json_line, visible


DANGEROUS = {"Cc", "Cf", "Cs", "Zl", "Zp"}
anything = st.text(st.characters(exclude_categories=()))
encodable = st.text(st.characters(codec="utf-8"))


def harmless(text: str) -> bool:
    return not any(unicodedata.category(char) in DANGEROUS for char in text)


@given(anything)
def test_visible_text_commands_no_terminal(text: str):
    """
    No control, format or separator character survives, whatever the entry holds.
    """
    assert harmless(visible(text))


@given(encodable)
def test_json_lines_command_no_terminal_and_stay_equal(text: str):
    """
    The same for JSON, which still means what it meant.
    """
    line = json_line({text: [text]})

    assert harmless(line)
    assert json.loads(line) == {text: [text]}


def test_escapes_are_readable():
    """
    The well-known attacks come out as what they are: colour, C1, direction, line end, tag character.
    """
    assert visible("a\x1b[31mb\x9b2J\u202ec\nd\U000e0041") == "a\\x1b[31mb\\x9b2J\\u202ec\\nd\\U000e0041"
    assert json_line("\x7f\x9b\u202e\U000e0041") == '"\\u007f\\u009b\\u202e\\udb40\\udc41"'


def test_ordinary_text_is_left_alone():
    """
    Letters of any script, and emoji, are shown as they are.
    """
    assert visible("Müller 東京 🎉") == "Müller 東京 🎉"
    assert json_line("Müller 東京") == '"Müller 東京"'

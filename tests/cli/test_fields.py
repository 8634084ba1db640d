"""
One line of NDJSON as the arguments of `record()`.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from audit_buffer.commands._fields import BadLine, DottedPath, Fields


DOCUMENT = {"user": {"arn": "arn:1", "tags": [{"k": "v"}, None]}, "a.b": {"c": 1}, "none": None}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("user.arn", "arn:1"),
        ("user.tags.0.k", "v"),
        ("user.tags.1", None),
        ("user.tags.2", None),
        ("user.tags.-1", None),
        ("user.tags.k", None),
        ("user.arn.more", None),
        (r"a\.b.c", 1),
        ("none", None),
        ("missing", None),
        ("=fixed.text", "fixed.text"),
    ],
)
def test_a_path_leads_through_objects_and_arrays(path: str, found: object):
    """
    Names, positions, escaped dots and fixed text; what is not there is None.
    """
    assert DottedPath(path).find(DOCUMENT) == found


@pytest.mark.parametrize("path", ["", ".", "a..b", "a.", ".a", "="])
def test_a_path_with_an_empty_part_is_refused(path: str):
    """
    A typing error in an option is found before the first line.
    """
    with pytest.raises(ValueError, match="is no dotted path"):
        DottedPath(path)


def arguments(document: object, **paths: tuple[str, ...]):
    return Fields(paths).arguments(json.dumps(document).encode())


def test_cloudtrail_needs_no_options():
    """
    A CloudTrail record is taken apart by the default paths; a failed call has its error code as outcome.
    """
    event = {
        "eventName": "AssumeRole",
        "eventTime": "2023-07-10T11:42:18Z",
        "userIdentity": {"arn": "arn:aws:iam::1:user/b"},
        "errorCode": "AccessDenied",
        "requestID": "r-1",
        "resources": [{"ARN": "arn:aws:iam::1:role/x"}],
    }

    assert arguments(event) == {
        "event_type": "AssumeRole",
        "actor": "arn:aws:iam::1:user/b",
        "resource": "arn:aws:iam::1:role/x",
        "outcome": "AccessDenied",
        "correlation_id": "r-1",
        "occurred_at": datetime(2023, 7, 10, 11, 42, 18, tzinfo=UTC),
        "details": event,
    }


def test_a_line_of_the_journal_needs_no_options():
    """
    A line of `journalctl -o json` names program, user, unit and microseconds.
    """
    line = {
        "__REALTIME_TIMESTAMP": "1688990400123456",
        "SYSLOG_IDENTIFIER": "sshd",
        "_UID": "0",
        "_SYSTEMD_UNIT": "ssh.service",
        "MESSAGE": "Accepted publickey",
    }
    found = arguments(line)

    assert (found["event_type"], found["actor"], found["resource"]) == ("sshd", "0", "ssh.service")
    assert found["occurred_at"] == datetime(2023, 7, 10, 12, 0, 0, 123456, tzinfo=UTC)


def test_what_is_missing_has_the_default_of_record():
    """
    Only the event type is required.
    """
    found = arguments({"event_type": "a", "actor": None})

    assert found["outcome"] == "success"
    assert [found[name] for name in ("actor", "resource", "correlation_id", "occurred_at")] == [None] * 4


def test_the_first_path_that_leads_somewhere_wins():
    """
    An option given twice is a choice in order.
    """
    assert arguments({"b": 1, "c": 2}, event_type=("a", "b", "c"))["event_type"] == "1"


def test_values_that_are_no_text_become_their_json():
    """
    A status of 404 or a pair of names is kept as JSON writes it.
    """
    found = arguments(
        {"e": True, "s": 404, "a": ["x", {"y": 1}]}, event_type=("e",), outcome=("s",), actor=("a",)
    )

    assert (found["event_type"], found["outcome"], found["actor"]) == ("true", "404", '["x",{"y":1}]')


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"nonsense", "is not JSON"),
        (b'{"event_type": "a"', "is not JSON"),
        (b'{"event_type": "\xff"}', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[1]", "not an object"),
        (b"null", "not an object"),
        (b'{"x": 1}', "has no event type: there is nothing at event_type, eventName"),
        (b'{"event_type": null, "eventName": null}', "has no event type"),
        (b'{"event_type": "a", "time": "soon"}', "has a time that is neither .*: 'soon'"),
        (b'{"event_type": "a", "time": [1]}', r"has a time that is neither .*: \[1\]"),
    ],
)
def test_a_bad_line_says_what_is_wrong_with_it(line: bytes, problem: str):
    """
    The reason names what was looked for, or what was found instead.
    """
    with pytest.raises(BadLine, match=problem):
        Fields({}).arguments(line)


def test_the_reason_for_a_bad_time_is_short_and_harmless():
    """
    A megabyte of escape sequences in the place of a time does not reach the terminal.
    """
    line = json.dumps({"event_type": "a", "time": "\x1b[2J" * 10_000}).encode()

    with pytest.raises(BadLine) as caught:
        Fields({}).arguments(line)
    assert len(str(caught.value)) < 200
    assert "\x1b" not in str(caught.value)

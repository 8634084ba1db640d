"""
From one line of NDJSON to the arguments of `record()`.

A field of the entry is found by dotted paths into the object; the first path that leads to something other than null
wins. Everything here is pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from audit_buffer.commands._moments import parse_moment
from audit_buffer.commands._text import visible


__all__ = ["DEFAULT_PATHS", "BadLine", "DottedPath", "Fields"]

# Entries of this library, CloudTrail, the systemd journal; in this order.
DEFAULT_PATHS = {
    "event_type": ("event_type", "eventName", "SYSLOG_IDENTIFIER", "_COMM", "_TRANSPORT"),
    "actor": ("actor", "userIdentity.arn", "userIdentity.invokedBy", "_UID"),
    "resource": ("resource", "resources.0.ARN", "_SYSTEMD_UNIT"),
    "outcome": ("outcome", "errorCode"),
    "time": ("occurred_at", "eventTime", "time", "timestamp", "__REALTIME_TIMESTAMP"),
    "correlation_id": ("correlation_id", "requestID"),
}
_SHOWN = 60

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


class BadLine(ValueError):
    """
    A line that is no entry; the message says why.
    """


@attrs.frozen
class DottedPath:
    r"""
    Where a value lies in a JSON object.

    ``userIdentity.arn`` goes through objects, a number (``resources.0.ARN``) into an array, ``\.`` is a dot in a name, and
    ``=text`` is that text itself, whatever the object holds.

    Args:
        text: As the user wrote it.

    Raises:
        ValueError: A part of it is empty.
    """

    text: str
    _keys: tuple[str, ...] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if self.text.startswith("=") and self.text != "=":
            keys: tuple[str, ...] = ()
        else:
            keys = tuple(key.replace("\\.", ".") for key in re.split(r"(?<!\\)\.", self.text))
        if not all(keys) or self.text == "=":
            raise ValueError("is no dotted path; write it like userIdentity.arn or resources.0.ARN, or =text")
        object.__setattr__(self, "_keys", keys)

    def find(self, value: object) -> object | None:
        """
        Return what lies there, None when there is nothing.
        """
        if self.text.startswith("="):
            return self.text[1:]
        for key in self._keys:
            if isinstance(value, dict):
                value = value.get(key)
            elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
                value = value[int(key)]
            else:
                return None
        return value


class Fields:
    """
    Takes lines apart.

    Args:
        paths: Dotted paths for each of the fields in `DEFAULT_PATHS`; a field that is missing or empty takes those.

    Raises:
        ValueError: A path cannot be one.
    """

    def __init__(self, paths: Mapping[str, Sequence[str]]) -> None:
        self._paths = {
            field: tuple(map(DottedPath, paths.get(field) or defaults))
            for field, defaults in DEFAULT_PATHS.items()
        }

    def arguments(self, line: bytes) -> dict[str, Any]:
        """
        Return the keyword arguments of `record()`; the whole object is the details.

        Raises:
            BadLine: It is not JSON, not an object, names no event type, or its time is none.
        """
        try:
            document = _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadLine(f"is not JSON: {error}") from None
        if not isinstance(document, dict):
            raise BadLine("is JSON, but not an object")
        event_type = self._text("event_type", document)
        if event_type is None:
            tried = ", ".join(path.text for path in self._paths["event_type"])
            raise BadLine(f"has no event type: there is nothing at {tried}")
        return {
            "event_type": event_type,
            "actor": self._text("actor", document),
            "resource": self._text("resource", document),
            "outcome": self._text("outcome", document) or "success",
            "correlation_id": self._text("correlation_id", document),
            "occurred_at": self._moment(document),
            "details": document,
        }

    def _find(self, field: str, document: dict[str, Any]) -> object | None:
        for path in self._paths[field]:
            value = path.find(document)
            if value is not None:
                return value
        return None

    def _text(self, field: str, document: dict[str, Any]) -> str | None:
        value = self._find(field, document)
        # A number or an object becomes the text that JSON has for it.
        return value if value is None or isinstance(value, str) else _encode(value).decode()

    def _moment(self, document: dict[str, Any]) -> Any:
        value = self._find("time", document)
        if value is None:
            return None
        try:
            return parse_moment(value)
        except ValueError as error:
            shown = repr(value) if len(repr(value)) <= _SHOWN else repr(value)[:_SHOWN] + "…"
            raise BadLine(f"has a time that {error}: {visible(shown)}") from None

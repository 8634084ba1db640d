"""
The events that `audit-buffer bench` records: a small one, a real one, or a file of them.

Pure, but for reading the file.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any


__all__ = ["SMALL", "Arguments", "read_events", "synthetic_event"]

# (event_type, actor, resource, outcome, details, correlation_id)
Arguments = tuple[str, str | None, str | None, str, dict[str, Any] | None, str | None]

_PATHS = {
    "event_type": ("event_type", "eventName"),
    "actor": ("actor", "userIdentity.arn"),
    "resource": ("resource", "eventSource"),
    "correlation_id": ("correlation_id", "requestID"),
}
_MAX_LENGTH = 255

SMALL: Arguments = (
    "plan.updated",
    "agent-7",
    "plan/42",
    "success",
    {"plan": 42, "from": "draft", "to": "ready", "step": 3, "by": {"role": "planner", "automatic": True}},
    None,
)


def synthetic_event() -> Arguments:
    """
    Return an invented event with the shape and size (1.2 kB) of an AWS CloudTrail record.
    """
    details = {
        "eventVersion": "1.08",
        "userIdentity": {
            "type": "AssumedRole",
            "principalId": "AROAEXAMPLEEXAMPLE123:audit-session",
            "arn": "arn:aws:sts::111122223333:assumed-role/deploy/audit-session",
            "accountId": "111122223333",
            "sessionContext": {
                "sessionIssuer": {
                    "type": "Role",
                    "principalId": "AROAEXAMPLEEXAMPLE123",
                    "arn": "arn:aws:iam::111122223333:role/deploy",
                    "accountId": "111122223333",
                    "userName": "deploy",
                },
                "attributes": {"creationDate": "2026-01-05T08:00:00Z", "mfaAuthenticated": "false"},
            },
        },
        "eventTime": "2026-01-05T08:14:03Z",
        "eventSource": "s3.amazonaws.com",
        "eventName": "GetBucketLogging",
        "awsRegion": "eu-central-1",
        "sourceIPAddress": "192.0.2.17",
        "userAgent": "[Boto3/1.34.0 Python/3.11.6 Linux/6.1.0 Botocore/1.34.0]",
        "requestParameters": {
            "logging": "",
            "bucketName": "example-bucket",
            "Host": "s3.eu-central-1.amazonaws.com",
        },
        "responseElements": None,
        "additionalEventData": {
            "SignatureVersion": "SigV4",
            "CipherSuite": "TLS_AES_128_GCM_SHA256",
            "bytesOut": 289,
        },
        "requestID": "0d9e5f5e-7f0c-4a7e-9a56-0a3b5f0f3c11",
        "eventID": "5b1b2d3c-8a54-4f2b-8a0e-6f3d0c1f9d20",
        "readOnly": True,
        "eventType": "AwsApiCall",
        "recipientAccountId": "111122223333",
        "eventCategory": "Management",
    }
    return _arguments(details)


def read_events(path: Path, most: int = 2000) -> list[Arguments]:
    """
    Return the first *most* events of a file with one JSON object a line.

    Raises:
        ValueError: A line is no JSON object, or there is none; the message names the line.
    """
    events = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(islice(lines, most), start=1):
            try:
                details = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            if not isinstance(details, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object")
            events.append(_arguments(details))
    if not events:
        raise ValueError(f"{path} holds no event")
    return events


def _arguments(details: dict[str, Any]) -> Arguments:
    found = {name: _first_text(details, paths) for name, paths in _PATHS.items()}
    return (
        found["event_type"] or "event",
        found["actor"],
        found["resource"],
        "failure" if "errorCode" in details else "success",
        details,
        found["correlation_id"],
    )


def _first_text(details: dict[str, Any], paths: Sequence[str]) -> str | None:
    for path in paths:
        value: Any = details
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, str) and value:
            return value[:_MAX_LENGTH]
    return None

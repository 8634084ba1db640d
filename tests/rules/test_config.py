"""
What the configuration promises: a bad setting is an error where it is made, and says what is allowed.
"""

from __future__ import annotations

import inspect
import signal
from pathlib import Path
from typing import Any

import attrs
import pytest

from audit_buffer import BufferConfig, ConfigError


MIB = 1024 * 1024


def test_the_defaults_are_those_of_the_design() -> None:
    """
    The bounds of a ring in memory are filled in by the buffer, hence None.
    """
    assert attrs.asdict(BufferConfig()) == {
        "asynchronous": True,
        "queue_maxsize": None,
        "queue_max_bytes": None,
        "batch_size": None,
        "batch_max_bytes": None,
        "flush_interval": 0.1,
        "on_full": "block",
        "block_timeout": 2.0,
        "durability": None,
        "ring_dir": None,
        "ring_bytes": 64 * MIB,
        "retain_seconds": 0.0,
        "retain_bytes": 0,
        "sync_interval": 0.5,
        "adopt_orphans": True,
        "max_entry_bytes": MIB,
        "retry_backoff": 0.1,
        "retry_backoff_max": 5.0,
        "delivery_timeout": None,
        "close_timeout": 30.0,
        "exit_timeout": 5.0,
        "statement_timeout": 30.0,
        "handle_signals": (),
        "read_your_writes": True,
        "on_error": None,
        "redact": None,
        "bulk": "auto",
    }


def test_every_setting_is_documented() -> None:
    """
    The docstring names each one.
    """
    for attribute in attrs.fields(BufferConfig):
        assert f"\n    {attribute.name}: " in str(inspect.getdoc(BufferConfig))


WHOLE = ("queue_maxsize", "queue_max_bytes", "batch_size", "batch_max_bytes", "ring_bytes", "max_entry_bytes")
NOT_NEGATIVE = ("flush_interval", "block_timeout", "close_timeout", "exit_timeout")
POSITIVE = ("sync_interval", "retry_backoff", "retry_backoff_max", "delivery_timeout", "statement_timeout")
BAD = [
    *((name, value) for name in WHOLE for value in (0, -1, 1.0, "1", True)),
    *((name, None) for name in WHOLE[4:]),
    *(
        (name, value)
        for name in NOT_NEGATIVE + POSITIVE
        for value in (-0.1, float("nan"), float("inf"), "1", True)
    ),
    *((name, None) for name in NOT_NEGATIVE),
    *((name, 0) for name in POSITIVE),
    *(
        (name, value)
        for name in ("asynchronous", "adopt_orphans", "read_your_writes")
        for value in (1, "yes", None)
    ),
    *((name, value) for name in ("on_full", "durability") for value in ("explode", 5, [])),
    ("on_full", None),
    ("ring_bytes", 64 * 1024 - 1),
    ("max_entry_bytes", 63),
    ("max_entry_bytes", 1 << 28),
    ("ring_dir", 5),
    ("handle_signals", "SIGTERM"),
    ("handle_signals", ["SIGNAL"]),
    ("handle_signals", [9999]),
    ("handle_signals", 15),
    ("on_error", "print"),
    ("redact", 5),
]


@pytest.mark.parametrize(("name", "value"), BAD)
def test_a_value_that_cannot_work_is_refused(name: str, value: Any) -> None:
    """
    The error carries the setting and the value, and says what is allowed.
    """
    with pytest.raises(ConfigError) as caught:
        BufferConfig(**{name: value})
    assert (caught.value.key, repr(caught.value.value)) == (name, repr(value))
    assert "must be" in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"retry_backoff": 2.0, "retry_backoff_max": 1.0},
        {"durability": "process", "ring_bytes": 2 * MIB},
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any]) -> None:
    """
    The error names the one to change.
    """
    with pytest.raises(ConfigError, match="must be at least"):
        BufferConfig(**settings)


def test_values_are_converted_to_what_they_mean() -> None:
    """
    A path may be text, a signal its name or number.
    """
    config = BufferConfig(ring_dir="/tmp/ring", handle_signals=["SIGTERM", 2])
    assert config.ring_dir == Path("/tmp/ring")
    assert config.handle_signals == (signal.SIGTERM, signal.SIGINT)


def test_a_configuration_cannot_be_changed() -> None:
    """
    `evolve()` makes another one, and checks it again.
    """
    config = BufferConfig(batch_size=5)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.batch_size = 6  # type: ignore[misc]
    other = config.evolve(flush_interval=0.0, **{"async": False})
    assert (config.flush_interval, other.flush_interval) == (0.1, 0.0)
    assert (other.batch_size, other.asynchronous) == (5, False)
    with pytest.raises(ConfigError, match="batch_size"):
        config.evolve(batch_size=0)
    with pytest.raises(ConfigError, match="is not a setting"):
        config.evolve(audit_batch_size=3)


@pytest.mark.parametrize(
    ("key", "value", "name", "expected"),
    [
        ("AUDIT_ASYNC", "0", "asynchronous", False),
        ("AUDIT_ASYNC", "TRUE", "asynchronous", True),
        ("AUDIT_ASYNCHRONOUS", "off", "asynchronous", False),
        ("AUDIT_QUEUE_MAXSIZE", "10000", "queue_maxsize", 10_000),
        ("AUDIT_QUEUE_MAXSIZE", "none", "queue_maxsize", None),
        ("AUDIT_QUEUE_MAXSIZE", "", "queue_maxsize", None),
        ("AUDIT_QUEUE_MAX_BYTES", "64MiB", "queue_max_bytes", 64 * MIB),
        ("AUDIT_BATCH_SIZE", " 200 ", "batch_size", 200),
        ("AUDIT_BATCH_MAX_BYTES", "256 KiB", "batch_max_bytes", 256 * 1024),
        ("AUDIT_RING_BYTES", "1GiB", "ring_bytes", 1024 * MIB),
        ("AUDIT_FLUSH_INTERVAL", "1e-2", "flush_interval", 0.01),
        ("AUDIT_DELIVERY_TIMEOUT", "None", "delivery_timeout", None),
        ("AUDIT_ON_FULL", "drop_oldest", "on_full", "drop_oldest"),
        ("AUDIT_DURABILITY", "sync", "durability", "sync"),
        ("AUDIT_RING_DIR", "/var/lib/x", "ring_dir", Path("/var/lib/x")),
        ("AUDIT_HANDLE_SIGNALS", "SIGTERM, SIGINT", "handle_signals", (signal.SIGTERM, signal.SIGINT)),
        ("AUDIT_READ_YOUR_WRITES", "no", "read_your_writes", False),
    ],
)
def test_the_environment_is_read_by_each_settings_own_type(
    key: str, value: str, name: str, expected: Any
) -> None:
    """
    Variables without the prefix are somebody else's.
    """
    config = BufferConfig.from_env(environ={key: value, "OTHER": "x", "PATH": "/bin"})
    assert getattr(config, name) == expected
    assert config == BufferConfig(**{name: expected})


def test_the_environment_is_the_default_place_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    `os.environ`, under a prefix of the application's choice.
    """
    monkeypatch.setenv("SHOP_AUDIT_BATCH_SIZE", "7")
    assert BufferConfig.from_env(prefix="SHOP_AUDIT_").batch_size == 7


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("AUDIT_BATCHSIZE", "5", "did you mean batch_size?"),
        ("AUDIT_XYZ", "5", "the settings are asynchronous, "),
        ("AUDIT_BATCH_SIZE", "many", "whole number, such as 10000 or 64MiB"),
        ("AUDIT_BATCH_SIZE", "0", "at least 1"),
        ("AUDIT_ASYNC", "maybe", "must be one of 1, true"),
        ("AUDIT_FLUSH_INTERVAL", "soon", "number of seconds"),
        ("AUDIT_FLUSH_INTERVAL", "nan", "number of seconds"),
        ("AUDIT_ON_ERROR", "print", "cannot be text"),
        ("AUDIT_HANDLE_SIGNALS", "TERM", "must be signals"),
        ("AUDIT_ON_FULL", "wait", "must be one of block, raise"),
    ],
)
def test_a_bad_variable_is_named_with_what_is_allowed(key: str, value: str, says: str) -> None:
    """
    A typing error in a deployment must not pass for a default.
    """
    with pytest.raises(ConfigError) as caught:
        BufferConfig.from_env(environ={key: value})
    assert says in str(caught.value)


def test_the_applications_own_settings_are_taken_as_they_are_named_there() -> None:
    """
    `audit_async` and `audit_queue_maxsize` existed before the library did; a value may be text.
    """
    config = BufferConfig.from_mapping(
        {
            "audit_async": False,
            "audit_queue_maxsize": 10_000,
            "batch_size": 3,
            "audit_queue_max_bytes": "2MiB",
        }
    )
    assert config == BufferConfig(
        asynchronous=False, queue_maxsize=10_000, batch_size=3, queue_max_bytes=2 * MIB
    )
    with pytest.raises(ConfigError, match="queue_maxsize"):
        BufferConfig.from_mapping({"audit_queue_maxsise": 5})


@pytest.mark.parametrize(
    "text",
    [
        'async = false\nring_bytes = "128MiB"\nhandle_signals = ["SIGTERM"]\n',
        '[audit_buffer]\nasync = false\nring_bytes = "128MiB"\nhandle_signals = ["SIGTERM"]\n[other]\nx = 1\n',
        '[tool.audit_buffer]\nasynchronous = false\nring_bytes = 134217728\nhandle_signals = ["SIGTERM"]\n',
    ],
)
def test_a_toml_file_has_the_settings_in_its_table_or_at_its_top(tmp_path: Path, text: str) -> None:
    """
    A table of its own leaves the rest of the file to others.
    """
    path = tmp_path / "settings.toml"
    path.write_text(text, encoding="utf-8")
    assert BufferConfig.from_toml(path) == BufferConfig(
        asynchronous=False, ring_bytes=128 * MIB, handle_signals=["SIGTERM"]
    )


def test_an_empty_table_means_the_defaults(tmp_path: Path) -> None:
    """
    And so does an empty file.
    """
    path = tmp_path / "settings.toml"
    for text in ("[audit_buffer]\n[other]\nx = 1\n", ""):
        path.write_text(text, encoding="utf-8")
        assert BufferConfig.from_toml(str(path)) == BufferConfig()


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"= broken",
        b"\xff",
        b"audit_buffer = 5",
        b"tool = 5",
        b"[audit_buffer]\nbatch = 5",
        b"flush_interval = nan",
    ],
)
def test_a_bad_toml_file_is_a_config_error(tmp_path: Path, content: bytes | None) -> None:
    """
    Missing, unreadable or wrong: the error says which.
    """
    path = tmp_path / "settings.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError):
        BufferConfig.from_toml(path)


def test_an_error_names_the_variable_and_its_value() -> None:
    """
    What has to be corrected is AUDIT_BATCH_SIZE, and the error says so; likewise for a name that is no setting.
    """
    with pytest.raises(ConfigError, match=r"^AUDIT_BATCH_SIZE = 0: ") as raised:
        BufferConfig.from_env(environ={"AUDIT_BATCH_SIZE": "0"})
    assert (raised.value.key, raised.value.value) == ("AUDIT_BATCH_SIZE", 0)
    with pytest.raises(ConfigError, match=r"^AUDIT_QUEUE_MAXSIZ = '10': .*did you mean queue_maxsize\?"):
        BufferConfig.from_env(environ={"AUDIT_QUEUE_MAXSIZ": "10"})


def test_the_variables_of_the_tests_are_no_settings() -> None:
    """
    Where AUDIT_TEST_POSTGRESQL points the tests to a server, an application still finds its settings.
    """
    environ = {"AUDIT_TEST_POSTGRESQL": "postgresql://x", "AUDIT_BATCH_SIZE": "7"}
    assert BufferConfig.from_env(environ=environ) == BufferConfig(batch_size=7)

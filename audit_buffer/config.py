"""
`BufferConfig`: every setting in one frozen place, and the two files it can come from.

Seconds are floats and sizes are bytes. An unknown name or a value that cannot work is a `ConfigError` that
names the key, the value and what is allowed; it is raised where the configuration is made, not where it bites.
"""

from __future__ import annotations

import difflib
import os
import signal
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import attrs

from audit_buffer._frame import LENGTH_LIMIT
from audit_buffer.errors import ConfigError


__all__ = ["BufferConfig", "Durability", "OnFull"]

Durability = Literal["memory", "process", "periodic", "sync"]
Bulk = Literal["auto", "executemany", "values", "copy"]
OnFull = Literal["block", "raise", "write_through", "drop_newest", "drop_oldest"]

_MIB = 1024 * 1024
_BULKS = ("auto", "executemany", "values", "copy")
_DURABILITIES = ("memory", "process", "periodic", "sync")
_ON_FULL = ("block", "raise", "write_through", "drop_newest", "drop_oldest")
_UNITS = {"KiB": 1024, "MiB": _MIB, "GiB": 1024 * _MIB}
_BOOLEANS = {
    "1": True,
    "true": True,
    "yes": True,
    "on": True,
    "0": False,
    "false": False,
    "no": False,
    "off": False,
}
# What applications called the setting before there was a library, and what TOML writers will try.
_ALIASES = {"async": "asynchronous"}

_Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def _between(minimum: int, maximum: int) -> _Validator:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if type(value) is not int or not minimum <= value <= maximum:
            raise ConfigError(
                attribute.name, value, f"must be a whole number of at least {minimum} and at most {maximum}"
            )

    return check


def _at_least(minimum: int, *, optional: bool = False) -> _Validator:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is None and optional:
            return
        if type(value) is not int or value < minimum:
            raise ConfigError(attribute.name, value, f"must be a whole number of at least {minimum}")

    return check


def _seconds(*, optional: bool = False, positive: bool = False) -> _Validator:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if value is None and optional:
            return
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not (0 < value if positive else 0 <= value) or value == float("inf"):  # type: ignore[operator]
            bound = "above 0" if positive else "of at least 0"
            raise ConfigError(attribute.name, value, f"must be a number of seconds {bound}")

    return check


def _one_of(allowed: tuple[str, ...], *, optional: bool = False) -> _Validator:
    def check(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
        if not (value in allowed or (value is None and optional)):
            raise ConfigError(attribute.name, value, "must be one of " + ", ".join(allowed))

    return check


def _boolean(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, bool):
        raise ConfigError(attribute.name, value, "must be True or False")


def _callable(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not callable(value):
        raise ConfigError(attribute.name, value, "must be callable, or None")


def _to_path(value: str | os.PathLike[str] | None) -> Path | None:
    try:
        return None if value is None else Path(value)
    except TypeError as error:
        raise ConfigError("ring_dir", value, "must be a path") from error


def _to_signals(value: Iterable[int | str]) -> tuple[signal.Signals, ...]:
    try:
        return tuple(signal.Signals[s] if isinstance(s, str) else signal.Signals(s) for s in value)
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(
            "handle_signals", value, "must be signals, such as ('SIGTERM', 'SIGINT')"
        ) from error


@attrs.frozen(kw_only=True)
class BufferConfig:
    """
    Settings of one `AuditBuffer`.

    Attributes:
        asynchronous: False makes `open_audit()` return the plain service: each `record()` blocks for its COMMIT.
        queue_maxsize: Most entries that may wait. Default 10,000 in memory; None with a ring file means as many as
            *ring_bytes* holds. Too small: the producer meets *on_full* in every burst.
        queue_max_bytes: Most encoded bytes that may wait. Default 32 MiB in memory; None with a ring file means
            *ring_bytes* alone counts. Bounds the memory this buffer can ever take.
        batch_size: Entries in one transaction at most, and the threshold at which the writer starts one. None: 512 start one,
            and a backlog is written into a database in larger and larger transactions as long as they are quick, up to 4,096
            entries (at most a quarter of *queue_maxsize*); into anything else 512 at a time.
        batch_max_bytes: Encoded bytes in one transaction at most (but for an entry alone), and the threshold at which the writer
            starts one. None: 1 MiB starts one, and a backlog is written into a database in up to 4 MiB, as above (more than
            1 MiB only up to a quarter of *queue_max_bytes*); into anything else 1 MiB at a time.
        bulk: How a batch is inserted: "auto" (the fastest way that the database has), "executemany" (works everywhere), or
            the name of another strategy ("values" with SQLite and MariaDB, "copy" with PostgreSQL).
        flush_interval: Seconds the oldest entry may wait before the writer starts. Long: fewer, larger
            transactions, and (at "memory") more to lose in a crash.
        on_full: What `record()` does when there is no room: wait for *block_timeout* ("block"), raise `BufferFull`
            ("raise"), have the writer write and return after its COMMIT ("write_through"), or drop ("drop_newest",
            "drop_oldest"; a gap row then says how many and which seq).
        block_timeout: Seconds that "block" waits before it raises `BufferFull`. The domain operation waits as long.
        durability: What `record()` promises when it returns: "memory", "process", "periodic" or "sync". None:
            "process" where a place for the ring file is known (*ring_dir*, or a SQLite file), else "memory".
        ring_dir: Folder of the ring files. None: beside the SQLite file, else none.
        ring_bytes: Size in bytes of the ring file, allocated in full when the buffer opens.
        retain_seconds: Seconds that committed entries stay in the ring, to be written again when a failover takes their rows back;
            0.0: no such bound. Both 0: nothing is retained. New entries get the room of retained ones when the ring is full.
        retain_bytes: Most that is retained; 0: no such bound but the ring (in memory: `queue_max_bytes`). At most half of `ring_bytes`.
        sync_interval: Seconds between two fdatasync at "periodic": what a power cut may cost.
        adopt_orphans: Deliver what ring files of ended processes still hold.
        max_entry_bytes: Largest encoded entry, below 256 MiB; a larger one is an `EntryRejected` at the call.
        statement_timeout: Seconds the database may take over one statement of the writer's, its COMMIT included. The other
            bounds follow from it: a third of it for a lock, at most 10 to connect; a server that does not answer at all for
            two seconds longer is cut off, and the batch comes again. Short: a slow database never gets a batch done.
        retry_backoff: Upper bound in seconds of the first pause after a failed batch.
        retry_backoff_max: Upper bound in seconds of every pause.
        delivery_timeout: Seconds of failing after which the buffer gives up and `record()` raises; None: never.
            The entries are kept, in the ring file or until the process ends.
        close_timeout: Seconds `close()` waits by default.
        exit_timeout: Seconds the exit hook spends on what was not closed.
        handle_signals: Signals whose handler is extended by "flush, then exit"; opt-in.
        read_your_writes: Flush before a delegated read (`entries()`, `count()`), so that it sees every record.
        on_error: Called with each exception the writer meets, on the writer's thread.
        redact: Called with the mapping about to be encoded (details, columns or keyword arguments); what it returns is
            stored instead. It runs inside `record()`, before anything leaves the caller.
    """

    asynchronous: bool = attrs.field(default=True, validator=_boolean)
    queue_maxsize: int | None = attrs.field(default=None, validator=_at_least(1, optional=True))
    queue_max_bytes: int | None = attrs.field(default=None, validator=_at_least(1, optional=True))
    batch_size: int | None = attrs.field(default=None, validator=_at_least(1, optional=True))
    batch_max_bytes: int | None = attrs.field(default=None, validator=_at_least(1, optional=True))
    bulk: Bulk = attrs.field(default="auto", validator=_one_of(_BULKS))
    flush_interval: float = attrs.field(default=0.1, validator=_seconds())
    on_full: OnFull = attrs.field(default="block", validator=_one_of(_ON_FULL))
    block_timeout: float = attrs.field(default=2.0, validator=_seconds())
    durability: Durability | None = attrs.field(default=None, validator=_one_of(_DURABILITIES, optional=True))
    ring_dir: Path | None = attrs.field(default=None, converter=_to_path)
    ring_bytes: int = attrs.field(default=64 * _MIB, validator=_at_least(64 * 1024))
    retain_seconds: float = attrs.field(default=0.0, validator=_seconds())
    retain_bytes: int = attrs.field(default=0, validator=_at_least(0))
    sync_interval: float = attrs.field(default=0.5, validator=_seconds(positive=True))
    adopt_orphans: bool = attrs.field(default=True, validator=_boolean)
    max_entry_bytes: int = attrs.field(default=_MIB, validator=_between(64, LENGTH_LIMIT))
    statement_timeout: float = attrs.field(default=30.0, validator=_seconds(positive=True))
    retry_backoff: float = attrs.field(default=0.1, validator=_seconds(positive=True))
    retry_backoff_max: float = attrs.field(default=5.0, validator=_seconds(positive=True))
    delivery_timeout: float | None = attrs.field(
        default=None, validator=_seconds(optional=True, positive=True)
    )
    close_timeout: float = attrs.field(default=30.0, validator=_seconds())
    exit_timeout: float = attrs.field(default=5.0, validator=_seconds())
    handle_signals: tuple[signal.Signals, ...] = attrs.field(default=(), converter=_to_signals)
    read_your_writes: bool = attrs.field(default=True, validator=_boolean)
    on_error: Callable[[BaseException], object] | None = attrs.field(default=None, validator=_callable)
    redact: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = attrs.field(
        default=None, validator=_callable
    )

    def __attrs_post_init__(self) -> None:
        if self.retry_backoff_max < self.retry_backoff:
            raise ConfigError(
                "retry_backoff_max", self.retry_backoff_max, f"must be at least {self.retry_backoff=}"
            )
        if self.durability not in (None, "memory") and self.ring_bytes < 4 * self.max_entry_bytes:
            raise ConfigError("ring_bytes", self.ring_bytes, "must be at least four times max_entry_bytes")
        if self.durability != "memory" and self.retain_bytes > self.ring_bytes // 2:
            raise ConfigError("retain_bytes", self.retain_bytes, "must be at most half of ring_bytes")

    @classmethod
    def from_mapping(cls, settings: Mapping[str, object], *, prefix: str = "audit_") -> Self:
        """
        Make a configuration from names and values, such as the application's own settings.

        Args:
            settings: Values by name; a name may carry *prefix* (``audit_async``, ``audit_queue_maxsize``). A value may be
                text, as in the environment: ``"64MiB"``.

        Raises:
            ConfigError: A name is unknown, or a value cannot work.
        """
        found: dict[str, object] = {}
        keys: dict[str, str] = {}
        for key, value in settings.items():
            name = _field_name(key, value, prefix)
            attribute = getattr(attrs.fields(cls), name)
            found[name] = _parse(key, value, attribute) if isinstance(value, str) else value
            keys[name] = key
        try:
            return cls(**found)  # type: ignore[arg-type]
        except ConfigError as error:
            # By the name it was given: AUDIT_BATCH_SIZE is what has to be corrected, not batch_size.
            raise ConfigError(keys.get(error.key, error.key), error.value, error.allowed) from None

    @classmethod
    def from_env(cls, prefix: str = "AUDIT_", environ: Mapping[str, str] | None = None) -> Self:
        """
        Make a configuration from environment variables: ``AUDIT_ASYNC=0``, ``AUDIT_QUEUE_MAXSIZE=10000``.

        Args:
            prefix: What the names begin with; every variable that does must be a setting, but for those of the tests (``AUDIT_TEST_…``).
            environ: Where to look; None means `os.environ`.

        Raises:
            ConfigError: A variable with the prefix is not a setting, or its value cannot work.
        """
        environ = os.environ if environ is None else environ
        # AUDIT_TEST_POSTGRESQL and its like tell this library's own tests where the servers are.
        ours = (key for key in environ if key.startswith(prefix) and not key.startswith(f"{prefix}TEST_"))
        settings = {key: environ[key] for key in ours}
        return cls.from_mapping(settings, prefix=prefix)

    @classmethod
    def from_toml(cls, path: str | os.PathLike[str]) -> Self:
        """
        Make a configuration from the table ``[audit_buffer]`` or ``[tool.audit_buffer]`` of a TOML file, or from its top level.

        Raises:
            ConfigError: The file cannot be read, a key is unknown, or a value cannot work.
        """
        try:
            document = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError("path", str(path), f"must be a readable TOML file ({error})") from error
        return cls.from_mapping(_table_of(document))

    def evolve(self, **overrides: object) -> Self:
        """
        Return a copy with *overrides* in place.

        Raises:
            ConfigError: A name is unknown, or a value cannot work.
        """
        changes: dict[str, Any] = {_field_name(key, value, ""): value for key, value in overrides.items()}
        return attrs.evolve(self, **changes)


def _table_of(document: dict[str, Any]) -> dict[str, Any]:
    tool = document.get("tool")
    for place in (document, tool if isinstance(tool, dict) else {}):
        if "audit_buffer" in place:
            table = place["audit_buffer"]
            if not isinstance(table, dict):
                raise ConfigError("audit_buffer", table, "must be a table")
            return table
    return document


def _field_name(key: str, value: object, prefix: str) -> str:
    name = key[len(prefix) :] if prefix and key.lower().startswith(prefix.lower()) else key
    name = _ALIASES.get(name.lower(), name.lower())
    names = [attribute.name for attribute in attrs.fields(BufferConfig)]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]}?" if near else "the settings are " + ", ".join(names)
        raise ConfigError(key, value, f"is not a setting; {hint}")
    return name


def _parse(key: str, text: str, attribute: attrs.Attribute[Any]) -> object:
    """
    Turn the text of an environment variable into the type its setting has.
    """
    kind = str(attribute.type)
    text = text.strip()
    if "Callable" in kind:
        raise ConfigError(key, text, "cannot be text; pass a function, in Python")
    if "None" in kind and text.lower() in ("", "none"):
        return None
    if "bool" in kind:
        if text.lower() not in _BOOLEANS:
            raise ConfigError(key, text, "must be one of " + ", ".join(_BOOLEANS))
        return _BOOLEANS[text.lower()]
    if "Signals" in kind:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if "int" in kind:
        return _parse_int(key, text)
    if "float" in kind:
        return _parse_float(key, text)
    return text


def _parse_int(key: str, text: str) -> int:
    number, scale = text, 1
    for unit, size in _UNITS.items():
        if text.endswith(unit):
            number, scale = text.removesuffix(unit), size
    try:
        return int(number) * scale
    except ValueError:
        raise ConfigError(key, text, "must be a whole number, such as 10000 or 64MiB") from None


def _parse_float(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ConfigError(key, text, "must be a number of seconds, such as 0.5") from None

"""
What ``import audit_buffer`` gives, and when.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import audit_buffer


TREE = ast.parse(Path(audit_buffer.__file__).read_text())


@pytest.mark.parametrize("name", audit_buffer.__all__)
def test_every_exported_name_is_what_type_checkers_take_it_for(name: str) -> None:
    """
    The imports that only type checkers see, and what a program gets.
    """
    modules = [
        node.module
        for node in ast.walk(TREE)
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names)
    ]
    assert len(modules) == 1
    assert modules[0] is not None
    assert getattr(audit_buffer, name) is getattr(import_module(modules[0]), name)
    assert name in dir(audit_buffer)


def test_names_are_imported_when_they_are_used() -> None:
    """
    Not before; a public module is found without an import of its own, and a star brings everything.
    """
    program = """
import sys
import audit_buffer
assert audit_buffer.__version__
assert "sqlalchemy" not in sys.modules and "structlog" not in sys.modules
assert audit_buffer.errors.BufferFull is audit_buffer.BufferFull
assert "sqlalchemy" not in sys.modules
from audit_buffer import *
assert AuditBuffer is audit_buffer.buffer.AuditBuffer
assert "sqlalchemy.orm" not in sys.modules and "sqlalchemy.dialects.postgresql" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """
    As of any module, so that ``hasattr()`` and ``from audit_buffer import`` say what they say elsewhere.
    """
    assert not hasattr(audit_buffer, "AuditBufer")
    with pytest.raises(ImportError, match="cannot import name 'AuditBufer'"):
        from audit_buffer import AuditBufer  # type: ignore[attr-defined]  # noqa: F401

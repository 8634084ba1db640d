"""
What only tests that look at the module in C need.
"""

from __future__ import annotations

import os

import pytest

from audit_buffer._usual import HAS_SPEEDUPS


# Where it must be there, the test runs, and fails; noxfile.py says where it must not.
in_c = pytest.mark.skipif(
    not HAS_SPEEDUPS
    and (os.environ.get("AUDIT_TEST_REQUIRE") != "1" or os.environ.get("AUDIT_TEST_WITHOUT_SPEEDUPS") == "1"),
    reason="audit_buffer._speedups was not built: no compiler, or no headers of Python",
)

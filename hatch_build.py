"""
Compile audit_buffer._speedups while a wheel is built, where that is possible.

Guarantees:
  - The package can be built without it: when compiling fails, for whatever reason, one line says so, and the wheel is pure Python.
  - A wheel that holds the module has the tag of the interpreter and the platform that it was compiled for.
  - A standard build writes nothing beside the sources. An editable one leaves there what it compiled, or nothing: what an earlier
    one left for this interpreter is gone, also when compiling fails. Never is half a module there, and a process that has mapped
    the old one keeps it.

Assumptions:
  - At most one editable installation per interpreter uses a working tree: the module of the last one is everybody's.
"""

from __future__ import annotations

import os
import shutil
import sysconfig
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.builders.wheel import WheelBuilderConfig
from setuptools import Distribution, Extension
from setuptools.command.build_ext import build_ext


MODULE = "audit_buffer._speedups"
SOURCES = (
    "audit_buffer/_speedups.c",
    "audit_buffer/_usual.c",
    "audit_buffer/_frame.c",
    "audit_buffer/sinks/_rows.c",
)
HEADERS = ("audit_buffer/_speedups.h",)


class SpeedupsHook(BuildHookInterface[WheelBuilderConfig]):
    """
    Put the compiled module into the wheel, or beside its source for an editable installation.
    """

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """
        Compile, and tell hatchling what came of it; *version* is `standard` or `editable`.
        """
        self.folder = tempfile.TemporaryDirectory(prefix="audit-buffer-")
        target = "{}{}".format(MODULE.replace(".", "/"), sysconfig.get_config_var("EXT_SUFFIX"))
        beside = Path(self.root, target)
        if version == "editable":
            beside.unlink(missing_ok=True)
        try:
            compiled = compile_into(Path(self.folder.name), Path(self.root))
        except Exception as error:
            # A compiler's own words stand above it; its command line would hide the rest.
            reason = textwrap.shorten(str(error), 100)
            self.app.display_warning(
                f"audit_buffer is built without {MODULE}, and works without it: {reason}"
            )
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        if version == "editable":
            put(compiled, beside)
        else:
            build_data["force_include"][str(compiled)] = target

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """
        Remove what was compiled: the wheel has it. After a build that failed, the interpreter's exit does it.
        """
        self.folder.cleanup()


def compile_into(folder: Path, root: Path) -> Path:
    """
    Compile the sources below *root* and return the module; nothing is written outside *folder*.
    """
    # Debugging information would be most of the wheel, and name the folder it was compiled in.
    extension = Extension(
        MODULE,
        [str(root / source) for source in SOURCES],
        depends=[str(root / header) for header in HEADERS],
        extra_compile_args=["-g0"],
    )
    command = build_ext(Distribution({"name": "audit-buffer", "ext_modules": [extension]}))
    command.build_lib = str(folder / "lib")
    command.build_temp = str(folder / "temp")
    command.ensure_finalized()
    command.run()
    return Path(command.get_ext_fullpath(MODULE))


def put(compiled: Path, beside: Path) -> None:
    """
    Copy the module beside its source; it is there under its name only when it is whole.
    """
    # A name that git ignores, that no import looks for, and that no other build uses.
    partial = beside.with_name(f"{beside.stem}.{os.getpid()}.so")
    shutil.copyfile(compiled, partial)
    partial.replace(beside)

"""
Sphinx configuration; built by `nox -s docs` with warnings as errors and without the network.
"""

from __future__ import annotations

import re
import textwrap
import tomllib
from pathlib import Path

import attrs
from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from audit_buffer import BufferConfig


_project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = "audit_buffer"
author = "audit_buffer contributors"
copyright = f"2026, {author}"  # noqa: A001
release = version = _project["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
# The fragments are read on their own until a release collects them.
exclude_patterns = ["changelog.d"]
html_theme = "furo"
html_title = f"audit_buffer {release}"

myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings name things in single backquotes, and `record()` is more than one method: literal, no reference.
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_numpy_docstring = False

# Names that other projects document; intersphinx would need the network.
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(sqlalchemy|attrs?|structlog|msgspec|click|rich|collections|datetime|uuid|pathlib|signal|typing|enum|decimal)\..*",
    ),
    (
        r"py:.*",
        r"(int|str|bytes|bool|float|list|dict|tuple|set|frozenset|object|type|None|Any|Callable|Iterator|Iterable)",
    ),
    (r"py:.*", r"(URL|Clock|datetime)"),
    (
        r"py:.*",
        r"(Sequence|Mapping|Self|Path|UUID|Engine|Session|sessionmaker|Table|BaseException|Exception|ValueError|TypeError)",
    ),
]


class ConfigurationTable(SphinxDirective):
    """
    `configuration-table`: one row per setting, made from `BufferConfig` itself.
    """

    def run(self) -> list[nodes.Node]:
        meanings = meanings_of(BufferConfig.__doc__ or "")
        rows = ["| setting | type | default | meaning |", "|---|---|---|---|"]
        for field in attrs.fields(BufferConfig):
            kind = str(field.type).replace("|", "\\|")
            default = "()" if field.default == () else repr(field.default)
            rows.append(f"| `{field.name}` | `{kind}` | `{default}` | {meanings[field.name]} |")
        return self.parse_text_to_nodes("\n".join(rows))


def meanings_of(docstring: str) -> dict[str, str]:
    """
    Return the text of each name under `Attributes:`.
    """
    listed = textwrap.dedent(docstring.partition("Attributes:")[2])
    items = re.findall(r"^(\w+): (.*?)(?=^\w+: |\Z)", listed, re.DOTALL | re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in items}


def setup(app: Sphinx) -> None:
    app.add_directive("configuration-table", ConfigurationTable)

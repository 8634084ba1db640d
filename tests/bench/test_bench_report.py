"""
How a run of `audit-buffer bench` is shown: JSON, Markdown, tables. No test here measures anything.
"""

from __future__ import annotations

import json

from audit_buffer.commands._bench_report import failures, figure_tables, markdown, report, target_table
from audit_buffer.commands._goals import judge
from tests.bench.test_goals import figure


FIGURES = [figure("synchronous", 60.0), figure("buffered", 1.0), figure("floor", 1.0)]


def test_a_report_has_passed_unless_a_target_failed():
    """
    A target that is missed is no failure; one beyond its slack is. The report is JSON, and says which target it was.
    """
    short, failed = judge(FIGURES), judge([figure("synchronous", 1.0), *FIGURES[1:]])

    assert report({}, {}, FIGURES, short, [])["passed"]
    assert [target.name for target in failures(failed)] == ["synchronous p50 / buffered p50"]
    printed = json.loads(json.dumps(report({"cpus": 2}, {"records": 10}, FIGURES, failed, ["no server"])))
    assert printed["machine"] == {"cpus": 2}
    assert printed["not_measured"] == ["no server"]
    assert not printed["passed"]
    assert [each["name"] for each in printed["targets"] if each["verdict"] == "failed"] == [
        "synchronous p50 / buffered p50"
    ]


def test_markdown_is_a_table_of_targets_and_one_of_figures():
    """
    What is pasted into a page has each target once with what was measured, what is wanted and the verdict, short ones bold;
    what --check insists on is no statement about the machine, and is left out.
    """
    text = markdown(["the machine"], FIGURES, judge(FIGURES))

    assert text.startswith(
        "the machine\n\n### Targets\n\n| target | event | where | measured | wanted |  |\n"
    )
    assert "| synchronous p50 / buffered p50 | small | memory | 60.00 | ≥ 80 | **short** |" in text
    assert "| buffered p50 / floor p50 | small | memory | 1.00 | ≤ 1.5 | pass |" in text
    assert "| candidate | event | where | p50, µs |" in text
    assert "--check" not in text


def test_a_cell_of_the_markdown_is_never_split():
    """
    A name with a bar in it stays one cell.
    """
    text = markdown([], [figure("a|b", 1.0)], [])

    assert "| a\\|b | small | memory | 1.00 |" in text


def test_tables_have_a_column_for_each_value_that_there_is():
    """
    A scenario's table shows what was measured in it, and no empty columns of the others.
    """
    (table,) = figure_tables(FIGURES)
    assert [column.header for column in table.columns] == ["candidate", "event", "where", "p50, µs"]
    assert table.row_count == 3
    assert target_table(judge(FIGURES)).row_count == 2

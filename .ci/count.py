"""
Print 'N passed, N failed, N skipped' over every JUnit XML file below a folder.

pytest, behave and robot all write this format. A test that ran on three interpreters counts three times.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET


def outcome(case: ET.Element) -> str:
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def main(folder: Path) -> None:
    counts: Counter[str] = Counter()
    for report in sorted(folder.rglob("*.xml")):
        found = Counter(outcome(case) for case in ET.parse(report).iter("testcase"))
        print(f"{report.relative_to(folder)}: {dict(found)}")
        counts += found
    print(f"{counts['passed']} passed, {counts['failed']} failed, {counts['skipped']} skipped")


main(Path(sys.argv[1]))

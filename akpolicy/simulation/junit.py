"""Results as JUnit XML, which CI systems read."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from akpolicy.simulation.runner import FileResult

# What XML 1.0 cannot hold, not even escaped (section 2.2).
_NO_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def junit_xml(files: Sequence[FileResult]) -> bytes:
    """Return one `testsuite` a file and one `testcase` a case."""
    root = ET.Element("testsuites")
    for file in files:
        failures = sum(not result.passed for result in file.results)
        suite = ET.SubElement(
            root, "testsuite", name=_clean(str(file.file.path)), tests=str(len(file.results)), failures=str(failures)
        )
        for result in file.results:
            case = ET.SubElement(
                suite,
                "testcase",
                name=_clean(result.case.name),
                classname=_clean(file.file.path.stem),
                line=str(result.case.line),
            )
            if not result.passed:
                failure = ET.SubElement(case, "failure", message=_clean(result.problems[0]))
                failure.text = _clean("\n".join(result.problems))
    data: bytes = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return data


def _clean(text: str) -> str:
    return _NO_XML.sub("\ufffd", text)

"""The certificate of a subject: what was asked of it, what it showed, and how anybody can see the same.

It is one HTML page that holds its own data. A page is what this suite makes of its data, to the byte, or
it is refused: what people read on it is then what the data says.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError
from markupsafe import Markup

from reports import merged
from reports.merged import FAILING, UnusableError
from reports.summary import Record, Summary, by_reason
from reports.table import cell
from runner.judging.verdict import Verdict
from runner.rulebook.rules import Catalogue

Certificate = dict[str, Any]
"""Plain data: the subject, the suite, the host, every case by verdict, every rule's weightiest verdict."""

FORMAT = 1
KEPT = ("verdicts", "announced in vain", "conforming", "vmx")
PERHAPS = ("says", "version", "file", "source")
"""What is not known of every subject."""
_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def of(summary: Summary, name: str, catalogue: Catalogue, corpus: Iterable[str]) -> Certificate:
    """Return what is certified of one subject of a summary; *corpus* has the ids of all cases there are."""
    subject = summary["subjects"][name]
    found = {
        "format": FORMAT,
        "subject": name,
        **{key: subject[key] for key in KEPT},
        **{key: subject.get(key, "") for key in PERHAPS},
        "capabilities": subject.get("capabilities", {}),
        "suite": summary["suite"],
        "host": summary["host"],
        "finished": summary["finished"],
        "not asked": sorted(set(corpus) - merged.verdicts(subject).keys()),
        "reasons": list(_reasons(subject["cases"])),
        "areas": list(_areas(subject["rules"], catalogue)),
    }
    certificate: Certificate = json.loads(_plain(found))
    return certificate


def _reasons(cases: Iterable[Record]) -> Iterator[dict[str, Any]]:
    """Yield the cases that do not plainly conform by verdict and reason, the weightiest first."""
    kept = ("id", "says", "rules", "points", "differences")
    for verdict, reason, group in by_reason(cases):
        said = [{key: case[key] for key in kept} for case in group]
        yield {"verdict": verdict, "reason": reason, "cases": said}


def _areas(rules: Mapping[str, Mapping[str, int]], catalogue: Catalogue) -> Iterator[dict[str, Any]]:
    """Yield the rules that cases rest on by area, each with its sentence and its weightiest verdict."""
    for name, words in catalogue.areas.items():
        own = {
            rule.id: {"says": rule.says, "section": list(rule.section), "verdict": weightiest(rules[rule.id])}
            for rule in catalogue
            if rule.area == name and rule.id in rules
        }
        if own:
            yield {"name": name, "says": words, "rules": own}


def weightiest(counts: Mapping[str, int]) -> str:
    """Return what cases say of a rule: unsupported where all are, else the weightiest of the others."""
    shown = (verdict.value for verdict in Verdict if verdict is not Verdict.UNSUPPORTED)
    return next((verdict for verdict in shown if counts.get(verdict)), Verdict.UNSUPPORTED.value)


def certifies(certificate: Certificate) -> bool:
    """Whether every case was asked, and nothing failed or was announced in vain."""
    failed = any(certificate["verdicts"][verdict] for verdict in FAILING)
    return not (failed or certificate["announced in vain"] or certificate["not asked"])


def _tone(certificate: Certificate) -> str:
    """Return how the page shows what it says first."""
    deviates = certificate["verdicts"][Verdict.KNOWN_DEVIATION.value]
    return ("deviates" if deviates else "certifies") if certifies(certificate) else "refuses"


def finding(certificate: Certificate) -> str:
    """Return what the page says first, in one sentence."""
    counts = certificate["verdicts"]
    if any(counts[verdict] for verdict in FAILING) or certificate["announced in vain"]:
        said = [f"{counts[verdict]} {verdict}" for verdict in FAILING if counts[verdict]]
        in_vain = len(certificate["announced in vain"])
        return "no certificate: " + ", ".join([*said, *([f"{in_vain} announced in vain"] if in_vain else [])])
    if certificate["not asked"]:
        return f"no certificate: {_cases(len(certificate['not asked']))} not asked"
    known, conforming = counts[Verdict.KNOWN_DEVIATION.value], counts[Verdict.CONFORMS.value]
    first = f"deviates in {_cases(known)} as it announces, conforms in {conforming}"
    return "; ".join([first if known else f"conforms in {_cases(conforming)}", *_neither(counts)])


def _cases(count: int) -> str:
    return f"{count} case" if count == 1 else f"{count} cases"


def _neither(counts: Mapping[str, int]) -> Iterator[str]:
    """Say what counts neither way."""
    if unsettled := counts[Verdict.UNSETTLED.value]:
        yield f"{unsettled} unsettled"
    if unsupported := counts[Verdict.UNSUPPORTED.value]:
        yield f"{unsupported} could not be asked"


def verdicts(certificate: Certificate) -> Iterator[tuple[str, str]]:
    """Yield every case that was asked with its verdict."""
    for file, cases in certificate["conforming"].items():
        yield from ((f"{file}::{case}", Verdict.CONFORMS.value) for case in cases)
    for group in certificate["reasons"]:
        yield from ((case["id"], group["verdict"]) for case in group["cases"])


def fingerprint(certificate: Certificate) -> str:
    """Return the SHA-256 of the data."""
    return hashlib.sha256(_plain(certificate).encode()).hexdigest()


def _plain(certificate: Certificate) -> str:
    return json.dumps(certificate, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def page(certificate: Certificate) -> str:
    """Return the page, which holds the data."""
    data = Markup(_plain(certificate).replace("<", r"\u003c"))  # noqa: S704 - JSON without any `<`
    return _rendered(
        "certificate",
        c=certificate,
        data=data,
        finding=finding(certificate),
        tone=_tone(certificate),
        fingerprint=fingerprint(certificate),
        verdicts=[verdict.value for verdict in Verdict],
    )


def index(summary: Summary, certificates: Mapping[str, Certificate], catalogue: Catalogue) -> str:
    """Return the page that leads to those of a run, *certificates* by the names of their files."""
    subjects = [
        {
            "name": each["subject"],
            "version": each["version"],
            "page": file,
            "finding": finding(each),
            "tone": _tone(each),
        }
        for file, each in certificates.items()
    ]
    counts = [summary["subjects"][each["subject"]]["areas"] for each in certificates.values()]
    areas = [
        {"name": name, "says": words, "cells": [cell(areas.get(name, {})) for areas in counts]}
        for name, words in catalogue.areas.items()
        if any(name in areas for areas in counts)
    ]
    facts = {key: summary[key] for key in ("finished", "host", "suite")}
    return _rendered("index", subjects=subjects, areas=areas, absent=summary.get("absent", {}), **facts)


def _rendered(template: str, **data: object) -> str:
    text: str = _environment().get_template(f"{template}.html.jinja").render(data)
    return text


@cache
def _environment() -> Environment:
    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def read(path: Path) -> Certificate:
    """Return the data of a page; `UnusableError` where it is none, or where its text is not its data's."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableError(f"{path}: cannot be read: {error}") from error
    found = _DATA.search(text)
    try:
        data = json.loads(found[1]) if found else None
    except ValueError:
        data = None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise UnusableError(f"{path}: no certificate of format {FORMAT}; give a page that `certify` wrote")
    return data


def is_unaltered(path: Path, certificate: Certificate) -> bool:
    """Whether the page is, to the byte, what this suite makes of its data."""
    try:
        return path.read_text("utf-8") == page(certificate)
    except (KeyError, TypeError, AttributeError, TemplateError):
        return False  # data that no page is made of

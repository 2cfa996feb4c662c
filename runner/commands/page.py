"""The Allure page of a report, where Allure 3 is here: one HTML file, which opens without a server."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
NPM = ROOT / "nightly"
INSTALL = "npm ci --prefix nightly"
SECONDS = 600.0


def make(report: Path) -> str:
    """Make ``page.html`` of a report's Allure results; return its path, or why there is none.

    The page is an extra: a run has its own summary, so nothing fails without one.
    """
    page = report / "page.html"
    page.unlink(missing_ok=True)
    program = _allure()
    if program is None:
        return f"none: no allure of nightly/package.json here; do: {INSTALL}"
    if not any((report / "results").glob("*-result.json")):
        return f"none: no results in {report / 'results'}"
    made = report / "html"
    shutil.rmtree(made, ignore_errors=True)
    command = (program, "awesome", "--single-file", "--report-name", "x2APIC virtualization, nightly")
    try:
        done = subprocess.run(
            (*command, "--output", str(made.resolve()), str((report / "results").resolve())),
            cwd=report,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"none: {error}"
    if done.returncode or not (made / "index.html").exists():
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        return f"none: allure: {last or f'exit status {done.returncode}'}"
    (made / "index.html").replace(page)
    shutil.rmtree(made)
    return str(page)


def _allure() -> Path | None:
    """Return Allure's program, if node is there to run it."""
    program = NPM / "node_modules" / ".bin" / "allure"
    return program if program.exists() and shutil.which("node") else None

"""``python -m runner fleet``: the night on every host of the fleet at once, and one report of all.

tmt takes this checkout to each host over ssh, runs it there, and brings the results back. Exit status as of
``merge``: a host that does not answer, or whose run leaves no results, is named and fails the run.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import yaml

from reports.merged import UnusableError
from runner import host
from runner.commands import merge
from runner.commands.doctor import say

ROOT = Path(__file__).parents[2]
HOSTS = Path("nightly") / "fleet.fmf"
"""The hosts: one plan a host, which inherits the rest of nightly/main.fmf."""

RUNS = "x2apic-nightly-"
"""How the names of tmt's run folders begin, here and on the hosts."""
STEPS = ("discover", "provision", "execute", "finish")
"""Those of tmt that run: its `prepare` would install packages of its own on every host."""
HOURS = 8.0
"""Deadline of a host, where the plan's own duration did not end it."""


def main(arguments: Sequence[str]) -> int:
    """Run the fleet and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m runner fleet", description=__doc__)
    parser.add_argument("--hosts", type=Path, default=ROOT / HOSTS, metavar="FILE", help=f"default: {HOSTS}")
    parser.add_argument(
        "--hours", type=float, default=HOURS, metavar="N", help="give a host up after so long"
    )
    merge.add_options(parser)
    chosen = parser.parse_args(arguments)
    if find_spec("tmt") is None:
        print("no tmt in this Python; it comes with `tox -e fleet`", file=sys.stderr)
        return merge.REFUSED
    try:
        names = _names(chosen.hosts)
        with tempfile.TemporaryDirectory(prefix=RUNS) as made:
            _lay_out(Path(made), chosen.hosts)
            missing = _run_all(names, Path(made), chosen)
    except UnusableError as wrong:
        print(wrong, file=sys.stderr)
        return merge.REFUSED
    folders = [chosen.report / name for name in names if name not in missing]
    return merge.merge(folders, missing, chosen)


def _names(hosts: Path) -> list[str]:
    """Return the names of the hosts that a file of plans has."""
    try:
        said = yaml.safe_load(hosts.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UnusableError(f"{hosts}: cannot be read: {' '.join(str(error).split())}") from error
    names = [str(key)[1:] for key in said if str(key).startswith("/")] if isinstance(said, dict) else []
    wrong = [name for name in names if not re.fullmatch(r"[\w.-]+", name)]
    if wrong or not names:
        found = f"`/{wrong[0]}`" if wrong else "none"
        raise UnusableError(f"{hosts}: hosts are keys like `/vtx1`, as in {HOSTS}; found {found}")
    return names


def _lay_out(tree: Path, hosts: Path) -> None:
    """Copy what git lists of this checkout, with the hosts' file in its place; it is what the hosts get."""
    lists = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    try:
        listed = subprocess.run(lists, cwd=ROOT, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnusableError(f"{ROOT}: the hosts get what git lists, and it lists nothing: {error}") from error
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tree / name)
    shutil.copy(hosts, tree / HOSTS)


def _run_all(names: Sequence[str], tree: Path, chosen: argparse.Namespace) -> dict[str, str]:
    """Run all hosts at once; return why those without results have none."""
    stamp = time.strftime("%Y%m%d-%H%M%S")

    def run(name: str) -> str:
        return _run(name, tree, f"{RUNS}{stamp}-{os.getpid()}-{name}", chosen)

    with ThreadPoolExecutor(len(names)) as pool:
        reasons = dict(zip(names, pool.map(run, names), strict=True))
    return {name: reason for name, reason in reasons.items() if reason}


def _run(name: str, tree: Path, run_name: str, chosen: argparse.Namespace) -> str:
    """Run one host and fetch its report folder; return why there is none, empty where there is."""
    into = chosen.report / name
    shutil.rmtree(into, ignore_errors=True)
    place = Path(os.environ.get("TMT_WORKDIR_ROOT", "/var/tmp/tmt")) / run_name  # noqa: S108 - tmt's own place
    command = (
        *(sys.executable, "-m", "tmt", "--root", str(tree)),
        *("run", "--id", str(place), "--environment", f"{host.NAME}={name}"),
        *STEPS,
        *("plan", "--name", f"^/nightly/fleet/{re.escape(name)}$"),
    )
    started = time.monotonic()
    status, said = _tmt(command, chosen.hours * 3600)
    found = next(place.glob(f"**/data/{name}/summary.json"), None)
    if found is None:
        say(name, f"no results; tmt's log: {place / 'log.txt'}")
        return f"tmt: {status}: {said}; its log: {place / 'log.txt'}"
    shutil.copytree(found.parent, into)
    shutil.rmtree(place)
    say(name, f"results after {time.monotonic() - started:.0f} s")
    return ""


def _tmt(command: Sequence[str], seconds: float) -> tuple[str, str]:
    """Run tmt in a session of its own; return how it ended and the last line that it printed."""
    process = subprocess.Popen(
        command,
        env={**os.environ, "NO_COLOR": "1", "TMT_SHOW_TRACEBACK": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        status = f"exit status {process.returncode}"
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        status = f"killed after {seconds / 3600:g} hours"
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return status, lines[-1] if lines else "it printed nothing"

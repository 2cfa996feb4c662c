"""Hosts of a fleet in network namespaces: each has a name, an ssh server and a /var/tmp of its own.

It takes root. The namespaces are connected with one more, in which the fleet's own side runs; nothing of it
is seen outside of them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

NEEDS = ("ip", "setpriv", "unshare", "ssh", "ssh-keygen", "sshd", "rsync")
SECONDS = 20.0
OURS = "x2apic-"
"""How the names of our namespaces begin; a process id follows."""
SERVER = """
mount -t tmpfs none /var/tmp && mkdir -p /run/sshd && hostname {name} && exec {sshd} -D -e -f /dev/null \\
    -h {home}/host -o AuthorizedKeysFile={home}/key.pub -o StrictModes=no -o PidFile=none -o UsePAM=no
"""


def lacks() -> str:
    """Return what a lab needs and this machine has not; empty if nothing."""
    if os.geteuid() != 0:
        return "it takes root"
    absent = [name for name in NEEDS if _which(name) is None]
    return f"no {', '.join(absent)} in the PATH" if absent else ""


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


@dataclass(frozen=True)
class Lab:
    """Addresses by host name, and the prefix of commands that run on the fleet's own side."""

    addresses: dict[str, str]
    key: Path
    inside: tuple[str, ...]


@contextmanager
def lab(home: Path, names: Sequence[str]) -> Iterator[Lab]:
    """Make hosts, and remove them at the end, however it comes."""
    _clear()
    for key in ("host", "key"):
        _do("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / key))
    with ExitStack() as stack:
        own = stack.enter_context(_namespace(f"{OURS}{os.getpid()}"))
        addresses = {}
        for number, name in enumerate(names):
            other = stack.enter_context(_namespace(f"{own}-{name}"))
            addresses[name] = _connect(own, other, number)
            stack.enter_context(_server(other, name, home))
        for address in addresses.values():
            _await(own, address, home / "key")
        yield Lab(addresses, home / "key", ("ip", "netns", "exec", own))


def _clear() -> None:
    """Remove the namespaces of labs whose process was killed."""
    listed = subprocess.run(("ip", "netns", "list"), check=True, capture_output=True, text=True).stdout
    for name in (line.split()[0] for line in listed.splitlines() if line.startswith(OURS)):
        if not Path("/proc", name.removeprefix(OURS).partition("-")[0]).exists():
            _do("ip", "netns", "del", name)


@contextmanager
def _namespace(name: str) -> Iterator[str]:
    _do("ip", "netns", "add", name)
    try:
        _do("ip", "-n", name, "link", "set", "lo", "up")
        yield name
    finally:
        _do("ip", "netns", "del", name)


def _connect(own: str, other: str, number: int) -> str:
    """Connect two namespaces and return the other's address (TEST-NET-2 of RFC 5737)."""
    link, base = f"host{number}", number * 4
    _do("ip", "-n", own, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", other)
    for namespace, device, last in ((own, link, base + 1), (other, "eth0", base + 2)):
        _do("ip", "-n", namespace, "addr", "add", f"198.51.100.{last}/30", "dev", device)
        _do("ip", "-n", namespace, "link", "set", device, "up")
    return f"198.51.100.{base + 2}"


@contextmanager
def _server(namespace: str, name: str, home: Path) -> Iterator[None]:
    script = SERVER.format(name=name, home=home, sshd=_which("sshd"))
    dies_with_us = ("setpriv", "--pdeathsig", "KILL")
    inside = ("ip", "netns", "exec", namespace, "unshare", "--uts", "--mount", "sh", "-c", script)
    with (home / f"{name}.log").open("w") as log:
        process = subprocess.Popen((*dies_with_us, *inside), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _await(own: str, address: str, key: Path) -> None:
    options = ("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i", str(key))
    command = ("ip", "netns", "exec", own, "ssh", *options, f"root@{address}", "true")
    until = time.monotonic() + SECONDS
    while subprocess.run(command, capture_output=True, check=False).returncode:
        if time.monotonic() > until:
            raise TimeoutError(f"no ssh server at {address} after {SECONDS:.0f} s")
        time.sleep(0.2)


def _do(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)

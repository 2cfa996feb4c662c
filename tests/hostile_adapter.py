"""An adapter that does one thing wrong, which its argument names, when a case reads MSR 80BH.

It starts fast: it knows one answer, which has the right form for every case of one RDMSR.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

TRIGGER = '"msr":"0x80b"'
MEGABYTE = 1 << 20

Message = dict[str, Any]

CAPABILITIES: Message = {
    "message": "capabilities",
    "protocol": 1,
    "name": "an adapter that does one thing wrong",
    "version": "1",
    "levels": ["vmx"],
    "vcpus": 1,
    "batch": 256,
    "memory": "0x100000",
    "physical-address-width": 46,
    "x2apic": 1,
    "apic-version": "0x1060015",
    "msrs": [
        ["0x481", "0xff00000016"],
        ["0x482", "0xfffbfffe0401e172"],
        ["0x483", "0x7fffff00036dff"],
        ["0x484", "0xf3ff000011ff"],
        ["0x48b", "0x7fff00000000"],
    ],
}
OBSERVED: Message = {
    "entries": [{"outcome": "entered"}],
    "steps": [
        {
            "outcomes": [{"outcome": "value", "value": "0x3", "upper-clear": 1}],
            "delivered": [],
            "physical": {"outcome": "fault", "vector": 13, "error-code": 0},
        }
    ],
    "finals": [{"page": [], "rvi": 0, "svi": 0, "pid": [], "physical": [], "activity": 0, "blocking": 0}],
}


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(message: Message) -> None:
    write(json.dumps(message).encode() + b"\n")


def hang(_: Message) -> None:
    time.sleep(600)


def die(_: Message) -> None:
    os.abort()


def leave(_: Message) -> None:
    sys.stderr.write("that was too much\n")
    sys.exit(3)


def die_within_a_line(right: Message) -> None:
    write(json.dumps(right).encode()[:40])
    sys.exit(0)


def leave_a_child(_: Message) -> None:
    subprocess.Popen(["sleep", "600"])
    sys.exit(4)


def close_output(_: Message) -> None:
    os.close(1)
    time.sleep(600)


def flood_with_bytes(_: Message) -> None:
    while True:
        write(b"x" * MEGABYTE)


def flood_with_lines(_: Message) -> None:
    while True:
        write(b"{}\n" * 10000)


def flood_stderr(right: Message) -> None:
    for _ in range(64):
        sys.stderr.write("y" * MEGABYTE)
    say(right)


def flood_stderr_for_ever(_: Message) -> None:
    while True:
        sys.stderr.write("y" * MEGABYTE)


def a_long_line(right: Message) -> None:
    say({**right, "reason": "z" * 10 * MEGABYTE})


def many_objects(_: Message) -> None:
    write(b'{"a":[' + b"{}," * 340000 + b"{}]}\n")


def answer_twice(right: Message) -> None:
    say(right)
    say(right)


def next_first(right: Message) -> None:
    say({**right, "seq": right["seq"] + 1})
    say(right)


def stay_silent(_: Message) -> None:
    pass


def changed(**keys: Any) -> Callable[[Message], None]:
    return lambda right: say({**right, **keys})


def without(key: str) -> Callable[[Message], None]:
    return lambda right: say({name: value for name, value in right.items() if name != key})


def lines(data: bytes) -> Callable[[Message], None]:
    return lambda _: write(data + b"\n")


def replaced(old: str, new: str) -> Callable[[Message], None]:
    def say_so(right: Message) -> None:
        text = json.dumps(right)
        assert old in text
        write(text.replace(old, new, 1).encode() + b"\n")

    return say_so


WAYS: dict[str, Callable[[Message], None]] = {
    "hang": hang,
    "stay-silent": stay_silent,
    "die": die,
    "leave": leave,
    "die-within-a-line": die_within_a_line,
    "leave-a-child": leave_a_child,
    "close-output": close_output,
    "flood-with-bytes": flood_with_bytes,
    "flood-with-lines": flood_with_lines,
    "flood-stderr": flood_stderr,
    "flood-stderr-for-ever": flood_stderr_for_ever,
    "a-long-line": a_long_line,
    "many-objects": many_objects,
    "answer-twice": answer_twice,
    "next-first": next_first,
    "seq-of-another": changed(seq=7),
    "seq-a-string": changed(seq="1"),
    "seq-true": changed(seq=True),
    "seq-a-fraction": changed(seq=1.0),
    "no-seq": without("seq"),
    "no-message": without("message"),
    "no-steps": without("steps"),
    "greets-again": changed(message="capabilities"),
    "another-key": changed(verdict="conforms"),
    "no-utf-8": lines(b'{"message":"\xff\xfe"}'),
    "a-nul-byte": lines(b"{\0}"),
    "no-json": lines(b"Segmentation fault"),
    "an-empty-line": lines(b""),
    "an-array": lines(b"[]"),
    "deep": lines(b"[" * 100000),
    "nan": replaced('"vector": 13', '"vector": NaN'),
    "many-digits": replaced('"vector": 13', '"vector": ' + "9" * 100000),
    "a-key-twice": replaced('"seq":', '"seq": 0, "seq":'),
    "vector-256": replaced('"vector": 13', '"vector": 256'),
    "vector-negative": replaced('"vector": 13', '"vector": -1'),
    "vector-a-fraction": replaced('"vector": 13', '"vector": 13.0'),
    "vector-true": replaced('"vector": 13', '"vector": true'),
    "activity-4": replaced('"activity": 0', '"activity": 4'),
    "rvi-too-wide": replaced('"rvi": 0', '"rvi": 256'),
    "unknown-outcome": replaced('"fault"', '"fauld"'),
    "value-too-wide": replaced('"0x3"', '"0x10000000000000000"'),
    "value-decimal": replaced('"0x3"', "3"),
    "a-step-too-many": replaced(
        '"steps": [',
        '"steps": [{"outcomes": [{"outcome": "completed"}], "delivered": [], "physical": null}, ',
    ),
    "a-word-off-the-page": replaced('"page": []', '"page": [["0x1000", "0x0"]]'),
    "a-word-twice": replaced('"page": []', '"page": [["0x80", "0x1"], ["0x080", "0x2"]]'),
    "half-a-descriptor": replaced('"pid": []', '"pid": ["0x0", "0x0"]'),
    "broken": lambda right: say({"message": "broken", "seq": right["seq"], "reason": "no memory left"}),
}


def main(way: str) -> None:
    for line in sys.stdin:
        try:
            asked = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if asked["message"] == "stop":
            sys.stderr.write("stopped\n")
            return
        if asked["message"] == "hello":
            say(CAPABILITIES)
            continue
        if asked["message"] != "run" or asked["steps"][0]["step"] != "rdmsr":
            continue
        right = {"message": "observation", "seq": asked["seq"], **OBSERVED}
        if TRIGGER in line:
            WAYS[way](right)
        else:
            say(right)


if __name__ == "__main__":
    main(sys.argv[1])

"""``python -m runner check``, and the files it looks at."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from spoken import case
from spoken import file as spoken_file

from runner.language import compiled, loading
from runner.language.loading import (
    ROOT,
    SPECS,
    InvalidScenario,
    load,
    load_all,
    named_setups,
    scenario_files,
    stray_files,
)
from runner.language.ordering import unordered_posts
from runner.reading.problems import MalformedError


def check(*paths: object, cwd: Path = ROOT) -> tuple[int, list[str]]:
    command = [sys.executable, "-m", "runner", "check", *map(str, paths)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


@pytest.mark.parametrize(("arguments", "status"), [(["--help"], 0), ([], 2), (["chek"], 2)])
def test_what_can_be_done(arguments: list[str], status: int) -> None:
    command = [sys.executable, "-m", "runner", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert "check scenario files without running them" in (done.stdout if status == 0 else done.stderr)


def written(folder: Path, name: str, data: bytes) -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_the_corpus_is_right() -> None:
    status, [line] = check()
    assert status == 0
    assert line.split()[1] == "files,"


def test_counts(tmp_path: Path) -> None:
    written(
        tmp_path,
        "a.yaml",
        spoken_file("vary: {n: 1..1200}\nsetup: {tpr-threshold: $n}", "steps: [{nop: true}]"),
    )
    written(tmp_path, "b.yaml", spoken_file(""))
    assert check(tmp_path) == (0, ["2 files, 3 cases, 1,202 points"])


def test_every_mistake_of_every_file(tmp_path: Path) -> None:
    one = written(tmp_path, "a.yaml", spoken_file("setup: {rvi: 256}", "setup: {svi: 256}"))
    other = written(tmp_path, "b.yaml", b"")
    assert check(tmp_path) == (
        2,
        [
            f"{one}:7:18: `256` does not fit; wanted a number of 8 bits (0 to 0xff) or a $name",
            f"{one}:13:18: `256` does not fit; wanted a number of 8 bits (0 to 0xff) or a $name",
            f"{other}:1:1: the file is empty; a scenario has title, level and cases",
        ],
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    status, [line] = check(tmp_path / "no.yaml")
    assert status == 2
    assert line == f"{tmp_path}/no.yaml:1:1: cannot be read: No such file or directory"


def test_a_folder_without_scenarios(tmp_path: Path) -> None:
    assert check(tmp_path) == (2, [f"no scenario files under {tmp_path}"])


POSTS = """
vcpus: {0: {}, 1: {}, 2: {}}
steps:
  - {vcpu: 0, post: {to: 2, vectors: [0x31], notify: none}}
  - {barrier: BETWEEN}
  - {vcpu: 1, post: {to: 2, vectors: [0x41], notify: none}}
"""


OVER_THE_THIRD = """{vcpu: 0, barrier: x}
  - {vcpu: 2, barrier: x}
  - {vcpu: 2, barrier: z}
  - {vcpu: 1, barrier: z}"""


def test_a_warning_is_no_mistake(tmp_path: Path) -> None:
    data = spoken_file(POSTS.replace("{barrier: BETWEEN}", "{nop: true}"), setup="{base: posted}")
    path = written(tmp_path, "a.yaml", data)
    status, [warning, _] = check(path)
    assert status == 0
    assert warning.startswith(f"{path}:12:1: warning: no barrier orders this post and that of line 10")


@pytest.mark.parametrize(
    ("between", "unordered"),
    [
        ("{barrier: all}", []),
        ("{nop: true}", [(0, 2)]),
        ("{vcpu: 0, barrier: x}\n  - {vcpu: 1, barrier: x}", []),
        (OVER_THE_THIRD, []),
        ("{vcpu: 0, barrier: x}\n  - {vcpu: 2, barrier: x}", [(0, 3)]),
        ("{vcpu: 1, nop: true}", [(0, 2)]),
    ],
)
def test_what_a_barrier_orders(between: str, unordered: list[tuple[int, int]]) -> None:
    read = case(POSTS.replace("{barrier: BETWEEN}", between), "{base: posted}")
    assert list(unordered_posts(read.points[0].program)) == unordered


@pytest.mark.parametrize(
    ("after", "unordered"),
    [
        ("{barrier: all}", []),
        ("{vcpu: 0, barrier: x}\n  - {vcpu: 1, barrier: x}", [(0, 2)]),
        ("{vcpu: 0, barrier: x}\n  - {vcpu: 2, barrier: x}", [(0, 2)]),
    ],
)
def test_the_order_of_posts_is_nothing_to_a_target_that_waits_for_both(
    after: str, unordered: list[tuple[int, int]]
) -> None:
    steps = POSTS.replace("{barrier: BETWEEN}", "{vcpu: 1, nop: true}") + f"  - {after}\n"
    assert list(unordered_posts(case(steps, "{base: posted}").points[0].program)) == unordered


def test_only_four_places_are_collected() -> None:
    found = scenario_files()
    assert SPECS / "vmx" / "rdmsr" / "own-page.yaml" in found
    assert not {"rules.yaml", "setups.yaml"} & {path.name for path in found}
    assert scenario_files([SPECS / "vmx"]) == [path for path in found if path.is_relative_to(SPECS / "vmx")]
    assert scenario_files([ROOT]) == found
    assert stray_files([SPECS]) == []


def test_a_path_is_itself_and_comes_once(tmp_path: Path) -> None:
    path = written(tmp_path, "a.txt", b"")
    assert scenario_files([path, path, tmp_path]) == [path]


@pytest.fixture
def specs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of the specs that may be written to."""
    shutil.copytree(SPECS, tmp_path / "specs")
    copied = {"ROOT": tmp_path, "SPECS": tmp_path / "specs", "NIGHTLY": tmp_path / "specs/sweeps/nightly"}
    for name, path in copied.items():
        monkeypatch.setattr(loading, name, path)
    monkeypatch.setattr(compiled, "FOLDER", tmp_path / ".cache")
    return tmp_path / "specs"


def test_stray_files_are_found(specs: Path) -> None:
    for name in ("vmx/lost.yaml", "vmx/rdmsr/deep/lost.yaml", "vmx/rdmsr/lost.yml"):
        (specs / name).parent.mkdir(exist_ok=True)
        (specs / name).write_text("")
        assert stray_files([specs]) == [Path("specs") / name]
        (specs / name).unlink()


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("sweeps/a.yaml", "steps: [{nop: true}]", "a sweep without `expect: model`"),
        ("found/a.yaml", "expect: model", "found/a.yaml:7:5: `expect: model` outside specs/sweeps"),
        ("guest/identity/a.yaml", "steps: [{nop: true}]", "level vmx in specs/guest; move the file"),
    ],
)
def test_what_the_place_of_a_file_asks_for(specs: Path, name: str, body: str, message: str) -> None:
    (specs / name).parent.mkdir(exist_ok=True, parents=True)
    (specs / name).write_bytes(spoken_file(body))
    with pytest.raises(InvalidScenario, match=message):
        load(specs / name)


@pytest.mark.parametrize("text", ["", "registers: {set: [no-control], says: x}", "registers: 5", "[]"])
def test_named_setups_that_are_wrong(specs: Path, text: str) -> None:
    (specs / "setups.yaml").write_text(text)
    with pytest.raises(MalformedError, match=r"specs/setups\.yaml:1:"):
        named_setups.__wrapped__()


def test_messages(tmp_path: Path) -> None:
    paths = [written(tmp_path, name, b"") for name in ("a.yaml", "b.yaml")]
    with pytest.raises(InvalidScenario) as raised:
        load_all(paths)
    assert [message.partition(": ")[0] for message in raised.value.messages] == [
        f"{path}:1:1" for path in paths
    ]


def test_the_cache_gives_the_same(specs: Path, tmp_path: Path) -> None:
    path = specs / "vmx" / "rdmsr" / "every-msr.yaml"
    first = load(path)
    [kept] = (tmp_path / ".cache").iterdir()
    assert load(path) == first
    whole = kept.read_bytes()
    for damage in (b"", b"\x80", whole[:-9], whole[:32] + pickle.dumps("no scenario"), whole[:32] + b"\x80"):
        kept.write_bytes(damage)
        assert load(path) == first
        assert kept.read_bytes() != damage
    path.write_text(path.read_text().replace("256", "all 256"))
    assert load(path) != first
    assert list((tmp_path / ".cache").iterdir()) == [kept]
    load(specs / "vmx" / "rdmsr" / "own-page.yaml")
    assert len(list((tmp_path / ".cache").iterdir())) == 2


def test_a_cache_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "FOLDER", Path("/proc/no-such-folder"))
    assert load(SPECS / "vmx" / "rdmsr" / "own-page.yaml").cases

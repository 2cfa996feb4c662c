"""What an audit reads: YAML, the text of two kernels in any log, and what is wrong with each."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from audits import DUMPS, mistakes, sound

from runner.apic import Fill, VirtualApicPage
from runner.auditing import yaml_dump
from runner.auditing.dump import InvalidDump, load, parse
from runner.auditing.state import Dump, Read, VcpuState
from runner.program import MsrEntry, MsrLists
from runner.vmx import CONTROL_FIELDS, FIELDS_BY_NAME, Field, MsrBitmap

LINUX = (DUMPS / "linux-6.dmesg").read_text("utf-8")
XEN = (DUMPS / "xen-4.17.log").read_text("utf-8")
PREFIX = re.compile(r"^\[ *[\d.]+\] (kvm_intel: )?", re.MULTILINE)


def dumped(text: str) -> Dump:
    return parse(text.encode(), "dump")


def test_linux() -> None:
    dump = load(DUMPS / "linux-6.dmesg")
    assert dump.form == "the text of dump_vmcs"
    assert dump.remarks == (
        "virtual processor 0 is VMCS 00000000c3d1a001, line 3",
        "virtual processor 1 is VMCS 000000007711e002, line 28",
    )
    first, second = dump.vcpus
    assert first.fields == {
        Field.PIN_BASED_CONTROLS: 0xFF,
        Field.PRIMARY_PROCESSOR_BASED_CONTROLS: 0xB5A26DFA,
        Field.SECONDARY_PROCESSOR_BASED_CONTROLS: 0x061017FA,
        Field.TERTIARY_PROCESSOR_BASED_CONTROLS: 0x10,
        Field.VM_ENTRY_CONTROLS: 0xD3FF,
        Field.VM_EXIT_CONTROLS: 0x2BEFFF,
        Field.EXCEPTION_BITMAP: 0x60042,
        Field.TPR_THRESHOLD: 0,
        Field.VIRTUAL_APIC_ADDRESS: 0x360524000,
        Field.POSTED_INTERRUPT_NOTIFICATION_VECTOR: 0xF2,
        Field.GUEST_INTERRUPT_STATUS: 0x5100,
        Field.GUEST_INTERRUPTIBILITY_STATE: 0,
        Field.GUEST_ACTIVITY_STATE: 0,
        Field.GUEST_PENDING_DEBUG_EXCEPTIONS: 0,
        Field.IA32_DEBUGCTL: 0,
        Field.VM_ENTRY_INTERRUPTION_INFORMATION: 0,
    }
    assert (first.interrupt_flag, first.trap_flag, first.cpl) == (True, False, 0)
    assert second.interrupt_flag is False
    assert (first.msr_bitmap, first.page.word(0x20), first.apic_mode) == (None, None, None)


def test_the_cpl_is_the_dpl_of_ss() -> None:
    first, second = dumped(LINUX.replace("attr=0x0c093", "attr=0x0c0f3", 1)).vcpus
    assert (first.cpl, second.cpl) == (3, 0)
    first, _ = dumped(XEN.replace("0018 0c093", "0023 0c0d3")).vcpus
    assert first.cpl == 2


def test_an_older_linux_without_the_address_of_the_vmcs() -> None:
    dump = load(DUMPS / "linux-5.journal")
    assert dump.remarks == ("virtual processor 0 is VPID 0x0001, line 1",)
    [state] = dump.vcpus
    assert state.fields[Field.SECONDARY_PROCESSOR_BASED_CONTROLS] == 0xFA
    assert Field.TERTIARY_PROCESSOR_BASED_CONTROLS not in state.fields
    assert Field.VIRTUAL_APIC_ADDRESS not in state.fields


def test_xen() -> None:
    dump = load(DUMPS / "xen-4.17.log")
    assert dump.form == "Xen's VMCS dump"
    assert [state.name for state in dump.vcpus] == ["0", "1"]
    first, second = dump.vcpus
    assert first.fields[Field.SECONDARY_PROCESSOR_BASED_CONTROLS] == 0x17F3
    assert second.fields[Field.SECONDARY_PROCESSOR_BASED_CONTROLS] == 0x17F2
    assert first.fields[Field.GUEST_INTERRUPT_STATUS] == 0
    assert first.fields[Field.POSTED_INTERRUPT_NOTIFICATION_VECTOR] == 0xF4
    assert (first.interrupt_flag, first.cpl, second.cpl) == (True, 0, None)
    assert Field.VIRTUAL_APIC_ADDRESS not in first.fields


def test_the_msr_lists_of_linux() -> None:
    lists = (
        "[  812.104411] kvm_intel: MSR guest autoload:\n"
        "[  812.104411] kvm_intel:    0: msr=0x00000600 value=0x0000000000000000\n"
        "[  812.104411] kvm_intel:    1: msr=0x00000808 value=0x0000000000000020\n"
        "[  812.104411] kvm_intel: MSR host autoload:\n"
        "[  812.104411] kvm_intel:    0: msr=0x00000600 value=0x0000000000000001\n"
    )
    place = "[  812.104412] kvm_intel: *** Host State ***"
    first, second = dumped(LINUX.replace(place, lists + place)).vcpus
    assert first.msr_lists.entry_load == (MsrEntry(0x600, 0), MsrEntry(0x808, 0x20))
    assert (first.msr_lists.exit_store, first.msr_lists.exit_load) == ((), (MsrEntry(0x600, 1),))
    assert second.msr_lists == MsrLists()


def test_several_domains_of_xen() -> None:
    more = XEN.replace(">>> Domain 3 <<<", ">>> Domain 4 <<<")
    assert [state.name for state in dumped(XEN + more).vcpus] == ["d3v0", "d3v1", "d4v0", "d4v1"]


def test_what_xen_prints_when_a_domain_crashes() -> None:
    start, end = (
        XEN.index("(XEN) [2026-03-02 10:11:12.103] *** Guest"),
        XEN.index("(XEN) [2026-03-02 10:11:12.104] \tVCPU 1"),
    )
    dump = dumped("(XEN) Failed vm entry\n(XEN) ************* VMCS Area **************\n" + XEN[start:end])
    assert (dump.form, dump.remarks) == ("Xen's VMCS dump", ("virtual processor 0 is VPID 0x1c3c, line 3",))
    assert [state.name for state in dump.vcpus] == ["0"]


@pytest.mark.parametrize("quote", ["", "> "])
def test_lines_that_a_mail_program_broke(quote: str) -> None:
    broken = re.sub(r"(DebugExceptions|virt-APIC addr) = ", rf"\1 =\n{quote}", LINUX)
    text = "".join(quote + line for line in broken.splitlines(keepends=True)).replace(quote * 2, quote)
    assert [state.fields for state in dumped(text).vcpus] == [state.fields for state in dumped(LINUX).vcpus]


@pytest.mark.parametrize("prefix", ["", "<3>[  812.104402] ", "Mar 02 10:11:12 host kernel: ", "(XEN) "])
def test_what_a_log_puts_before_a_line_plays_no_part(prefix: str) -> None:
    plain = PREFIX.sub("", LINUX)
    text = "".join(prefix + line for line in plain.splitlines(keepends=True))
    assert [state.fields for state in dumped(text).vcpus] == [state.fields for state in dumped(LINUX).vcpus]


def test_of_one_vmcs_the_last_dump_counts() -> None:
    again = LINUX.replace("SVI|RVI = 51|00", "SVI|RVI = 51|61").replace("InterruptStatus = 5100\n", "\n")
    dump = dumped(LINUX + again)
    assert [state.fields[Field.GUEST_INTERRUPT_STATUS] for state in dump.vcpus] == [0x5161, 0]
    assert dump.remarks[0].endswith(", the last of 2 dumps")


def test_bytes_of_a_log_that_are_no_text() -> None:
    assert parse(b"\xff\xfe garbage\n" + LINUX.encode(), "dump").vcpus[0].line == 4


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "PinBased=0x000000ff EntryControls=0000d3ff ExitControls=002befff",
            "PinBased=",
            "16:36: nothing for PinBased; wanted a hexadecimal number of at most 32 bits",
        ),
        ("PinBased=0x000000ff", "PinBased=0x1000000ff", "16:36: `0x1000000ff` for PinBased"),
        ("CPUBased=0xb5a26dfa", "CPUBased=b5a2xdfa", "15:36: `b5a2xdfa` for CPUBased"),
        ("SVI|RVI = 51|00", "SVI|RVI = 51", "22:37: `51` for SVI|RVI; wanted two bytes"),
        ("attr=0x0c093", "attr=0x", "8:50: `0x` for SS"),
        ("CPUBased=0xb5a26dfa ", "", "3:27: this dump has no CPUBased; copy it to its last line"),
    ],
)
def test_a_line_that_is_cut_off(old: str, new: str, said: str) -> None:
    [problem] = mistakes(LINUX.replace(old, new, 1))
    assert problem.startswith(said)


def test_a_dump_without_its_end() -> None:
    [problem] = [*mistakes(LINUX[: LINUX.index("[  812.104414]")])][:1]
    assert problem == "3:27: this dump has no PinBased; copy it to its last line, `Virtual processor ID`"


def test_a_dump_without_its_beginning() -> None:
    [problem] = mistakes(LINUX[LINUX.index("[  812.104414]") : LINUX.index("[  812.204402]")])
    assert problem.startswith("1:27: a dump without its beginning; copy it from `*** Guest State ***` on")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: the file is empty; an audit reads YAML or the text of a VMCS dump"),
        ("all: {}", "1:1: `vcpus` is missing: Each virtual processor by its number, over what `all` says"),
        ("vcpus: {}", "1:8: a mapping of 0; wanted virtual processors by number"),
        ("vcpus: {a: {}}", "1:9: unknown key `a` in virtual processors by number; write `0`, `1` and so on"),
        ("vcpus: {0: {control: {}}}", "1:13: unknown key `control` in what is set for a virtual processor"),
        ("vcpus: {0: {controls: {secondary: 0x100000000}}}", "1:35: `0x100000000`"),
        (
            "vcpus: {0: {controls: {secondary: [virtualise-x2apic-mode]}}}",
            "1:36: `virtualise-x2apic-mode`; wanted",
        ),
        (
            "vcpus: {0: {controls: {primary: [virtualize-x2apic-mode]}}}",
            "1:34: `virtualize-x2apic-mode` is no primary control; it stands in `secondary`",
        ),
        (
            "vcpus: {0: {fields: {virtual-apic-adress: 0}}}",
            "1:22: unknown key `virtual-apic-adress` in VMCS fields; did you mean 'virtual-apic-address'?",
        ),
        ("vcpus: {0: {fields: {virtual-apic-address: unset}}}", "1:44: `unset`; wanted"),
        ("vcpus: {0: {fields: {tpr-threshold: not-set}}}", "1:37: `not-set`; wanted a number of 32 bits"),
        ("vcpus: {0: {msr-bitmap: {read: none}}}", "1:25: `write` is missing: Which WRMSRs exit"),
        (
            "vcpus: {0: {msr-bitmap-file: x, msr-bitmap: {read: all, write: all}}}",
            "1:13: `msr-bitmap-file` beside",
        ),
        ("vcpus: {0: {reads: {APCID: 0}}}", "1:21: `APCID` is no x2APIC register; did you mean 'APICID'?"),
        ("vcpus: {0: {reads: {APICID: 0, 0x802: 1}}}", "1:32: `0x802` and `APICID` are one MSR; keep one"),
        ("vcpus: {0: {reads: {0x900: 0}}}", "1:21: unknown key `0x900`"),
        ("vcpus: {0: {virtual-apic-page: {APICID: 0, 0x20: 0}}}", "1:44: `0x20` and `APICID` are one word"),
        ("vcpus: {0: {apic-id: $id}}", "1:22: `$id`: nothing varies in a dump"),
        ("vcpus: {0: {}, 0: {}}", "1:16: `0` a second time"),
        ("capabilities: {pin: 0}\nvcpus: {0: {}}", "1:16: unknown key `pin` in VMX capability MSRs"),
        ("vcpus: [", "2:1: not YAML"),
        ("[ 12.5] BUG: unable to handle page fault", "1:1: neither YAML with `vcpus` nor a VMCS dump with"),
    ],
)
def test_a_file_that_is_no_dump(text: str, said: str) -> None:
    problems = mistakes(text)
    assert any(problem.startswith(said) for problem in problems), problems


def test_bytes_that_are_no_text_are_one_mistake() -> None:
    [problem] = mistakes(b"\x00\xff\xfe" * 99)
    assert problem.startswith("1:1: neither YAML with `vcpus` nor a VMCS dump with")


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(InvalidDump, match=r"no-such-file\.yaml:1:1: cannot be read: No such file"):
        load(Path("no-such-file.yaml"))


def test_all_lies_under_each_virtual_processor() -> None:
    zero, one = dumped(sound(one=False)).vcpus
    assert zero.fields[Field.MSR_BITMAP_ADDRESS] == one.fields[Field.MSR_BITMAP_ADDRESS] == 0x7000
    assert (zero.fields[Field.VIRTUAL_APIC_ADDRESS], one.fields[Field.VIRTUAL_APIC_ADDRESS]) == (
        0x10000,
        0x11000,
    )
    assert (one.page.word(0x20), one.page.word(0x30), one.page.word(0x40)) == (1, 0x60015, 0)


def test_a_read_of_one_replaces_that_of_all() -> None:
    [state] = dumped("all: {reads: {APICID: 5, TPR: 6}}\nvcpus: {0: {reads: {0x802: 7}}}").vcpus
    assert state.reads == (Read(0x802, 7), Read(0x808, 6))


def test_pages_from_files(tmp_path: Path) -> None:
    bitmap = MsrBitmap(
        reads=((0x1B, 0x1B), (0x802, 0x80F)), writes=((0x800, 0x8FF), (0xC0000080, 0xC0000082))
    )
    page = VirtualApicPage(Fill.TAGGED, words=((0x20, 7),)).to_bytes()
    (tmp_path / "bitmap.bin").write_bytes(bitmap.to_bytes())
    (tmp_path / "page.bin").write_bytes(page)
    path = tmp_path / "dump.yaml"
    path.write_text(
        "all: {msr-bitmap-file: bitmap.bin, virtual-apic-page-file: page.bin}\n"
        "vcpus: {0: {}, 1: {msr-bitmap: {read: none, write: none}, virtual-apic-page: {APICID: 8}}}"
    )
    zero, one = load(path).vcpus
    assert (zero.msr_bitmap, one.msr_bitmap) == (bitmap, MsrBitmap())
    assert zero.page.completed(Fill.ZERO).to_bytes() == page
    assert (zero.page.is_whole, one.page.word(0x20), one.page.word(0x24)) == (True, 8, zero.page.word(0x24))


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (None, "`page.bin` cannot be read: No such file or directory"),
        (4095, "`page.bin` has 4095 bytes; a page has 4096"),
        (4097, "`page.bin` has more bytes; a page has 4096"),
    ],
)
@pytest.mark.parametrize("key", ["virtual-apic-page-file", "msr-bitmap-file"])
def test_a_file_that_is_no_page(tmp_path: Path, key: str, size: int | None, said: str) -> None:
    if size is not None:
        (tmp_path / "page.bin").write_bytes(bytes(size))
    path = tmp_path / "dump.yaml"
    path.write_text(f"vcpus: {{0: {{{key}: page.bin}}}}")
    with pytest.raises(InvalidDump) as invalid:
        load(path)
    [problem] = invalid.value.problems
    assert (problem.line, problem.column, problem.message) == (1, 15 + len(key), said)


def test_what_is_left_out_is_not_known() -> None:
    [state] = dumped("vcpus: {0: {virtual-apic-page: {APICID: 7}}}").vcpus
    assert (state.page.word(0x20), state.page.word(0x24)) == (7, None)
    assert state == VcpuState("0", 1, page=state.page)


def test_the_schema_has_every_field_that_is_no_control_word() -> None:
    document = json.loads(yaml_dump.SCHEMA.read_text("utf-8"))
    given = document["$defs"]["fields"]["properties"]
    wanted = {
        name: {
            "$ref": f"#/$defs/{'address' if name.endswith('-address') else f'field{field.width}'}",
            "description": f"VMCS field {field.value:04X}H.",
        }
        for name, field in FIELDS_BY_NAME.items()
        if field not in CONTROL_FIELDS.values()
    }
    assert given == wanted


def test_its_page_shows_what_is_so() -> None:
    page = (Path(yaml_dump.__file__).with_name("README.md")).read_text("utf-8")
    [example] = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    shipped = (DUMPS / "both-read-2621447225.yaml").read_text("utf-8").partition("\n")[2]
    assert example == shipped
    properties = json.loads(yaml_dump.SCHEMA.read_text("utf-8"))["$defs"]["vcpu"]["properties"]
    keys = " ".join(re.findall(r"^\| (`[a-z-]+`(?:, `[a-z-]+`)*) \|", page, re.MULTILINE))
    assert set(re.findall(r"[a-z][a-z-]+", keys)) == set(properties)

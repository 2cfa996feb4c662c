"""Merging of setups, and what ``vary`` expands to."""

from __future__ import annotations

import pytest
from spoken import REGISTERS, TPR_ONLY, case, controls, mistakes, point
from spoken import file as spoken_file

from runner.apic import ApicMode, Fill, VirtualApicPage
from runner.program import Number, Page, PageAddress, Plain, Setup, Step, Wrmsr
from runner.scenario import Value
from runner.vmx import CONTROLS_BY_NAME, Field, MsrBitmap


def merged(file: str, case: str = "{}", vcpu: str = "{}") -> Setup:
    [read] = point(f"setup: {case}\nvcpus: {{0: {vcpu}}}", file).program.vcpus
    return read


def test_each_layer_lies_over_the_one_before() -> None:
    assert merged(
        "{rvi: 1, svi: 1, tpr-threshold: 1}", "{svi: 2, tpr-threshold: 2}", "{tpr-threshold: 3}"
    ) == Setup(rvi=1, svi=2, tpr_threshold=3)


def test_maps_merge() -> None:
    page = merged(
        "{virtual-apic-page: {fill: ones, TPR: 1, PPR: 1}}",
        "{virtual-apic-page: {TPR: 2}}",
        "{virtual-apic-page: {APICID: 3}}",
    ).page
    assert page == VirtualApicPage(Fill.ONES, words=((0x20, 3), (0x80, 2), (0xA0, 1)))


def test_a_word_has_one_value_under_two_spellings() -> None:
    page = merged(
        "{virtual-apic-page: {TPR: 1, ICR: 0x200000001}}", "{virtual-apic-page: {0x80: 5, 0x304: 7}}"
    ).page
    assert page.words == ((0x80, 5), (0x300, 1), (0x304, 7))


def test_a_vector_set_replaces_all_eight_words() -> None:
    page = merged("{virtual-apic-page: {IRR: [0x31, 0x51]}}", "{virtual-apic-page: {IRR: [0x31]}}").page
    assert [word for _, word in page.words] == [0, 1 << 17, 0, 0, 0, 0, 0, 0]


def test_lists_replace() -> None:
    assert merged("{eoi-exit-bitmap: [0x31]}", "{eoi-exit-bitmap: [0x51]}").eoi_exit_bitmap == frozenset(
        {0x51}
    )
    both = merged("{msr-bitmap: {read: [TPR], write: [TPR]}}", "{msr-bitmap: {read: [EOI]}}").msr_bitmap
    assert both == MsrBitmap(((0x80B, 0x80B),), ((0x808, 0x808),))


def test_set_replaces_set_and_adds_to_the_base() -> None:
    read = merged("{base: tpr-only, set: [hlt-exiting]}", "{set: [apic-register-virtualization]}")
    assert read.controls == controls(*REGISTERS)


def test_clear_comes_last() -> None:
    read = merged("{base: registers, clear: [use-tpr-shadow]}", "{set: [use-tpr-shadow]}")
    assert read.controls == controls(*(name for name in REGISTERS if name != "use-tpr-shadow"))


def test_a_case_can_take_another_base() -> None:
    assert merged("{base: registers, rvi: 1}", "{base: tpr-only}") == Setup(controls(*TPR_ONLY), rvi=1)


def test_what_the_base_says_lies_lowest() -> None:
    read = merged("{posted: {notification-vector: 0x50}, base: posted}", "{posted: {pir: [0x31]}}").posted
    assert read is not None
    assert (read.notification_vector, read.pir) == (0x50, frozenset({0x31}))


def test_the_value_of_a_field_is_replaced_whole() -> None:
    read = merged(
        "{fields: {virtual-apic-address: {page: own, add: 8}, tpr-threshold: 1}}",
        "{fields: {virtual-apic-address: {page: stale}}}",
    )
    assert read.fields == (
        (Field.VIRTUAL_APIC_ADDRESS, PageAddress(Page.STALE)),
        (Field.TPR_THRESHOLD, Number(1)),
    )


def test_handlers_merge_by_vector() -> None:
    read = merged(
        "{handlers: {eoi: true, 0x31: [{nop: true}], 0x51: []}}", "{handlers: {0x31: [{cli: true}]}}"
    )
    assert read.handlers == ((0x31, (Step(Plain.CLI),)), (0x51, ()))
    assert read.eoi


def ids(vary: str, use: str) -> list[str]:
    return [each.id for each in case(f"vary: {vary}\n{use}").points]


def test_a_case_without_vary_is_one_point_without_a_name() -> None:
    assert [each.id for each in case().points] == [""]


@pytest.mark.parametrize(
    ("vary", "expected"),
    [
        ("{n: [1, 0x2]}", ["n=1", "n=0x2"]),
        ("{n: 0xe..0x11}", ["n=0xe", "n=0xf", "n=0x10", "n=0x11"]),
        ("{n: 8..10}", ["n=8", "n=9", "n=10"]),
        ("{n: [0x1..0x2, 0xff, 4..5]}", ["n=0x1", "n=0x2", "n=0xff", "n=4", "n=5"]),
    ],
)
def test_values_are_spelled_as_in_the_file(vary: str, expected: list[str]) -> None:
    assert ids(vary, "setup: {rvi: $n}") == expected


def test_the_last_name_changes_fastest() -> None:
    assert ids("{mode: [xapic, disabled], n: [1, 2]}", "setup: {rvi: $n, apic-mode: $mode}") == [
        "mode=xapic,n=1",
        "mode=xapic,n=2",
        "mode=disabled,n=1",
        "mode=disabled,n=2",
    ]


def test_subsets() -> None:
    body = "vary: {more: {subsets-of: [hlt-exiting, nmi-exiting]}}\nsetup: {set: $more}"
    read = {each.id: each.program.vcpus[0].controls for each in case(body).points}
    assert read == {
        "more=none": controls(),
        "more=hlt-exiting": controls("hlt-exiting"),
        "more=nmi-exiting": controls("nmi-exiting"),
        "more=hlt-exiting+nmi-exiting": controls("hlt-exiting", "nmi-exiting"),
    }


def test_a_name_stands_for_a_list() -> None:
    body = "vary: {vectors: [[], [0x31, 0x51]]}\nsetup: {eoi-exit-bitmap: $vectors}"
    read = {each.id: each.program.vcpus[0].eoi_exit_bitmap for each in case(body).points}
    assert read == {"vectors=none": frozenset(), "vectors=0x31+0x51": frozenset({0x31, 0x51})}


def test_a_name_stands_for_keys_and_values_everywhere() -> None:
    body = """
        vary: {reg: [TPR, 0x80b], at: [0x24], v: [0x5], mode: [xapic], field: [tpr-threshold]}
        setup: {apic-mode: $mode, virtual-apic-page: {$at: $v}, fields: {$field: $v}}
        steps: [{wrmsr: {$reg: $v}}, {rdmsr: $reg, expect: {value: $v}}]
        after: {page: {$at: $v}}
    """.replace("\n        ", "\n")
    tpr, eoi = case(body).points
    assert [each.program.steps[0].action for each in (tpr, eoi)] == [Wrmsr(0x808, 5), Wrmsr(0x80B, 5)]
    assert tpr.expected.steps[1].outcome == Value(5)
    assert tpr.expected.after[0].page == ((0x24, 5),)
    assert tpr.program.vcpus[0] == Setup(
        apic_mode=ApicMode.XAPIC,
        page=VirtualApicPage(words=((0x24, 5),)),
        fields=((Field.TPR_THRESHOLD, Number(5)),),
    )


def test_what_does_not_vary_is_read_once() -> None:
    first, second = case("vary: {n: [1, 2]}\nsteps: [{nop: true}, {write-cr8: $n}]").points
    assert first.program.vcpus[0] is second.program.vcpus[0]
    first, second = case("vary: {n: [1, 2]}\nsetup: {rvi: $n}").points
    assert first.program.vcpus[0] != second.program.vcpus[0]


def test_a_mistake_of_one_value_is_reported_once() -> None:
    body = "vary: {n: 0..200, m: 0xff..0x2ff}\nsetup: {rvi: $n, svi: $m}"
    [message] = mistakes(spoken_file(body))
    assert message == "7:26: `0x100` does not fit; wanted a number of 8 bits (0 to 0xff) or a $name"


def test_two_names_in_one_list_are_two_items() -> None:
    body = "vary: {a: [use-tpr-shadow], b: [use-msr-bitmaps]}\nsetup: {set: [$a, $b]}"
    [point] = case(body).points
    assert point.id == "a=use-tpr-shadow,b=use-msr-bitmaps"


def test_a_name_that_is_a_key_misfits_by_one_of_its_values() -> None:
    body = "vary: {at: [0x24, 0x22], v: [1, 0x100000000]}\nsetup: {virtual-apic-page: {$at: 1, 0x28: $v}}"
    value, key = mistakes(spoken_file(body))
    assert (
        value == "7:37: `0x100000000` does not fit; wanted a number of 32 bits (0 to 0xffffffff) or a $name"
    )
    assert key.startswith(
        "8:33: unknown key `0x22` in the virtual-APIC page; or an offset that is a multiple"
    )


def test_every_control_can_be_set_by_name() -> None:
    for name in CONTROLS_BY_NAME:
        assert merged(f"{{set: [{name}]}}") == Setup(controls(name))

"""What reports say of results: failures, the summary, the table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import judged as j

from reports import summary
from reports.allure import MOST_ROWS, points_table
from reports.failure import explained
from reports.judged import Judged, tally
from reports.table import table
from runner.judging.deviations import Deviation, Instead
from runner.judging.verdict import Verdict, judge
from runner.outcome import Answer, BackendBroken, Completed, StepResult, Unsupported
from runner.program import Level
from runner.rulebook import catalogue
from runner.scenario import Case, Scenario

RULES = catalogue.load()
WRONG: Answer = replace(j.READ_SEEN, steps=(StepResult((Completed(0),)),))
LACKS: Answer = Unsupported("process-posted-interrupts: IA32_VMX_PINBASED_CTLS[39] = 0")


def judged(*answers: Answer, name: str = "asked", subject: str = "bochs", rule: str = j.RULE) -> Judged:
    points = [replace(j.READ, values=(("n", str(number)),)) for number in range(len(answers))]
    case = replace(j.case(*(points if len(points) > 1 else [j.READ]), rules=(rule,)), id=name)
    scenario = Scenario("specs/vmx/rdmsr/apic-id.yaml", "A title", Level.VMX, (case,))
    return Judged(scenario, case, subject, judge(case, answers, RULES))


def test_a_failure() -> None:
    reasons = [("VM entry", "it enters", "entry.one"), ("step 1", "it reads", "rdmsr.two")]
    text = explained(judged(WRONG), RULES, reasons)
    assert text.startswith(
        "specs/vmx/rdmsr/apic-id.yaml:4: asked on bochs: does not conform\n"
        "  Something is so\n"
        "  step 1, RDMSR APICID (802H) (line 6)\n"
        "    expected  value ABCD0001_00000003H\n"
        "    observed  value 0H\n"
        "  rule rdmsr.register-virtualization: With "
    )
    assert text.endswith(
        "  the reference model, VM entry:\n"
        "    it enters (entry.one)\n"
        "  the reference model, step 1:\n"
        "    it reads (rdmsr.two)\n"
        "  run again: pytest 'specs/vmx/rdmsr/apic-id.yaml::asked[bochs]' --backend bochs"
    )


def test_a_failure_of_many_points_shows_some() -> None:
    text = explained(judged(*[WRONG] * 20, j.READ_SEEN), RULES)
    assert "does not conform (21 points: 20 does not conform, 1 conforms)" in text
    assert text.count("    expected  ") == 3
    assert "  at n=2\n" in text
    assert "  and 17 more points: n=3, n=4, n=5, n=6, n=7, n=8, n=9, n=10, n=11, n=12, …" in text


def test_a_failure_of_what_is_broken_shows_the_log_and_no_rule() -> None:
    log = "\n".join(f"line {number}" for number in range(50))
    text = explained(judged(BackendBroken("no end record", log)), RULES)
    assert "asked on bochs: broken\n" in text
    assert "  no end record\n  the machine said:\n    line 30\n" in text
    assert "    line 49\n  run again: " in text
    assert "rule " not in text


def test_the_table_of_points_is_bounded_and_forgets_no_difference() -> None:
    few = judged(*[j.READ_SEEN] * 9, WRONG).result
    assert len(points_table(few.points).splitlines()) == 11
    many = judged(*[j.READ_SEEN] * 900, WRONG).result
    lines = points_table(many.points).splitlines()
    assert len(lines) == MOST_ROWS + 2
    assert lines[1].startswith("n=900,does not conform,")
    assert lines[-1] == f"and {901 - MOST_ROWS} more"


def test_the_tally() -> None:
    assert tally(judged(WRONG)) == ""
    assert tally(judged(LACKS, j.READ_SEEN)) == " (2 points: 1 unsupported, 1 conforms)"


def summed(*results: Judged, **known: object) -> summary.Summary:
    return summary.summarize(map(summary.record, results), {"bochs": {"version": "2.7", **known}})


def test_the_summary_counts_verdicts_and_areas() -> None:
    found = summed(judged(j.READ_SEEN), judged(WRONG, name="b"), judged(LACKS, rule="eoi.exit-bitmap"))
    bochs = found["subjects"]["bochs"]
    assert bochs["version"] == "2.7"
    assert {verdict: count for verdict, count in bochs["verdicts"].items() if count} == {
        "does not conform": 1,
        "unsupported": 1,
        "conforms": 1,
    }
    assert bochs["areas"] == {"rdmsr": {"conforms": 1, "does not conform": 1}, "eoi": {"unsupported": 1}}
    assert bochs["rules"][j.RULE] == {"conforms": 1, "does not conform": 1}
    assert [case["verdict"] for case in bochs["cases"]] == ["does not conform", "unsupported"]
    assert bochs["cases"][0]["id"] == "specs/vmx/rdmsr/apic-id.yaml::b"


def test_a_record_keeps_a_bounded_number_of_differences() -> None:
    assert len(summary.record(judged(*[WRONG] * 100))["differences"]) == summary.MOST_DIFFERENCES


def test_a_case_without_a_record_is_broken() -> None:
    one = judged(WRONG)
    record = summary.without_record(f"{one.id}[bochs]", "[gw0] linux\nit died", [one.scenario])
    assert (record["verdict"], record["reason"], record["subject"]) == ("broken", "it died", "bochs")
    assert (record["id"], record["rules"]) == (one.id, [j.RULE])
    assert record.keys() == summary.record(one).keys()


def test_a_summary_is_written_and_read(tmp_path: Path) -> None:
    found = summed(judged(WRONG))
    summary.write(found, tmp_path / "new" / "summary.json")
    assert summary.load(tmp_path / "new" / "summary.json") == found


def announced(*results: Judged, cases: tuple[Case, ...]) -> list[str]:
    scenario = Scenario("specs/vmx/rdmsr/apic-id.yaml", "A title", Level.VMX, cases)
    known = [Deviation((j.RULE,), Instead(), "reads zero", "link", name="b.yaml:7")]
    return summary.in_vain(known, [scenario], [summary.record(each) for each in results])


def test_deviations_in_vain() -> None:
    one, other = judged(j.READ_SEEN), judged(j.READ_SEEN, name="other")
    message = ["b.yaml:7: no case shows this deviation any more, remove it: reads zero"]
    assert announced(one, cases=(one.case,)) == message
    assert announced(one, cases=(one.case, other.case)) == []
    assert announced(one, other, cases=(one.case, other.case)) == message
    broken = judged(BackendBroken("no"), name="other")
    assert announced(one, broken, cases=(one.case, other.case)) == []
    lacks = judged(LACKS, name="other")
    assert announced(one, lacks, cases=(one.case, other.case)) == message
    assert announced(lacks, cases=(other.case,)) == []


def test_the_table() -> None:
    results = [
        judged(j.READ_SEEN, name="a"),
        judged(WRONG, name="b"),
        judged(WRONG, j.READ_SEEN, name="c"),
        judged(LACKS, rule="eoi.exit-bitmap"),
        judged(j.READ_SEEN, subject="model", name="a"),
    ]
    found = summed(*results) | {"absent": {"kvm": "no /dev/kvm"}}
    reason = "step 1, RDMSR APICID (802H): expected value ABCD0001_00000003H, observed value 0H"
    assert table(found, RULES.areas).splitlines() == [
        "rules  bochs 2.7                 model",
        "rdmsr  1, 2 FAIL                 1",
        "eoi    1 unsupported             -",
        "all    1, 2 FAIL, 1 unsupported  1",
        "kvm is not here: no /dev/kvm",
        "",
        f"bochs: does not conform: {reason}",
        "  specs/vmx/rdmsr/apic-id.yaml::b (rdmsr.register-virtualization)",
        "  specs/vmx/rdmsr/apic-id.yaml::c (rdmsr.register-virtualization): 1 of 2 points",
        "",
        "bochs: unsupported: process-posted-interrupts: IA32_VMX_PINBASED_CTLS[39] = 0",
        "  specs/vmx/rdmsr/apic-id.yaml::asked (eoi.exit-bitmap)",
    ]


def test_the_table_names_deviations_in_vain() -> None:
    text = table(summed(judged(j.READ_SEEN), **{"announced in vain": ["b.yaml:7: remove it"]}), RULES.areas)
    assert text.endswith("bochs: b.yaml:7: remove it")


def test_many_cases_with_one_lack_are_counted() -> None:
    lacking = summed(*(judged(Unsupported("no VMX"), name=f"case-{n:02}") for n in range(12)))
    lines = table(lacking, RULES.areas).splitlines()
    assert [line for line in lines if "case-" in line][-1].startswith(
        "  specs/vmx/rdmsr/apic-id.yaml::case-09"
    )
    assert lines[-1] == "  and 2 more"
    wrong = summed(*(judged(WRONG, name=f"case-{n:02}") for n in range(12)))
    assert sum("case-" in line for line in table(wrong, RULES.areas).splitlines()) == 12


def test_every_verdict_has_a_place_in_the_table() -> None:
    for verdict in Verdict:
        counts = {each.value: int(each is verdict) for each in Verdict}
        subjects = {"x": {"verdicts": counts, "areas": {"rdmsr": counts}, "cases": []}}
        assert table({"subjects": subjects}, RULES.areas).splitlines()[-1].split()[1] == "1"

"""What a scenario expects, in SDM words, for people."""

from __future__ import annotations

from runner.scenario import (
    Bits,
    Completes,
    EntryFails,
    Exit,
    Keep,
    OneOf,
    OutcomeExpected,
    Relative,
    StepExpected,
    Value,
    WordExpected,
    WordOneOf,
)
from runner.words import deliveries_words, entry_words, hexadecimal, outcome_words, reason_words


def expectation_words(expected: OutcomeExpected) -> str:
    """Say what a scenario expects of a step."""
    match expected:
        case Completes():
            return "completes"
        case Value(value):
            return f"value {hexadecimal(value)}"
        case Bits(ranges):
            return "bits " + ", ".join(_range_words(*one) for one in ranges)
        case Relative():
            return f"value {expected.value}"
        case Exit():
            return _expected_exit_words(expected)
        case EntryFails(entry):
            return entry_words(entry)
        case OneOf(choices):
            return " or ".join(step_expectation_words(choice) for choice in choices)
        case _:
            return outcome_words(expected)


def _range_words(high: int, low: int, least: int, most: int) -> str:
    return f"{high}:{low} from {hexadecimal(least)} to {hexadecimal(most)}"


def _expected_exit_words(expected: Exit) -> str:
    more = f", qualification {hexadecimal(expected.qualification)}" if expected.qualification else ""
    return f"VM exit {reason_words(expected.reason)}{more}"


def step_expectation_words(expected: StepExpected) -> str:
    """Say what a scenario expects of a step and which interrupts it wants delivered after it."""
    taken = deliveries_words((each.vector, each.at) for each in expected.delivers)
    return expectation_words(expected.outcome) + (f", delivering {taken}" if expected.delivers else "")


def word_expectation_words(expected: WordExpected) -> str:
    """Say what a scenario expects of a word."""
    match expected:
        case Keep():
            return expected.value
        case WordOneOf(choices):
            return " or ".join(word_expectation_words(choice) for choice in choices)
        case _:
            return hexadecimal(expected)

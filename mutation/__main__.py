"""``python -m mutation``: changes the reference model in small ways and asks the scenarios to notice.

Of each mutant of the model: killed (a case comes out otherwise), ended for taking too long, an error (the
model cannot be imported, no case was asked), or survived. A survivor is a missing case, or equivalent to
the model; those stand with their reason in `mutation/equivalent.yaml`. What is known is kept and not tried
again until the model, the runner or a scenario changes.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator, Sequence

from backends.faulty.private import FOLDER
from mutation import equivalent, mutants, record, session, trial
from mutation.mutant import Mutant
from mutation.result import Result
from mutation.session import End, Outcome, TrialError
from runner.reading.problems import MalformedError

LEAST_SECONDS, FACTOR = 5, 4
"""Processor time of a trial: this much at least, and else this many times that of the model as it is."""

FAILED, REFUSED = 1, 2


def main(arguments: Sequence[str]) -> int:
    """Try the mutants and print what became of them; return 1 unless each survivor is explained."""
    parser = argparse.ArgumentParser(prog="python -m mutation", description=__doc__)
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="only mutants of these, tpr.py")
    parser.add_argument("--sample", type=int, metavar="N", help="try N mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the choice (default 1)")
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="trials at a time (default 2)")
    options = parser.parse_args(arguments)
    modules = mutants.model(FOLDER)
    if unknown := sorted({*options.modules} - modules.keys()):
        parser.error(f"no module of the model: {', '.join(unknown)}; there are {', '.join(modules)}")
    every = [*mutants.mutants(modules)]
    try:
        explained = equivalent.load({mutant.id for mutant in every})
    except MalformedError as malformed:
        print(malformed)
        return REFUSED
    chosen = [mutant for mutant in every if not options.modules or mutant.module in options.modules]
    if options.sample is not None and options.sample < len(chosen):
        chosen = random.Random(options.seed).sample(chosen, options.sample)  # noqa: S311 - no secret
    try:
        found = dict(_tried(chosen, options.workers))
    except TrialError as failed:
        print(f"the trial of this mutant failed, as it says above; the run ends here:\n  {failed}")
        return FAILED
    result = Result(found, explained)
    print(*result.words(), sep="\n")
    return 0 if result.suffices else FAILED


def _tried(chosen: Sequence[Mutant], workers: int) -> Iterator[tuple[str, Outcome]]:
    """Yield the outcome of each mutant, by its id: those known first."""
    kept = record.read()
    known = [mutant for mutant in chosen if mutant.id in kept.known]
    yield from ((mutant.id, kept.known[mutant.id]) for mutant in known)
    left = [mutant for mutant in chosen if mutant.id not in kept.known]
    if not left:
        return
    listed = trial.cases()
    start = time.process_time()
    conforming = trial.conforming(listed)
    took = time.process_time() - start
    seconds = max(LEAST_SECONDS, round(FACTOR * took))
    print(f"{len(conforming)} of {len(listed)} cases conform on the model, in {took:.1f} s")
    print(f"{len(left)} mutants to try, {len(known)} known; a trial may take {seconds} s", flush=True)
    tried = session.outcomes(left, conforming, kept.killers, seconds=seconds, workers=workers)
    for count, (mutant, outcome) in enumerate(tried, 1):
        kept.add(mutant, outcome)
        if outcome.end is End.SURVIVED or count % 100 == 0:
            print(f"{count}/{len(left)} {outcome.end.value}: {mutant.id}", flush=True)
        yield mutant.id, outcome


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

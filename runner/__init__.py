"""The conformance core: scenarios, outcomes and verdicts; knows no backend, no pytest, no report format.

Read `vmx` and `apic` for the words, `program` for what a subject is asked to do, `outcome` for what it
answers and `scenario` for what a file says; then `language` for the way from a file to a scenario,
`rulebook` for the rules it cites, and `judging` for the way from an observation to a verdict. `reading` is
the strict YAML under all files.
"""

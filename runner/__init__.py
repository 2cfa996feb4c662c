"""The conformance core: scenarios, outcomes and verdicts.

Knows the SDM's words, but no backend, no pytest and no report format. Read `vmx` and `apic` for the
words, `program` for what a subject is asked to do, `outcome` for what it answers, `expectation` and
`scenario` for what a file says, `loading` for how it gets there, `verdict` for the judgement.
"""

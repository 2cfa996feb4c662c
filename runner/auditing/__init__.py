"""What a VMM has set, read from a dump: which rules it breaks, what the guest's x2APIC MSR accesses do."""

"""Door two: an external program that speaks JSON Lines, `adapters/README.md`, as a subject."""

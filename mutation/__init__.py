"""A mutation run: whether scenarios notice each small change of the reference model's text."""

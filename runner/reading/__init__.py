"""Strict YAML: nodes that know their line and column, held against a JSON Schema; what is wrong with them."""

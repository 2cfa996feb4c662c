"""The rules of `specs/rules.yaml`: what they say, who cites them, why some have no case."""

"""The layer above everything: what ``python -m runner`` can do, one module a command."""

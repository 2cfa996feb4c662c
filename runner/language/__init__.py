"""Scenario files: from YAML in the SDM's words to frozen `runner.scenario.Scenario` values."""

"""The tests: see the markers in pyproject.toml for what each folder holds."""

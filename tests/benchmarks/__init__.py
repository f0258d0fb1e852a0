"""Measurements, each a script: `python -m tests.benchmarks.NAME [--write]` from the project's root.

`--write` puts the section that a script prints into RESULTS.md.
"""

"""The report of a run: one self-contained HTML page, from the run folder alone."""

from dna_ray.report.page import report_page, write_report
from dna_ray.report.records import Run, read_run

__all__ = ["Run", "read_run", "report_page", "write_report"]

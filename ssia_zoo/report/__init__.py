"""Reports to look at: HTML pages, figures and tables of a model's answers, and of the difference of two models."""

from ssia_zoo.report.pictures import worst_mistakes
from ssia_zoo.report.validation import check_report, report_model, write_report

__all__ = ["check_report", "report_model", "worst_mistakes", "write_report"]

"""The answer of a study as files: figures, self-contained pages, and the finished trials as CSV.

All are written under another name and then renamed, so that a reader never sees half a file.
"""

from nas.report.front_csv import CSV_COLUMNS, write_front_csv
from nas.report.look import PLOT_CONFIG
from nas.report.pareto_figure import pareto_figure
from nas.report.pareto_page import write_pareto
from nas.report.progress_figure import progress_figure

__all__ = ["CSV_COLUMNS", "PLOT_CONFIG", "pareto_figure", "progress_figure", "write_front_csv", "write_pareto"]

"""The answer of a study as files: figures, self-contained pages, and the finished trials as CSV.

All are written under another name and then renamed, so that a reader never sees half a file.
"""

from nas.report.figures import FIGURES, TITLES, drawable, figures
from nas.report.front_csv import CSV_COLUMNS, write_front_csv
from nas.report.look import PLOT_CONFIG
from nas.report.pareto_figure import pareto_figure
from nas.report.pareto_page import write_pareto
from nas.report.pictures import PictureError, write_pictures
from nas.report.progress_figure import progress_figure
from nas.report.report_page import write_report
from nas.report.story import Story, tell

__all__ = [
    "CSV_COLUMNS",
    "FIGURES",
    "PLOT_CONFIG",
    "TITLES",
    "PictureError",
    "Story",
    "drawable",
    "figures",
    "pareto_figure",
    "progress_figure",
    "tell",
    "write_front_csv",
    "write_pareto",
    "write_pictures",
    "write_report",
]

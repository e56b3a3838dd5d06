"""Is a study sound, and what mends it if not: the database, its studies, and their files.

:mod:`examination` looks and :mod:`artifacts` looks at files; both only read. :mod:`treatment` mends.
"""

from nas.doctor.examination import Chart, examine
from nas.doctor.treatment import treat

__all__ = ["Chart", "examine", "treat"]

"""What every page is made of: one file, which needs no network."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path

from nas import files
from nas.report.look import plotly_js

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
"""What the browser may load: nothing that does not stand in the file. So nothing can leave the machine either."""


def write_page(path: str | Path, *, title: str, body: str, with_plots: bool, css: str = "") -> None:
    """Write a page, whole or not at all.

    Args:
        path: The file to write; its folder is made if it does not exist.
        title: What the browser's tab says.
        body: HTML.
        with_plots: Whether plotly.js is needed, which is 5 MB.
        css: Style beyond that of every page.
    """
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
    head += f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
    script = b"<script>" + plotly_js() + b"</script>" if with_plots else b""
    styled = f"{head}<style>{CSS}{css}</style>".encode()
    files.replace(path, styled + script + f"</head><body>{body}</body></html>\n".encode())


def facts_list(facts: Mapping[str, str]) -> str:
    """Return names and values as an HTML list."""
    entries = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items())
    return f"<dl>{entries}</dl>"


FRONT_NOTE = """<p class="note">Up and to the left is better. Bars are 95 % intervals: of the accuracy, for the number
of validation images and, where the table has ±, for the training seed; of the latency, that of its ratio to the bare
backbone. They do not hold that the best of many trials is shown. Move over a point, or touch it, to see where its
blocks stand.</p>
<noscript><p class="note">The plot needs JavaScript; the table holds the same front.</p></noscript>"""

PROGRESS_NOTE = """<p class="note">The dominated area is what of the plot above lies below and to the right of the
trials so far, up to a reference point a tenth of the front's extent below its least accurate and beyond its slowest
member. The dotted line marks the last trial that was more accurate, by more than one standard error, than all that were
at least as fast before; what the area grew since may be chance.</p>"""

CSS = """
html { overflow-y: scroll; }
body { font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: #222; background: #fff;
  max-width: 1200px; margin: 0 auto; padding: 16px; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 1.75rem 0 .5rem; }
.answer { border-left: 4px solid #0072b2; background: #f3f7fa; padding: .6rem .9rem; margin: 0 0 1rem; }
.plot { height: 600px; } .plot.low { height: 300px; } .note { font-size: .875rem; color: #555; max-width: 80ch; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .4rem .6rem; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #888; } tr.best { background: #f3f7fa; } tr.break td { color: #555; padding-top: 1rem; }
.badge { border: 1px solid #777; border-radius: 4px; padding: 0 .3rem; font-size: .8rem; white-space: nowrap; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 0; font-size: .9rem; }
dt { color: #555; } dd { margin: 0; }
@media screen and (max-width: 720px) {
  body { padding: 12px; } .plot { height: 560px; margin: 0 -8px; }
  thead { display: none; } tr { display: block; padding: .5rem 0; border-bottom: 1px solid #bbb; }
  td { display: flex; gap: .75rem; border: 0; padding: .1rem .25rem; }
  td[data-name]::before { content: attr(data-name); color: #555; flex: 0 0 7.5rem; }
}
@media print { .plot { break-inside: avoid; } }
"""

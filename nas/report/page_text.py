"""What report.html says beside its figures, how it looks, and what it does under a finger."""

from __future__ import annotations

PICKS_NOTE = """<p class="note">Accuracy is on the validation images: [low, high] is the 95 % interval for their choice,
± that for the training seed. A network is drawn as its stages, those with a block marked. The recommended one is the
fastest of those that beat the bare backbone beyond noise and are within noise of the best of them; where none beats it,
that is to add nothing.</p>"""

EFFECTS_NOTE = """<p class="note">What putting a block at a stage does to the bare backbone, over all that was trained:
from a model in which the effects add up, and in which each is drawn towards what its block and its stage do elsewhere,
the more so the less was trained with it. In brackets: the 95 % interval holds 0; after a search that tried again what
was good, intervals hold the truth in some 9 of 10 cases. Empty: never trained to the end. At "replace" it is compared
with the attention that the backbone brings along. Touch a cell, or move over it, for intervals and for matched pairs,
which differ in nothing but this one placement; the other blocks that they have in common make what it brings there
another figure than what it does alone.</p>"""

MACS_NOTE = """<p class="note">Each point is an architecture with blocks, compared with the bare backbone. On the
dashed line the latency would grow as the multiply-accumulates do; what lies above it costs more than it counts.</p>"""

TURNED_NOTE = """<p class="note">Crosses at the foot: beyond the limits, timed and not trained. The shaded region is
beyond the limit of latency; a limit of parameters has no place on these axes.</p>"""

CURVES_NOTE = """<p class="note">Validation accuracy after each epoch. A dotted line that ends with a cross was stopped:
its further epochs promised less than another training.</p>"""

COORDINATES_NOTE = """<p class="note">A line is a trial: the darker, the more accurate; thick ones are on the
front. Of more than 300 the most accurate are drawn.</p>"""

CSS = """
nav { font-size: .9rem; } nav a { margin-right: 1rem; color: #0072b2; }
.about { margin: 0 0 .6rem; color: #555; font-size: .9rem; } h3 { font-size: 1rem; margin: 1.4rem 0 .4rem; }
.plot.middle { height: 420px; } .wide { overflow-x: auto; } .plot.lines { min-width: 720px; margin: 0; }
.maps { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem 2rem; } .maps figure { margin: 0; }
figcaption { font-weight: 600; font-size: .9rem; }
.shown { border: 1px solid #ddd; border-radius: 6px; padding: .5rem .7rem; margin: .3rem 0 .6rem; min-height: 5.2rem; }
.shown .figures { display: block; font-size: .9rem; margin-top: .3rem; }
.shown:empty { display: none; }
details { margin: .6rem 0; } summary { cursor: pointer; color: #0072b2; font-size: .9rem; } li { font-size: .875rem; }
pre { background: #f5f5f5; padding: .6rem .8rem; overflow-x: auto; font-size: .8rem; } code { font-size: .8rem; }
tr.command td { padding-top: 0; } tr.command code { color: #555; } table.picks tr:not(.command) td { border-bottom: 0; }
.check table { font-size: .8rem; display: block; overflow-x: auto; overflow-wrap: normal; }
@media screen and (max-width: 720px) {
  .plot.middle { height: 460px; } .maps { grid-template-columns: minmax(0, 1fr); }
  .check tr { display: table-row; } .check thead { display: table-header-group; }
  .check td { display: table-cell; padding: .3rem .5rem; border-bottom: 1px solid #ddd; min-width: 4.5rem; }
  .check td:last-child { min-width: 12rem; }
  table.picks tr { border-bottom: 0; padding-bottom: 0; } tr.command { border-bottom: 1px solid #bbb; }
  tr.command td { display: block; overflow-wrap: anywhere; }
}
@media print {
  nav, .modebar-container, .shown:not([data-for=figure-pareto]) { display: none; } .wide { overflow: visible; }
  body { max-width: none; padding: 0; font-size: 10pt; } figure, tr, .plot { break-inside: avoid; }
  h2, h3, .note { break-after: avoid; } table { font-size: 8pt; } th, td { padding: .25rem .4rem; }
}
"""

SCRIPT = """
(function () {
  var told = JSON.parse(document.getElementById("placements").textContent);
  document.querySelectorAll(".shown").forEach(function (panel) {
    var plot = document.getElementById(panel.dataset.for);
    function show(trial) { if (told.trials[trial]) panel.innerHTML = told.trials[trial]; }
    function touch(event) { if (event.points[0].customdata !== undefined) show(event.points[0].customdata); }
    show(told.start);
    plot.on("plotly_hover", touch);
    plot.on("plotly_click", touch);
  });
  addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (each) { each.open = true; });
  });
})();
"""
"""The panel beneath a figure shows the network of the point that was touched last; all of it was escaped before."""

"""What the pages look like."""

from __future__ import annotations

HEAD = """<meta name="viewport" content="width=device-width, initial-scale=1"><style>
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
@media (max-width: 720px) {
  body { padding: 12px; } .plot { height: 560px; margin: 0 -8px; }
  thead { display: none; } tr { display: block; padding: .5rem 0; border-bottom: 1px solid #bbb; }
  td { display: flex; gap: .75rem; border: 0; padding: .1rem .25rem; }
  td[data-name]::before { content: attr(data-name); color: #555; flex: 0 0 7.5rem; }
}
@media print { .plot { break-inside: avoid; } }
</style>"""

"""What the HTML files of reports share: they ask nobody for anything."""

from collections.abc import Sequence
from html import escape

POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; base-uri 'none'; form-action 'none'"
)
"""Content security policy: the page forbids itself every request."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --paper: #ffffff; --soft: #57606a;
  --line: #d0d7de; --grid: #e4e8ec; --caution: #9a5b00; --good: #1a6b3c; --link: #0b57b0; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --paper: #12161b;
  --soft: #a4adb8; --line: #39424d; --grid: #2a323b; --caution: #f0b050; --good: #63c58b;
  --link: #7db4f5; } }
body { margin: 0 auto; max-width: 62rem; padding: 1.2rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "DejaVu Sans", sans-serif; }
h1 { font-size: 1.7rem; margin: .3rem 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.2rem 0 .4rem; border-top: 1px solid var(--line);
  padding-top: 1.2rem; }
a { color: var(--link); }
.banner { font-weight: 600; color: var(--soft); margin: 0; }
.box { border: 1px solid var(--line); border-left: 6px solid var(--soft);
  padding: .6rem 1rem; margin: .8rem 0; border-radius: 4px; }
.box p { margin: .2rem 0; }
.flags { border-left-color: var(--caution); }
.flags strong { color: var(--caution); }
.clear { border-left-color: var(--good); }
.answer { font-size: 1.15rem; font-weight: 600; }
.absent { font-style: italic; color: var(--soft); }
nav ol { columns: 2; column-gap: 2rem; }
figure { margin: 1rem 0 .4rem; }
figcaption, small { color: var(--soft); font-size: .92rem; }
figure > div:first-child { overflow-x: auto; }
.plot { width: 100%; min-width: 46rem; }
details { margin: .5rem 0; }
summary { cursor: pointer; }
.scroll { overflow: auto; max-height: 26rem; border: 1px solid var(--line); }
table { border-collapse: collapse; font-size: .88rem; width: 100%; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--grid); text-align: left;
  vertical-align: top; }
thead th { position: sticky; top: 0; background: var(--paper); }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); }
@media print { .scroll { max-height: none; overflow: visible; } nav { display: none; } }
"""


def html_text(text: str) -> str:
    """Text as HTML; a number stays beside its sign of per cent."""
    return escape(text).replace(" %", "&nbsp;%")


def html_items(sentences: Sequence[str]) -> str:
    """Sentences as items of a list; empty ones are left out."""
    return "\n".join(f"<li>{html_text(one)}</li>" for one in sentences if one)

"""The style sheet of the report."""

CSS = """
:root {
  --page: #f4f6f9; --paper: #ffffff; --ink: #1c2430; --muted: #667085; --line: #e6e9ef; --accent: #2b6cb0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0f131a; --paper: #171c26; --ink: #e6eaf2; --muted: #97a1b3; --line: #2b3342; --accent: #6cb2f5;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 1180px; margin: 0 auto; padding: 28px 20px 60px; }
header { margin-bottom: 22px; }
h1 { margin: 0 0 6px; font-size: 28px; line-height: 1.2; overflow-wrap: anywhere; }
ul.facts { list-style: none; margin: 0; padding: 0; color: var(--muted); }
ul.facts li { display: inline; }
ul.facts li + li::before { content: " · "; }
section {
  margin: 0 0 18px; padding: 20px 22px; background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
}
section > h2 { margin: 0 0 14px; font-size: 18px; }
section.cards {
  display: grid; grid-template-columns: repeat(auto-fit, minmax(165px, 1fr)); gap: 12px;
  margin: 0; padding: 0; background: none; border: 0;
}
.card { padding: 14px 16px; background: var(--paper); border: 1px solid var(--line); border-radius: 12px; }
.card h2 { margin: 0; font-size: 13px; font-weight: 600; color: var(--muted); }
.card p { margin: 0; font-size: 12.5px; color: var(--muted); }
.card .value {
  font-size: 28px; line-height: 1.3; font-weight: 650; color: var(--ink); font-variant-numeric: tabular-nums;
}
.card .interval { color: var(--accent); font-variant-numeric: tabular-nums; }
.note { margin: 10px 2px 18px; font-size: 13px; color: var(--muted); }
section .note { margin: 10px 0 0; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(330px, 100%), 1fr)); gap: 18px; }
.split { display: grid; grid-template-columns: minmax(0, 5fr) minmax(0, 6fr); gap: 22px; align-items: start; }
@media (max-width: 900px) { .split { grid-template-columns: minmax(0, 1fr); } }
figure { margin: 0; }
img { display: block; width: 100%; height: auto; }
@media (prefers-color-scheme: dark) { img { filter: invert(0.92) hue-rotate(180deg); } }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td {
  padding: 6px 10px 6px 0; text-align: left; vertical-align: top; white-space: nowrap;
  border-bottom: 1px solid var(--line);
}
td small { display: block; color: var(--muted); font-size: 11.5px; line-height: 1.2; }
th { color: var(--muted); font-weight: 600; }
th.number, td.number { text-align: right; padding: 6px 0 6px 10px; }
dl.facts {
  display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 18px; margin: 16px 0 0; font-size: 13.5px;
}
dl.facts dt { color: var(--muted); }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
@media (max-width: 560px) {
  main { padding: 18px 12px 40px; }
  section { padding: 16px 14px; }
  dl.facts { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dl.facts dd { margin-bottom: 8px; }
}
details { margin-top: 14px; }
summary { cursor: pointer; color: var(--accent); font-weight: 600; }
pre {
  overflow-x: auto; padding: 14px; background: var(--page); border-radius: 8px; font-size: 12.5px; line-height: 1.45;
}
"""

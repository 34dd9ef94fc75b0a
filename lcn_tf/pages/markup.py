"""Parts of the HTML reports, whose page needs nothing but itself, and of Markdown tables."""

import datetime
import html
import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any

from lcn_tf.pages.style import CSS

Cell = str | int | float | None


def document(title: str, facts: Iterable[str], parts: Iterable[str]) -> str:
  """An HTML page.

  Args:
    title: Title of the document, and its first heading.
    facts: Texts of the line below the heading.
    parts: HTML of the parts, of which empty ones are left out.
  """
  line = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
  header = f'<header>\n<h1>{html.escape(title)}</h1>\n<ul class="facts">{line}</ul>\n</header>'
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    f"<title>{html.escape(title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n"
    + "\n".join([header, *(part for part in parts if part)])
    + "\n</main>\n</body>\n</html>\n"
  )


def section(title: str, body: str) -> str:
  return f"<section>\n<h2>{html.escape(title)}</h2>\n{body}\n</section>"


def note(text: str) -> str:
  """A remark in small print."""
  return f'<p class="note">{html.escape(text)}</p>'


def details(summary: str, body: str) -> str:
  """HTML that a click on the summary unfolds."""
  return f"<details><summary>{html.escape(summary)}</summary>{body}</details>"


def preformatted(text: str) -> str:
  """Text whose lines and spaces stay."""
  return f"<pre>{html.escape(text)}</pre>"


def grid(pictures: Iterable[str]) -> str:
  return '<div class="grid">' + "".join(f"<figure>{picture}</figure>" for picture in pictures) + "</div>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], text: int = 1) -> str:
  """A table; the first `text` columns are words, the others numbers. What follows a line break is small print."""

  def content(cell: str) -> str:
    first, _, second = html.escape(str(cell)).partition("\n")
    return first + (f"<small>{second}</small>" if second else "")

  def line(cells: Sequence[str], tag: str) -> str:
    marked = (f"<{tag}{'' if i < text else ' class=number'}>{content(cell)}</{tag}>" for i, cell in enumerate(cells))
    return f"<tr>{''.join(marked)}</tr>"

  body = "\n".join(line(row, "td") for row in rows)
  return f'<div class="scroll"><table>\n<thead>{line(head, "th")}</thead>\n<tbody>\n{body}\n</tbody></table></div>'


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[int]) -> str:
  """A table in Markdown; `numbers` are the columns to align right, counted from 0."""
  rule = ["---:" if i in numbers else "---" for i in range(len(head))]
  return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [head, rule, *rows])


def facts(facts: Iterable[tuple[str, Any]]) -> str:
  lines = (
    f"<dt>{html.escape(str(name).replace('_', ' '))}</dt><dd>{html.escape(_fact(value))}</dd>" for name, value in facts
  )
  return f'<dl class="facts">{"".join(lines)}</dl>'


def _fact(value: Any) -> str:
  if isinstance(value, float):
    return f"{value:.6g}"
  return str(value)


def shown(cell: Cell, digits: int = 4) -> str:
  """A cell as people read it: thousands apart, floats with `digits` decimals, "-" for None and NaN."""
  if cell is None or (isinstance(cell, float) and math.isnan(cell)):
    return "-"
  if isinstance(cell, int):
    return f"{cell:,}"
  return f"{cell:,.{digits}f}" if isinstance(cell, float) else cell


def moment(seconds: int) -> str:
  """A Unix time as a date and minute of UTC; a time that no calendar has stays a number."""
  try:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")
  except (OverflowError, ValueError, OSError):
    return str(seconds)

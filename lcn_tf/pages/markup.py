"""What the HTML reports are made of: one page that needs nothing but itself."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

from lcn_tf.pages.style import CSS


def document(title: str, parts: Iterable[str]) -> str:
  """The page; empty parts are left out."""
  return (
    '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    '<meta name="color-scheme" content="light dark">\n'
    f"<title>{html.escape(title)}</title>\n<style>\n{CSS}</style>\n</head>\n<body>\n<main>\n"
    + "\n".join(part for part in parts if part)
    + "\n</main>\n</body>\n</html>\n"
  )


def header(title: str, facts: Iterable[str]) -> str:
  line = "".join(f"<li>{html.escape(fact)}</li>" for fact in facts)
  return f'<header>\n<h1>{html.escape(title)}</h1>\n<ul class="facts">{line}</ul>\n</header>'


def section(title: str, body: str) -> str:
  return f"<section>\n<h2>{html.escape(title)}</h2>\n{body}\n</section>"


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


def facts(facts: Iterable[tuple[str, Any]]) -> str:
  lines = (
    f"<dt>{html.escape(str(name).replace('_', ' '))}</dt><dd>{html.escape(_fact(value))}</dd>" for name, value in facts
  )
  return f'<dl class="facts">{"".join(lines)}</dl>'


def _fact(value: Any) -> str:
  if isinstance(value, float):
    return f"{value:.6g}"
  return str(value)


def number(value: float | None, digits: int = 4) -> str:
  return "-" if value is None or math.isnan(value) else f"{value:.{digits}f}"

"""What every analysis leaves: one table as JSON and as Markdown, and one HTML page that needs nothing but itself."""

import dataclasses
import html
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lcn_tf.files import publish
from lcn_tf.formats import to_json
from lcn_tf.pages import figures, markup

Cell = str | int | float | None

_COLOURS = (figures.FIRST, figures.SECOND, "#2f9e62", "#9c4fb5", "#c0392b", "#0e8a93", "#8a6d1d", "#e05c97")
_STYLES = ("-", ":", "-.")


@dataclasses.dataclass(frozen=True)
class Table:
  """One table.

  Attributes:
    title: Heading.
    rows: Column -> cell, in the order of the columns; all rows have the same ones, those of words before numbers.
    note: Remark on the measurement and on omissions.
    digits: Behind the decimal point, of cells that are float.
  """

  title: str
  rows: Sequence[Mapping[str, Cell]]
  note: str = ""
  digits: int = 4


@dataclasses.dataclass(frozen=True)
class Page:
  """One analysis.

  Attributes:
    title: Heading of the page.
    facts: Values of the whole analysis by name.
    tables: The first is the table of the analysis.
    pictures: HTML of plots, see `lcn_tf.pages.figures.picture`.
  """

  title: str
  facts: Mapping[str, Any]
  tables: Sequence[Table]
  pictures: Sequence[str] = ()

  def write(self, output: str | pathlib.Path, name: str, more: Mapping[str, Any] | None = None) -> None:
    """Leaves `<name>.json`, `<name>.md` and `index.html` in a folder, each written aside and renamed.

    Args:
      more: Further contents of the JSON.
    """
    output = pathlib.Path(output)
    tables = [{"title": table.title, "rows": table.rows, "note": table.note} for table in self.tables]
    facts = to_json({"title": self.title, **self.facts, "tables": tables, **(more or {})})
    contents = {f"{name}.md": self.markdown(), "index.html": self.html(), f"{name}.json": facts}
    publish(output, "the analysis", contents)

  def markdown(self) -> str:
    parts = [f"# {self.title}", "\n".join(f"* {_words(name)}: {value}" for name, value in self.facts.items())]
    for table in self.tables:
      parts.append(f"## {table.title}")
      if table.rows:
        numbers = _numeric(table.rows)
        lines = [list(table.rows[0]), ["---:" if column in numbers else "---" for column in table.rows[0]]]
        lines += [[shown(cell, table.digits).replace("|", "\\|") for cell in row.values()] for row in table.rows]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
      if table.note:
        parts.append(table.note)
    return "\n\n".join(part for part in parts if part) + "\n"

  def html(self) -> str:
    facts = [f"{_words(name)}: {value}" for name, value in self.facts.items()]
    pictures = f"<section>\n{markup.grid(self.pictures)}\n</section>" if self.pictures else ""
    return markup.document(self.title, [markup.header(self.title, facts), pictures, *map(_section, self.tables)])


def line_style(index: int) -> dict[str, Any]:
  """Colour and stroke of the line of that number in a plot, alike in no two of the first 24."""
  return {"color": _COLOURS[index % len(_COLOURS)], "linestyle": _STYLES[index // len(_COLOURS) % len(_STYLES)]}


def shown(cell: Cell, digits: int = 4) -> str:
  """A cell as people read it: thousands apart, `digits` behind the point, "-" for what there is not."""
  if cell is None or (isinstance(cell, float) and math.isnan(cell)):
    return "-"
  if isinstance(cell, int):
    return f"{cell:,}"
  return f"{cell:,.{digits}f}" if isinstance(cell, float) else cell


def _section(table: Table) -> str:
  body = ""
  if table.rows:
    text = len(table.rows[0]) - len(_numeric(table.rows))
    rows = [[shown(cell, table.digits) for cell in row.values()] for row in table.rows]
    body = markup.table(list(table.rows[0]), rows, text)
  note = f'<p class="note">{html.escape(table.note)}</p>' if table.note else ""
  return markup.section(table.title, body + note)


def _numeric(rows: Iterable[Mapping[str, Cell]]) -> set[str]:
  """The columns that hold numbers."""
  return {column for row in rows for column, cell in row.items() if isinstance(cell, (int, float))}


def _words(name: str) -> str:
  return name.replace("_", " ")

"""What every analysis leaves: one table as JSON and as Markdown, and one HTML page that needs nothing but itself."""

import dataclasses
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from lcn_tf.files import publish
from lcn_tf.formats import to_json
from lcn_tf.pages import markup
from lcn_tf.pages.markup import Cell, shown


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
        head, numbers = list(table.rows[0]), _numeric(table.rows)
        right = [i for i, column in enumerate(head) if column in numbers]
        parts.append(markup.markdown_table(head, _texts(table), right))
      if table.note:
        parts.append(table.note)
    return "\n\n".join(part for part in parts if part) + "\n"

  def html(self) -> str:
    facts = [f"{_words(name)}: {value}" for name, value in self.facts.items()]
    pictures = f"<section>\n{markup.grid(self.pictures)}\n</section>" if self.pictures else ""
    return markup.document(self.title, facts, [pictures, *map(_section, self.tables)])


def _section(table: Table) -> str:
  body = ""
  if table.rows:
    text = len(table.rows[0]) - len(_numeric(table.rows))
    body = markup.table(list(table.rows[0]), _texts(table), text)
  return markup.section(table.title, body + (markup.note(table.note) if table.note else ""))


def _texts(table: Table) -> list[list[str]]:
  return [[shown(cell, table.digits) for cell in row.values()] for row in table.rows]


def _numeric(rows: Iterable[Mapping[str, Cell]]) -> set[str]:
  """The columns that hold numbers."""
  return {column for row in rows for column, cell in row.items() if isinstance(cell, (int, float))}


def _words(name: str) -> str:
  return name.replace("_", " ")

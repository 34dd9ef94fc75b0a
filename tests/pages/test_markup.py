"""Texts of the pages: cells, times, tables, and that nothing of a user's is read as HTML."""

import math

import pytest

from lcn_tf.pages import markup


@pytest.mark.parametrize(
  ("cell", "digits", "text"),
  [
    (None, 4, "-"),
    (math.nan, 4, "-"),
    (1234, 4, "1,234"),
    (1234.56789, 2, "1,234.57"),
    (1234.5, 0, "1,234"),
    (0.25, 4, "0.2500"),
    ("a word", 4, "a word"),
  ],
)
def test_a_cell_is_shown_as_people_read_it(cell, digits, text):
  assert markup.shown(cell, digits) == text


def test_a_moment_is_in_utc_and_a_time_without_a_date_stays_a_number():
  assert markup.moment(86_399) == "1970-01-01 23:59"
  assert markup.moment(10**18) == str(10**18)


def test_a_cell_with_a_bar_stays_one_cell_of_markdown():
  table = markup.markdown_table(["model", "a|b"], [["x|y", "1"]], numbers=[1])
  assert table == "| model | a\\|b |\n| --- | ---: |\n| x\\|y | 1 |"


@pytest.mark.parametrize(
  "part",
  [
    lambda text: markup.note(text),
    lambda text: markup.details(text, ""),
    lambda text: markup.preformatted(text),
    lambda text: markup.section(text, ""),
    lambda text: markup.table([text], [[text]]),
    lambda text: markup.facts([(text, text)]),
    lambda text: markup.document(text, [text], []),
  ],
)
def test_no_text_is_read_as_html(part):
  found = part("<b>&")
  assert "&lt;b&gt;&amp;" in found
  assert "<b>" not in found


def test_empty_parts_leave_nothing_on_a_page():
  page = markup.document("title", ["fact"], ["", "<p>one</p>", ""])
  assert "</header>\n<p>one</p>\n</main>" in page

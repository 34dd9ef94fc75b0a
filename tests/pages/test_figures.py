"""Plots that several pages share."""

from matplotlib.figure import Figure

from lcn_tf.pages import figures


def test_lines_over_length_tell_measurements_from_the_dashed_rule():
  lines = {"rule": [(10, 1.0), (100, 10.0)], "lap": [(10, 2.0), (100, 3.0)], "twin": [(10, 4.0), (100, 5.0)]}
  figure = Figure()
  figures.by_length(lines, [10, 100], "Cost", dashed="rule")(figure)
  (axes,) = figure.axes
  drawn = {line.get_label(): line for line in axes.get_lines()}
  assert [list(line.get_ydata()) for line in drawn.values()] == [[1.0, 10.0], [2.0, 3.0], [4.0, 5.0]]
  assert [line.get_linestyle() for line in drawn.values()] == ["--", "-", "-"]
  assert [line.get_color() for line in drawn.values()] == [figures.MUTED, figures.FIRST, figures.SECOND]
  assert (axes.get_xscale(), axes.get_yscale(), axes.get_title()) == ("log", "log", "Cost")
  assert [tick.get_text() for tick in axes.get_xticklabels()] == ["10", "100"]


def test_two_dozen_lines_are_told_apart():
  styles = [tuple(figures.line_style(index).values()) for index in range(24)]
  assert len(set(styles)) == 24

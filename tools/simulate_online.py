"""Compares two exports online, by simulation: users of a synthetic log are served, and click by a hidden preference.

The records have to be of a synthetic log (configs/synthetic), and both models have to be trained with that log. Both
arms serve the same users (--design paired), or each half of them (split). The same model in both arms is an A/A test.
An A/A check, an oracle and a random ranking are always there. Everything that the command leaves is simulated. It
prints simulated_online.md at the end.

It leaves in --output:

    simulated_online.json   click-through rate, stay time and latency by arm, and differences with intervals
    simulated_online.md     the tables, for people
    index.html              the same as a page

Example:

    python -m tools.simulate_online --control a/export --treatment b/export --records my_records --output online
"""

from collections.abc import Sequence

from absl import flags, logging

from lcn_tf import entry
from lcn_tf.data.record_set import RecordSet

_FLAGS = flags.FlagValues()
_MODEL_HELP = "Export of the {}, a version folder or the export folder above it, of which the newest version counts."
_CONTROL, _TREATMENT = (
  entry.define_path(_FLAGS, name, _MODEL_HELP.format(name), "model", required=True) for name in ("control", "treatment")
)
_RECORDS = entry.define_records(_FLAGS)
_OUTPUT = entry.define_output(_FLAGS)
_DESIGN = flags.DEFINE_enum(
  "design",
  "paired",
  ["paired", "split"],
  "Users of the arms. paired = both arms serve all users, split = each arm serves half of them.",
  flag_values=_FLAGS,
)
_USERS = flags.DEFINE_integer("users", 300, "Users who are served.", lower_bound=2, flag_values=_FLAGS)
_REQUESTS = flags.DEFINE_integer("requests", 4, "Requests of each user.", lower_bound=1, flag_values=_FLAGS)
_CANDIDATES = entry.define_candidates(_FLAGS, 50)
_SHOWN = flags.DEFINE_integer("shown", 5, "Candidates that are shown.", lower_bound=1, flag_values=_FLAGS)
_GROW = flags.DEFINE_bool(
  "grow", True, "Clicks become behaviours, which the next requests of the user have.", flag_values=_FLAGS
)
_BOOTSTRAP = entry.define_bootstrap(_FLAGS, default=1000, lower_bound=1)
_LEVEL = flags.DEFINE_float("level", 0.95, "Level of the confidence intervals.", flag_values=_FLAGS)
_SEED = entry.define_seed(_FLAGS, "Seed of the choice of users, of what they do, and of the bootstrap.")


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  record_set = RecordSet.open(_RECORDS.value)
  with entry.loading():
    from lcn_tf.analysis import online, online_results

  settings = online.Settings(
    users=_USERS.value,
    requests=_REQUESTS.value,
    candidates=_CANDIDATES.value,
    shown=_SHOWN.value,
    design=_DESIGN.value,  # type: ignore[arg-type]
    grow=_GROW.value,
    replicates=_BOOTSTRAP.value,
    level=_LEVEL.value,
    seed=_SEED.value,
  )
  found = online.compare(_CONTROL.value, _TREATMENT.value, record_set, settings)
  print(online_results.write(found, _OUTPUT.value).markdown())
  if not found["a_a"]["passed"]:
    logging.warning("the simulated A/A check has failed: an interval of control again - control does not contain 0")


if __name__ == "__main__":
  entry.run(main)

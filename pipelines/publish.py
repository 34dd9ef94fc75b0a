"""Evaluates an exported version and, if a gate lets it pass, publishes it to the folder of a server.

The command runs the evaluation of pipelines.evaluate with --gate and, by default, the newest version in --output as the
baseline. A version that passes is copied beside the others and renamed, so a server never meets half of one. A version
that is refused is not published, and the command ends with exit code 3.

It leaves in --output a folder `<version>`, and in --results what pipelines.evaluate leaves.

Example:

    python -m pipelines.publish --model my_run/export --records my_records --gate gate.yaml --output served
"""

from collections.abc import Sequence

from absl import flags

from lcn_tf import entry, evaluation, places
from lcn_tf.data.record_set import RecordSet
from lcn_tf.remote import working

_FLAGS = flags.FlagValues()
_MODEL = entry.define_model(_FLAGS, "SavedModel to publish")
_RECORDS = entry.define_records(_FLAGS)
_SPLIT = entry.define_split(_FLAGS)
_GATE = entry.define_path(
  _FLAGS,
  "gate",
  "Rules that the model has to pass, a YAML file. The folder configs/gates has an example.",
  "input",
  required=True,
)
_BASELINE = entry.define_path(
  _FLAGS,
  "baseline",
  "Model or predictions file to compare with. Without the flag it is the newest version in --output.",
  "model",
)
_OUTPUT = entry.define_output(_FLAGS, "Folder of the server, which holds versions. It is made if it does not exist.")
_RESULTS = entry.define_path(
  _FLAGS,
  "results",
  "Folder for metrics, predictions, report and verdicts. Without the flag it is OUTPUT.results/VERSION.",
  "output",
)
_REQUESTS = flags.DEFINE_integer("requests", 64, "Requests per call of the model.", lower_bound=1, flag_values=_FLAGS)
_WORKERS = entry.define_workers(_FLAGS)
_BOOTSTRAP, _SEED, _ON_CORRUPT = entry.define_scoring(_FLAGS)
_SLICES, _SLICE_MINIMUM = entry.define_slices(_FLAGS)


def main(argv: Sequence[str]) -> None:
  entry.parse(_FLAGS, argv)
  slices = evaluation.parse_slices(_SLICES.value) if _SLICES.value else None
  settings = evaluation.Settings(_BOOTSTRAP.value, _SEED.value, slices, _SLICE_MINIMUM.value)
  gate = evaluation.read_gate(_GATE.value)
  record_set = RecordSet.open(_RECORDS.value)
  if not _RESULTS.value and (served := places.stands_for(_OUTPUT.value)):
    working.working(f"{served}.results")
  with entry.loading():
    from lcn_tf.evaluation.publish import publish
  publish(
    _MODEL.value,
    record_set,
    _SPLIT.value,
    gate,
    _OUTPUT.value,
    results=_RESULTS.value,
    baseline=_BASELINE.value,
    settings=settings,
    requests=_REQUESTS.value,
    workers=_WORKERS.value,
    on_corrupt=_ON_CORRUPT.value,  # type: ignore[arg-type]
  )


if __name__ == "__main__":
  entry.run(main)

"""Configurations of TensorFlow Serving in `assets.extra` of an export: templates for where a server reads them.

The folder of versions, which servers watch, has numbered folders alone.
"""

import pathlib

FOLDER = "assets.extra"
NAME = "rank"

MODELS = f"""# --model_config_file of TensorFlow Serving
model_config_list {{
  config {{
    name: "{NAME}"
    base_path: "/models/{NAME}"  # the folder of versions, as the server sees it
    model_platform: "tensorflow"
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""

BATCHING = """# --batching_parameters_file of TensorFlow Serving, which reads it with --enable_batching alone.
# Leave that off unless all calls have tensors of the same widths: requests of other widths would fail.
max_batch_size { value: 32 }  # rows B of a call, and of the calls that are merged
batch_timeout_micros { value: 0 }  # none waits while a thread is free
pad_variable_length_inputs: false
"""


def write(version: pathlib.Path) -> None:
  """Writes `models.config` and `batching.config` to a version."""
  (version / FOLDER / "models.config").write_text(MODELS)
  (version / FOLDER / "batching.config").write_text(BATCHING)

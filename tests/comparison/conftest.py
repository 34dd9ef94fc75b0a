import pytest

from lcn_tf.models import build


@pytest.fixture(scope="package")
def right_models():
  """Models that were found to be right."""
  return set()


@pytest.fixture(autouse=True)
def _checked_once(monkeypatch, right_models):
  """A comparison builds each of its models to see whether it is right; what was right before is not built again."""
  check_model = build.check_model

  def check(schema, model, jit_compile=False):
    asked = (schema.model_dump_json(), model.model_dump_json(), jit_compile)
    if asked not in right_models:
      check_model(schema, model, jit_compile)
      right_models.add(asked)

  monkeypatch.setattr(build, "check_model", check)

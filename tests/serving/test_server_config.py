"""The files that TensorFlow Serving is configured with are what its protos say."""

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from lcn_tf.serving import server_config
from lcn_tf.serving.server_config import BATCHING, MODELS


def batching_parameters():
  """The message of session_bundle_config.proto, which no package has."""
  file = descriptor_pb2.FileDescriptorProto(name="batching.proto", syntax="proto3")
  file.dependency.append("google/protobuf/wrappers.proto")
  message = file.message_type.add(name="BatchingParameters")
  integers = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
  for number, name in enumerate(integers, 1):
    message.field.add(name=name, number=number, type=11, label=1, type_name=".google.protobuf.Int64Value")
  message.field.add(name="allowed_batch_sizes", number=6, type=3, label=3)
  message.field.add(name="pad_variable_length_inputs", number=7, type=8, label=1)
  pool = descriptor_pool.DescriptorPool()
  pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
  pool.Add(file)
  return message_factory.GetMessageClass(pool.FindMessageTypeByName("BatchingParameters"))


def test_a_server_reads_one_model_from_the_folder_of_versions():
  (model,) = text_format.Parse(MODELS, model_server_config_pb2.ModelServerConfig()).model_config_list.config
  assert (model.name, model.base_path, model.model_platform) == ("rank", "/models/rank", "tensorflow")
  assert model.model_version_policy.latest.num_versions == 1


def test_a_server_that_batches_pads_nothing():
  found = text_format.Parse(BATCHING, batching_parameters()())
  assert not found.pad_variable_length_inputs
  assert list(found.allowed_batch_sizes) == []
  assert (found.max_batch_size.value, found.batch_timeout_micros.value) == (32, 0)


def test_a_misspelt_setting_would_be_seen():
  with pytest.raises(text_format.ParseError, match="pad_variable"):
    text_format.Parse("pad_variable: true", batching_parameters()())


def test_a_version_gets_both(tmp_path):
  (tmp_path / server_config.FOLDER).mkdir()
  server_config.write(tmp_path)
  assert (tmp_path / "assets.extra" / "models.config").read_text() == MODELS
  assert (tmp_path / "assets.extra" / "batching.config").read_text() == BATCHING

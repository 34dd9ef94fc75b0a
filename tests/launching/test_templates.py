"""The templates of docs/launching: they parse, and what they run are commands of ours with flags that exist."""

import itertools
import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

from lcn_tf.launching.commands import split
from tests.shipped.test_docs import check_flags
from tests.shipped.workspace import ROOT, environment

FOLDER = ROOT / "docs" / "launching"
PAGE = ROOT / "docs" / "launching.md"


def slurm():
  text = (FOLDER / "slurm.sh").read_text().replace("\\\n", " ")
  return [shlex.split(line)[3:] for line in text.splitlines() if line.startswith("srun ")]


def kubernetes():
  _, job = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
  return [c["command"] + c["args"] for c in job["spec"]["template"]["spec"]["containers"]]


def compose():
  services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
  return [shlex.split(service["command"]) for service in services.values()]


@pytest.mark.parametrize(("commands", "count"), [(slurm, 1), (kubernetes, 1), (compose, 2)])
def test_the_commands_have_flags_and_configs_that_exist(commands, count):
  found = commands()
  assert len(found) == count
  for words in found:
    own, command = split(words)
    assert own[:3] == ["python", "-m", "tools.cluster_config"]
    assert command[:3] == ["python", "-m", "pipelines.train"]
    assert "train.strategy=multi_worker" in command
    check_flags(PAGE, *own[2:])
    check_flags(PAGE, *command[2:])


def made(words, **variables):
  """The TF_CONFIG that a template's command makes, with the variables of its scheduler."""
  own, _ = split(words)
  done = subprocess.run(
    [sys.executable, *own[1:]],
    env=environment() | variables,
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=False,
    timeout=300,
  )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def test_workers_of_the_templates_find_each_other():
  services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
  of_compose = [made(words) for words in compose()]
  assert [one["task"]["index"] for one in of_compose] == [0, 1]
  assert [one["cluster"] for one in of_compose] == [{"worker": [f"{name}:2222" for name in services]}] * 2

  service, job = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
  spec, name = job["spec"], job["metadata"]["name"]
  assert service["spec"]["selector"] == {"job-name": name}
  assert (spec["completionMode"], spec["completions"]) == ("Indexed", spec["parallelism"])
  assert spec["template"]["spec"]["subdomain"] == service["metadata"]["name"]
  pods = [f"{name}-{i}.{service['metadata']['name']}:2222" for i in range(spec["completions"])]
  of_pod = made(kubernetes()[0], JOB_COMPLETION_INDEX="1")
  assert of_pod == {"cluster": {"worker": pods}, "task": {"type": "worker", "index": 1}}
  fatal = spec["podFailurePolicy"]["rules"][1]["onExitCodes"]["values"]
  assert fatal == [1, 65, 74]

  variables = {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_LOCALID": "0"}
  of_task = made(slurm()[0], **variables, SLURM_PROCID="1")
  assert of_task == {"cluster": {"worker": ["n1:2222", "n2:2222"]}, "task": {"type": "worker", "index": 1}}


def test_the_batch_script_parses():
  done = subprocess.run(["bash", "-n", FOLDER / "slurm.sh"], capture_output=True, text=True, check=False)
  assert (done.returncode, done.stderr) == (0, "")


def test_the_image_has_what_the_commands_read():
  copied = re.findall(r"^COPY (\S+) ", (FOLDER / "Dockerfile").read_text(), re.MULTILINE)
  assert all((ROOT / name).exists() for name in copied)
  for words in itertools.chain(kubernetes(), compose()):
    for room in ("tools", "pipelines", "configs", "lcn_tf"):
      assert room in copied, words
  assert "setup.py" in copied

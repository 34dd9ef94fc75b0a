import json
import re

import pytest

from lcn_tf.errors import UserError
from lcn_tf.launching import cluster
from lcn_tf.training.cluster import tasks, with_servers


def slurm(nodes, tasks, rank, local="0"):
  names = ("SLURM_STEP_NODELIST", "SLURM_STEP_TASKS_PER_NODE", "SLURM_PROCID", "SLURM_LOCALID")
  return dict(zip(names, (nodes, tasks, rank, local), strict=True))


def workers(made):
  return json.loads(made)["cluster"]["worker"]


@pytest.mark.parametrize(
  ("variables", "expected", "index"),
  [
    (slurm("gpu[08-10],login", "1(x4)", "2"), ["gpu08:5000", "gpu09:5000", "gpu10:5000", "login:5000"], 2),
    (slurm("n9,n10", "2,1", "1", "1"), ["n9:5000", "n9:5001", "n10:5000"], 1),
    (slurm("r[1-2]n[1,3].x", "1(x4)", "0"), ["r1n1.x:5000", "r1n3.x:5000", "r2n1.x:5000", "r2n3.x:5000"], 0),
  ],
)
def test_slurm_deals_its_tasks_to_the_nodes_in_their_order(variables, expected, index, monkeypatch):
  monkeypatch.setenv("TF_CONFIG", cluster.of_slurm(variables, 5000))
  assert tasks() == (expected, index)


def test_a_pod_finds_the_others_by_their_names(monkeypatch):
  monkeypatch.setenv("TF_CONFIG", cluster.of_kubernetes({"JOB_COMPLETION_INDEX": "1"}, 3, "lcn-{}.lcn", 2222))
  assert tasks() == (["lcn-0.lcn:2222", "lcn-1.lcn:2222", "lcn-2.lcn:2222"], 1)


@pytest.mark.parametrize(
  ("index", "kind", "own"), [(0, "chief", 0), (1, "ps", 0), (2, "ps", 1), (3, "worker", 0), (4, "worker", 1)]
)
def test_a_chief_and_servers_come_before_the_workers(index, kind, own, monkeypatch):
  hosts = ["a", "b", "c", "d", "e"]
  pods = cluster.of_kubernetes({"JOB_COMPLETION_INDEX": str(index)}, 5, "{}", 1, servers=2)
  tasks_of = cluster.of_slurm(slurm("a,b,c,d,e", "1(x5)", str(index)), 1, servers=2)
  for made, names in (
    (cluster.of_hosts(hosts, index, 1, servers=2), hosts),
    (pods, list("01234")),
    (tasks_of, hosts),
  ):
    monkeypatch.setenv("TF_CONFIG", made)
    found = with_servers()
    assert (found.kind, found.index) == (kind, own)
    assert [*found.addresses("chief"), *found.servers, *found.workers] == [f"{name}:1" for name in names]
    assert len(found.servers) == len(found.workers) == 2


def test_hosts_have_ports_of_their_own_or_the_common_one():
  assert workers(cluster.of_hosts(["a", "b:7"], 0, 5)) == ["a:5", "b:7"]


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (
      lambda: cluster.of_slurm({"SLURM_PROCID": "0"}, 1),
      "SLURM_STEP_NODELIST, SLURM_STEP_TASKS_PER_NODE, SLURM",
    ),
    (lambda: cluster.of_slurm(slurm("a,b", "2", "0"), 1), "SLURM_STEP_NODELIST a,b has 2 nodes, and SLURM_STEP_TASKS"),
    (lambda: cluster.of_slurm(slurm("a,b", "2(x2)", "1"), 1), "task 1 is number 0 of its node: .* not dealt in blocks"),
    (lambda: cluster.of_slurm(slurm("a[x]", "1", "0"), 1), "[x] is no list of numbers and ranges"),
    (lambda: cluster.of_slurm(slurm("a", "one", "0"), 1), "SLURM_STEP_TASKS_PER_NODE one: expected numbers"),
    (lambda: cluster.of_slurm(slurm("a", "1", "x"), 1), "SLURM_PROCID 'x': expected a whole number"),
    (lambda: cluster.of_kubernetes({}, 2, "a-{}", 1), "JOB_COMPLETION_INDEX: not in the environment"),
    (
      lambda: cluster.of_kubernetes({"JOB_COMPLETION_INDEX": "2"}, 2, "a-{}", 1),
      "worker 2, and they are 0 to",
    ),
    (lambda: cluster.of_kubernetes({"JOB_COMPLETION_INDEX": "0"}, 2, "a", 1), "--host a: expected the name of a pod"),
    (
      lambda: cluster.of_hosts(["a", "b"], 0, 1, servers=1),
      "2 processes are too few for a chief, 1 servers and a worker",
    ),
    (lambda: cluster.of_hosts(["a", "a"], 0, 1), "several workers have the same address: a:1"),
  ],
)
def test_what_no_scheduler_says_is_refused(make, message):
  with pytest.raises(UserError, match=message if ".*" in message else re.escape(message)):
    make()

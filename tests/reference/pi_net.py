"""Twins of lcn_tf/layers/{gru,shared_filter}.py and of what lcn_tf/models/pi_net.py makes of them.

Sequences are lists, the oldest step first, of the steps that are really there. One candidate at a time.
"""

import numpy as np

from tests.reference.masked import visible
from tests.reference.mlp import mlp


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def gru(layer, rows):
  """The state after each row."""
  kernel, recurrent, bias = (np.split(w.numpy(), 3, axis=-1) for w in (layer.kernel, layer.recurrent, layer.bias))
  state, states = np.zeros(layer.units), []
  for x in rows:
    z = sigmoid(x @ kernel[0] + state @ recurrent[0] + bias[0])
    r = sigmoid(x @ kernel[1] + state @ recurrent[1] + bias[1])
    c = np.tanh(x @ kernel[2] + r * (state @ recurrent[2]) + bias[2])
    state = z * state + (1 - z) * c
    states.append(state)
  return states


def shared_filter(layer, own, other):
  """g after each step; `other` are the aligned states of the other domain."""
  own_gate, own_new = np.split(layer.own_kernel.numpy(), 2, axis=-1)
  past_gate, past_new = np.split(layer.recurrent.numpy(), 2, axis=-1)
  bias_gate, bias_new = np.split(layer.bias.numpy(), 2)
  member_gate = layer.member_gate.numpy()
  member_new = member_gate if layer.official_bug else layer.member_new.numpy()
  state, states = np.zeros(layer.units), []
  for h, aligned in zip(own, other, strict=True):
    following = np.zeros(layer.units)
    for member in layer.member_vectors.numpy():
      other_part = aligned @ layer.other.kernel.numpy()
      f = sigmoid(h @ own_gate + other_part + state @ past_gate + member @ member_gate + bias_gate)
      c = np.tanh(h @ own_new + state @ past_new + member @ member_new + bias_new)
      following += (f * state + (1 - f) * c) / layer.members
    state = following
    states.append(state)
  return states


def last_not_younger(time, times):
  """Position of the last of the rising `times` that is not after `time`, or None."""
  found = [j for j, other in enumerate(times) if other <= time]
  return found[-1] if found else None


def last(states, units):
  return states[-1] if states else np.zeros(units)


def interests(model, domain, embedded, b, n):
  """What candidate n of request b reads: [h_last of its domain], [what the other domain hands over]."""
  giver = "source" if domain == "target" else "target"
  states, times = {}, {}
  for d in (domain, giver):
    history = embedded.histories[d]
    steps = [i for i in visible(history.visible.numpy()[b, n]) if i < model.steps[d]][::-1]
    rows = [np.concatenate([history.embedding.numpy()[b, i], history.side.numpy()[b, i]]) for i in steps]
    states[d] = gru(model.encoders[d], rows)
    times[d] = [history.times.numpy()[b, i] for i in steps]
  units = model.encoders[domain].units
  aligned = []
  for time in times[giver]:
    j = last_not_younger(time, times[domain])
    aligned.append(np.zeros(units) if j is None else states[domain][j])
  filtered = shared_filter(model.filters[domain], states[giver], aligned)
  return last(states[domain], units), last(gru(model.transfers[domain], filtered), units)


def logits(model, domain, embedded):
  candidates = embedded.candidates.embedding.numpy()
  result = np.zeros(candidates.shape[:2])
  for b, n in np.ndindex(result.shape):
    hidden = np.concatenate(
      [
        embedded.profile.numpy()[b],
        embedded.context.numpy()[b, n],
        candidates[b, n],
        *interests(model, domain, embedded, b, n),
      ]
    )
    kernel, bias = model.logits[domain].get_weights()
    result[b, n] = (mlp(hidden, model.mlps[domain].get_weights()) @ kernel + bias)[0]
  return result

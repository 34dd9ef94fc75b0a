"""Twin of lcn_tf/crossdomain: given who is paired with whom, the six losses by plain loops over one global batch."""

import numpy as np

from tests.reference import masked
from tests.reference.mlp import mlp


def cosine(x, y):
  return float(x @ y) / max(float(np.sqrt(x @ x) * np.sqrt(y @ y)), 1e-12)


def info_nce(x, h, negatives, temperature):
  positive = np.exp(cosine(x, h) / temperature)
  others = sum(np.exp(cosine(x, negative) / temperature) for negative in negatives)
  return -np.log(positive / (positive + others))


def seen(behaviours, b, n):
  rows = behaviours.visible[b]
  return masked.visible(rows[n] if len(rows) > 1 else rows[0])


def eligible(batch, b, n):
  """What the partner of anchor (b, n) may be, in the own and in the other history."""
  own = [i for i in seen(batch.own, b, n) if batch.own.items[b, i] != batch.candidates.items[b, n]]
  return own, seen(batch.other, b, n)


def positives(batch):
  """(request, candidate) of every positive, once per (user, item)."""
  met, result = set(), []
  for b, n in np.ndindex(batch.label.shape):
    key = (batch.user[b], batch.candidates.items[b, n])
    if batch.mask[b, n] and batch.label[b, n] == 1 and key not in met:
      met.add(key)
      result.append((b, n))
  return result


def contrastive(
  batch,
  pairs,
  side,
  *,
  temperature=0.1,
  negatives="candidates",
  dedupe_users=True,
  mask_history_negatives=True,
  mask_same_user=True,
):
  """The loss between the anchors and their partners in the `own` or the `other` history (`side`).

  `pairs[b]` = a list of (anchor candidate, [own behaviours], [other behaviours]).
  """
  losses = []
  users = [user if drawn else None for user, drawn in zip(batch.user, pairs, strict=True)]
  for b, (anchor, own, other) in [(b, pair) for b, drawn in enumerate(pairs) for pair in drawn]:
    if dedupe_users and batch.user[b] in users[:b]:
      continue
    partners = own if side == "own" else other
    item = batch.candidates.items[b, anchor]
    recent = [batch.own.items[b, i] for i in seen(batch.own, b, anchor)[:50]]
    rows = []
    for c, n in positives(batch):
      candidate = batch.candidates.items[c, n]
      if mask_same_user and batch.user[c] == batch.user[b]:
        continue
      if candidate == item or (side == "own" and candidate in [batch.own.items[b, i] for i in own]):
        continue
      if mask_history_negatives and candidate in recent:
        continue
      rows.append(batch.candidates.embedding[c, n])
    if not rows:
      continue
    x = batch.candidates.embedding[b, anchor]
    for partner in partners:
      h = (batch.own if side == "own" else batch.other).embedding[b, partner]
      pair = (x, h) if negatives == "candidates" else (h, x)
      losses.append(info_nce(*pair, rows, temperature))
  return sum(losses) / max(len(losses), 1)


def click_loss(batch, weights):
  """`weights` = [kernel, bias, ...] of the head, the last pair without an activation."""
  total, total_weight = 0.0, 0.0
  for b, n in np.ndindex(batch.label.shape):
    if not batch.mask[b, n]:
      continue
    width = batch.own.embedding.shape[-1]
    means = [masked.mean([h.embedding[b, i] for i in seen(h, b, n)], width) for h in (batch.own, batch.other)]
    x = mlp(np.concatenate([batch.profile[b], batch.candidates.embedding[b, n], *means]), weights[:-2])
    probability = 1 / (1 + np.exp(-float((x @ weights[-2] + weights[-1])[0])))
    loss = -np.log(probability if batch.label[b, n] == 1 else 1 - probability)
    total += batch.weight[b, n] * loss
    total_weight += batch.weight[b, n]
  return total / total_weight if total_weight else 0.0


def crp(
  target, source, target_pairs, source_pairs, target_head, source_head, contrastive_weights, supervised, **options
):
  losses = {
    "tt": contrastive(target, target_pairs, "own", **options),
    "ts": contrastive(target, target_pairs, "other", **options),
    "ss": contrastive(source, source_pairs, "own", **options),
    "st": contrastive(source, source_pairs, "other", **options),
    "t": click_loss(target, target_head),
    "s": click_loss(source, source_head),
  }
  weights = (*contrastive_weights, *supervised)
  losses["total"] = sum(weight * loss for weight, loss in zip(weights, losses.values(), strict=True))
  return losses

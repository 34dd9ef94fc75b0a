"""Which items CRP pairs, and which it holds against each other.

Under `tf.distribute` each replica holds an equal share of the global batch, replica r its rows
`r * B .. (r + 1) * B - 1`. What depends on other rows (an anchor's negatives, which request of a user comes first)
is decided on the global batch, and the noise is drawn for all of its rows, so the number of replicas changes nothing.
"""

from typing import NamedTuple

import tensorflow as tf

from lcn_tf.layers.masked import gather_rows, masked_top_k
from lcn_tf.layers.replicas import global_rows, own_rows, replicas
from lcn_tf.layers.structures import Behaviours, Candidates

RECENT = 50


class DomainBatch(NamedTuple):
  """The requests of one domain as CRP reads them: the candidates are of that domain.

  Attributes:
    user: Whose request it is `[B]` int64.
    profile: Embedded fields of the user `[B, P]` float.
    candidates: `Candidates`.
    mask: Candidates that are real `[B, N]` bool.
    label: `[B, N]` float32, 1 = positive.
    weight: Of the candidate in the supervised loss `[B, N]` float32.
    own: `Behaviours` in the candidates' domain.
    other: `Behaviours` in the other domain.
  """

  user: tf.Tensor
  profile: tf.Tensor
  candidates: Candidates
  mask: tf.Tensor
  label: tf.Tensor
  weight: tf.Tensor
  own: Behaviours
  other: Behaviours


class Picks(NamedTuple):
  """What was drawn: `[B, A]` anchors, `[B, A, P]` partners.

  Attributes:
    index: int64; 0 where there is none.
    found: bool.
  """

  index: tf.Tensor
  found: tf.Tensor


class Pairs(NamedTuple):
  """Per request A anchors among its positive candidates, and each anchor's P partners in either history."""

  anchor: Picks
  own: Picks
  other: Picks


class Positives(NamedTuple):
  """The positive candidates of the global batch of one domain, M = requests x N.

  Attributes:
    embedding: `[M, D]` float32.
    items: Catalogue rows `[M]` int64.
    users: Index of the first request of the same user `[M]` int64: a name for the user.
    usable: `[M]` bool: positive, and the first of its (user, item).
    own_users: `users` of this replica's own requests `[B]`.
    first_of_user: `[B]` bool: no earlier request of the global batch with a positive is of the same user.
  """

  embedding: tf.Tensor
  items: tf.Tensor
  users: tf.Tensor
  usable: tf.Tensor
  own_users: tf.Tensor
  first_of_user: tf.Tensor


def row_noise(seed: tf.Tensor, sizes: tuple[tf.Tensor, ...], width: int) -> list[tf.Tensor]:
  """Uniform noise in [0, 1) for this replica's rows of several batches.

  Args:
    seed: int32 `[2]`, the same on all replicas; every step its own.
    sizes: Requests of each batch on this replica.
    width: Numbers per request.

  Returns:
    `[size, width]` float32 each.
  """
  count, _ = replicas()
  noise = tf.random.stateless_uniform([count * tf.add_n(sizes), width], seed, alg="philox")
  parts = tf.split(noise, [count * size for size in sizes])
  return [own_rows(part, size) for part, size in zip(parts, sizes, strict=True)]


def pick(eligible: tf.Tensor, noise: tf.Tensor) -> Picks:
  """Of each row some eligible entries, all with the same probability: the floor(noise * eligible)-th.

  Args:
    eligible: `[B, A, L]` bool.
    noise: `[B, A, P]` in [0, 1).
  """
  position = tf.cumsum(tf.cast(eligible, tf.float32), axis=-1)
  count = position[..., -1:]
  chosen = tf.minimum(tf.floor(noise * count), count - 1.0)
  index = tf.searchsorted(position, chosen, side="right", out_type=tf.int64)
  index.set_shape(noise.shape)
  found = tf.broadcast_to(count > 0, tf.shape(index))
  return Picks(tf.where(found, index, tf.zeros_like(index)), found)


def seen_by(behaviours: Behaviours, candidates: tf.Tensor) -> tf.Tensor:
  """What the candidates `[B, A]` of each request see, `[B, A, L]` bool."""
  last = tf.shape(behaviours.visible, out_type=tf.int64)[1] - 1
  return gather_rows(behaviours.visible, tf.minimum(candidates, last))


def positive(batch: DomainBatch) -> tf.Tensor:
  """`[B, N]` bool."""
  return batch.mask & (batch.label > 0.5)


def noises(candidates: int, anchors: int, partners: int) -> int:
  """How many random numbers `sample_pairs` needs per request."""
  return candidates + 2 * anchors * partners


def sample_pairs(batch: DomainBatch, noise: tf.Tensor, anchors: int, partners: int) -> Pairs:
  """Anchors and partners, drawn uniformly.

  Anchors are different positive candidates, all of them if there are no more than `anchors`; partners are behaviours
  that the anchor may see, in the own domain such whose item is not the anchor's; one may be drawn several times.

  Args:
    batch: B requests of N candidates.
    noise: `[B, noises(N, A, P) or more]` in [0, 1).
    anchors: A of a request.
    partners: P of an anchor, in each history.
  """
  size = batch.label.shape[1]
  anchors = min(anchors, size)
  drawn = tf.math.top_k(tf.where(positive(batch), noise[:, :size], -1.0), anchors)
  found = drawn.values >= 0
  anchor = Picks(tf.where(found, tf.cast(drawn.indices, tf.int64), 0), found)
  # int64: TensorFlow compares int32 on the host
  item = tf.cast(gather_rows(batch.candidates.items, anchor.index), tf.int64)
  another = tf.cast(batch.own.items, tf.int64)[:, tf.newaxis] != item[..., tf.newaxis]
  partner_noise = tf.reshape(noise[:, size : noises(size, anchors, partners)], [-1, 2, anchors, partners])
  own = pick(seen_by(batch.own, anchor.index) & another & found[..., tf.newaxis], partner_noise[:, 0])
  other = pick(seen_by(batch.other, anchor.index) & found[..., tf.newaxis], partner_noise[:, 1])
  return Pairs(anchor, own, other)


def global_positives(batch: DomainBatch) -> Positives:
  """What all replicas know of each other's positives. Ties every replica of the strategy together."""
  size = tf.shape(batch.user)[0]
  candidate_count = tf.shape(batch.label)[1]
  chosen = positive(batch)
  facts = [tf.cast(batch.user, tf.int64)[:, tf.newaxis], tf.cast(batch.candidates.items, tf.int64)]
  facts = global_rows(tf.concat([*facts, tf.cast(chosen, tf.int64)], axis=1))
  embedding = global_rows(tf.cast(batch.candidates.embedding, tf.float32))
  user, items, chosen = facts[:, 0], facts[:, 1 : candidate_count + 1], facts[:, candidate_count + 1 :] > 0

  requests = tf.cast(tf.shape(user)[0], tf.float32)
  order = tf.range(requests)  # float32: the minimum of integers has no GPU kernel
  same = user[:, tf.newaxis] == user[tf.newaxis, :]
  name = tf.cast(tf.reduce_min(tf.where(same, order, requests), axis=1), tf.int64)
  anchors = tf.reduce_any(chosen, axis=1)
  first = tf.reduce_min(tf.where(same & anchors, order, requests), axis=1) == order

  users = tf.repeat(name, candidate_count)
  items, chosen = tf.reshape(items, [-1]), tf.reshape(chosen, [-1])
  return Positives(
    embedding=tf.reshape(embedding, [-1, batch.candidates.embedding.shape[-1]]),
    items=items,
    users=users,
    usable=chosen & first_occurrence(tf.where(chosen, users * 2**31 + items, -1)),
    own_users=own_rows(name, size),
    first_of_user=own_rows(first, size),
  )


def first_occurrence(keys: tf.Tensor) -> tf.Tensor:
  """Whether no earlier entry is equal: `[M]` int64 -> `[M]` bool. Sorts, so that nothing is M x M."""
  size = tf.shape(keys)[0]
  falling, order = tf.math.top_k(keys, size)  # the lower index first among equals
  new = tf.concat([tf.ones_like(falling[:1], tf.bool), falling[1:] != falling[:-1]], axis=0)
  flags = tf.scatter_nd(order[:, tf.newaxis], tf.cast(new, tf.float32), [size])
  return flags > 0


def negatives_of(
  batch: DomainBatch, pairs: Pairs, positives: Positives, mask_same_user: bool, mask_history: bool
) -> tf.Tensor:
  """Which positives of the global batch may be held against each anchor, `[B, A, M]` bool.

  They are of other users and other items, once per (user, item), and, with `mask_history`, not among the newest 50
  behaviours that the anchor sees.
  """
  item = tf.cast(gather_rows(batch.candidates.items, pairs.anchor.index), tf.int64)
  keep = positives.usable & (positives.items != item[..., tf.newaxis])
  if mask_same_user:
    keep &= positives.users != positives.own_users[:, tf.newaxis, tf.newaxis]
  if mask_history:
    seen = seen_by(batch.own, pairs.anchor.index)
    recent, valid = masked_top_k(tf.zeros_like(seen, tf.float32), seen, RECENT)
    recent = tf.where(valid, gather_rows(tf.cast(batch.own.items, tf.int64), recent), -1)
    keep &= ~is_among(positives.items, recent)
  return keep


def is_among(items: tf.Tensor, lists: tf.Tensor) -> tf.Tensor:
  """Whether item m is in list b, a: `[M]`, `[B, A, K]` int64 -> `[B, A, M]` bool.

  Looks each entry of the lists up among the items, of which there are far more than K.
  """
  size = tf.shape(items)[0]
  rising = -tf.math.top_k(-items, size).values
  entries = tf.reshape(lists, [-1])
  place = tf.minimum(tf.searchsorted(rising, entries, out_type=tf.int64), tf.cast(size, tf.int64) - 1)
  met = tf.cast(tf.gather(rising, place) == entries, tf.float32)
  # the first place of an item stands for all of its places
  rows = tf.size(lists[..., 0], out_type=tf.int64)
  row = tf.repeat(tf.range(rows), tf.shape(lists)[-1])
  marks = tf.scatter_nd(tf.stack([row, place], axis=1), met, [rows, tf.cast(size, tf.int64)])
  marks = tf.gather(marks, tf.searchsorted(rising, items, out_type=tf.int64), axis=1)
  return tf.reshape(marks, tf.concat([tf.shape(lists)[:-1], [size]], axis=0)) > 0

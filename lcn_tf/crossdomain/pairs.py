"""The pairs of CRP and their in-batch negatives.

Under `tf.distribute` each replica holds an equal share of the global batch: replica r has the rows
`r * B .. (r + 1) * B - 1`. Two results depend on other rows: the negatives of an anchor, and which request of a user
comes first. Both are decided on the global batch, and the noise is drawn for all of its rows. So the number of replicas
changes nothing.
"""

from typing import NamedTuple

import tensorflow as tf

from lcn_tf.layers.masked import gather_rows, masked_top_k
from lcn_tf.layers.replicas import global_rows, own_rows, replicas
from lcn_tf.layers.structures import Behaviours, Candidates

RECENT = 50


class DomainBatch(NamedTuple):
  """Requests of one domain as CRP reads them. The candidates are of that domain.

  Attributes:
    user: User of each request, `[B]` int64.
    profile: Embedded fields of the user, `[B, P]` float.
    candidates: `Candidates` of each request.
    mask: Mask of the real candidates, bool `[B, N]`.
    label: Labels, `[B, N]` float32, 1 = positive.
    weight: Weights of the candidates in the supervised loss, `[B, N]` float32.
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
  """Drawn anchors `[B, A]`, or drawn partners `[B, A, P]`.

  Attributes:
    index: Position of each draw, int64; 0 where nothing was found.
    found: Mask of the draws, bool.
  """

  index: tf.Tensor
  found: tf.Tensor


class Pairs(NamedTuple):
  """Anchors of each request, A among its positive candidates, and P partners of each anchor from either history."""

  anchor: Picks
  own: Picks
  other: Picks


class Positives(NamedTuple):
  """Candidates of the global batch of one domain, with a mask of the usable positives; M = requests x N.

  Attributes:
    embedding: Item embeddings, `[M, D]` float32.
    items: Catalogue rows, `[M]` int64.
    users: Index of the user's first request, `[M]` int64. It identifies the user.
    usable: Mask of the positives that are the first of their (user, item), bool `[M]`.
    own_users: `users` of the requests of this replica, `[B]`.
    first_of_user: Mask of this replica's requests, bool `[B]`. True if no earlier request of the global batch with a
      positive is of the same user.
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
    seed: Seed, int32 `[2]`, the same on all replicas and different at every step.
    sizes: Requests of each batch on this replica.
    width: Random numbers per request.

  Returns:
    Noise of each batch, `[size, width]` float32.
  """
  count, _ = replicas()
  noise = tf.random.stateless_uniform([count * tf.add_n(sizes), width], seed, alg="philox")
  parts = tf.split(noise, [count * size for size in sizes])
  return [own_rows(part, size) for part, size in zip(parts, sizes, strict=True)]


def pick(eligible: tf.Tensor, noise: tf.Tensor) -> Picks:
  """Draws eligible entries of each row, all with the same probability.

  Of n eligible entries a draw takes number floor(noise * n), counted from 0.

  Args:
    eligible: Mask of the entries that may be drawn, bool `[B, A, L]`.
    noise: Random numbers in [0, 1), one per draw, `[B, A, P]`.

  Returns:
    Draws `[B, A, P]`; not found where a row has no eligible entry.
  """
  position = tf.cumsum(tf.cast(eligible, tf.float32), axis=-1)
  count = position[..., -1:]
  chosen = tf.minimum(tf.floor(noise * count), count - 1.0)
  index = tf.searchsorted(position, chosen, side="right", out_type=tf.int64)
  index.set_shape(noise.shape)
  found = tf.broadcast_to(count > 0, tf.shape(index))
  return Picks(tf.where(found, index, tf.zeros_like(index)), found)


def seen_by(behaviours: Behaviours, candidates: tf.Tensor) -> tf.Tensor:
  """Behaviours that the candidates at the positions `[B, A]` see, bool `[B, A, L]`."""
  last = tf.shape(behaviours.visible, out_type=tf.int64)[1] - 1
  return gather_rows(behaviours.visible, tf.minimum(candidates, last))


def positive(batch: DomainBatch) -> tf.Tensor:
  """Mask of the real, positive candidates, bool `[B, N]`."""
  return batch.mask & (batch.label > 0.5)


def noises(candidates: int, anchors: int, partners: int) -> int:
  """Random numbers per request that `sample_pairs` needs."""
  return candidates + 2 * anchors * partners


def sample_pairs(batch: DomainBatch, noise: tf.Tensor, anchors: int, partners: int) -> Pairs:
  """Draws anchors and partners uniformly.

  Anchors are different positive candidates: all of them, if a request has at most `anchors`. Partners are behaviours
  that the anchor may see. In the own domain the partner's item differs from the anchor's. One behaviour may be drawn
  several times.

  Args:
    batch: B requests of N candidates.
    noise: Random numbers in [0, 1), `[B, noises(N, A, P) or more]`.
    anchors: Anchors A of a request.
    partners: Partners P of an anchor in each history.

  Returns:
    Pairs of each request.
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
  """Candidates of all replicas, with the usable positives among them.

  This is a collective operation, so every replica of the strategy must call it.
  """
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
  """Whether no earlier entry is equal, bool `[M]` for keys `[M]` int64. It sorts, so no tensor is M x M."""
  size = tf.shape(keys)[0]
  falling, order = tf.math.top_k(keys, size)  # the lower index first among equals
  new = tf.concat([tf.ones_like(falling[:1], tf.bool), falling[1:] != falling[:-1]], axis=0)
  flags = tf.scatter_nd(order[:, tf.newaxis], tf.cast(new, tf.float32), [size])
  return flags > 0


def negatives_of(
  batch: DomainBatch, pairs: Pairs, positives: Positives, mask_same_user: bool, mask_history: bool
) -> tf.Tensor:
  """In-batch negatives of each anchor among the positives of the global batch, bool `[B, A, M]`.

  They are items other than the anchor's, once per (user, item). With `mask_same_user` they are of other users. With
  `mask_history` they are not among the newest 50 behaviours of the own domain that the anchor sees.
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
  """Whether item m is in the list of anchor (b, a), bool `[B, A, M]`.

  The entries of the lists are looked up among the items, because there are far more items than the K entries of a list.

  Args:
    items: Items, `[M]` int64.
    lists: List of each anchor, `[B, A, K]` int64.
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

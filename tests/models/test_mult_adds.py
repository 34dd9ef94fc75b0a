import tensorflow as tf

from lcn_tf.models.mult_adds import count_call


def _total(call, *shapes):
  return count_call(call, *(tf.zeros(shape) for shape in shapes)).total


def test_a_product_counts_its_three_sizes_however_it_is_transposed():
  assert _total(tf.matmul, [2, 3], [3, 5]) == 2 * 3 * 5
  assert _total(lambda a, b: tf.matmul(a, b, transpose_a=True), [3, 2], [3, 5]) == 2 * 3 * 5
  assert _total(lambda a, b: tf.matmul(a, b, transpose_a=True, transpose_b=True), [3, 2], [5, 3]) == 2 * 3 * 5


def test_a_batch_of_products_counts_every_one():
  assert _total(tf.matmul, [7, 4, 2, 3], [7, 4, 3, 5]) == 7 * 4 * 2 * 3 * 5
  assert _total(lambda a, b: tf.matmul(a, b, transpose_a=True), [7, 3, 2], [7, 3, 5]) == 7 * 2 * 3 * 5
  assert _total(tf.matmul, [7, 1, 2, 3], [1, 4, 3, 5]) == 7 * 4 * 2 * 3 * 5


def test_an_einsum_counts_the_sizes_of_all_its_indices():
  assert _total(lambda a, b: tf.einsum("bnd,hde->bnhe", a, b), [2, 3, 5], [7, 5, 11]) == 2 * 3 * 7 * 5 * 11
  assert _total(lambda a, b: tf.einsum("...d,de->...e", a, b), [2, 3, 5], [5, 7]) == 2 * 3 * 5 * 7
  assert _total(lambda a, b: tf.einsum("...ij,b...jk->b...ik", a, b), [3, 2, 5], [4, 3, 5, 7]) == 3 * 4 * 2 * 5 * 7
  assert _total(lambda a: tf.einsum("bnd->bdn", a), [2, 3, 5]) == 0


def test_elementwise_arithmetic_is_not_counted():
  assert _total(lambda a, b: tf.nn.softmax(a * b + tf.reduce_sum(a)), [20, 30], [20, 30]) == 0


def test_kinds_are_kept_apart():
  found = count_call(lambda a, b: (tf.matmul(a, b), tf.matmul(a[tf.newaxis], b)), tf.zeros([2, 3]), tf.zeros([3, 5]))
  assert found.by_op == {"MatMul": 30, "BatchMatMulV2": 30}


def test_called_functions_are_counted_as_often_as_they_are_called():
  inner = tf.function(tf.matmul, autograph=False)
  outer = tf.function(lambda a, b: inner(inner(a, b), b), autograph=False)
  assert _total(lambda a, b: outer(a, b) + outer(a, b), [2, 3], [3, 3]) == 4 * 2 * 3 * 3
  # one function without a fixed shape, called with two
  free = tf.function(tf.matmul, autograph=False, input_signature=[tf.TensorSpec([None, 3]), tf.TensorSpec([3, None])])
  assert _total(lambda a, b: (free(a, b), free(a[:1], b)), [2, 3], [3, 5]) == (2 + 1) * 3 * 5


def test_a_gradient_is_counted_too():
  @tf.custom_gradient
  def product(a, b):
    return tf.matmul(a, b), lambda d: (tf.matmul(d, b, transpose_b=True), tf.matmul(a, d, transpose_a=True))

  assert _total(lambda a, b: tf.gradients(product(a, b), [a, b]), [2, 3], [3, 5]) == 3 * 2 * 3 * 5


def test_of_a_conditional_the_dearest_branch_counts():
  def call(a, b):
    twice = lambda: tf.matmul(tf.matmul(a, b), b)  # noqa: E731
    return tf.cond(a[0, 0] > 0, lambda: tf.matmul(a, b), twice)

  assert _total(call, [2, 3], [3, 3]) == 2 * 2 * 3 * 3

  def case(a, b):
    return tf.switch_case(tf.cast(a[0, 0], tf.int32), [lambda: tf.matmul(a, b), lambda: a, lambda: a])

  assert _total(case, [2, 3], [3, 3]) == 2 * 3 * 3


def test_a_loop_counts_its_body_as_often_as_it_may_run():
  def call(a, b):
    return tf.while_loop(lambda x: x[0, 0] < 9, lambda x: [tf.matmul(x, b)], [a], maximum_iterations=6)

  assert _total(call, [2, 3], [3, 3]) == 6 * 2 * 3 * 3
  assert _total(lambda a, b: tf.map_fn(lambda row: tf.matmul(row[tf.newaxis], b), a), [4, 3], [3, 5]) == 4 * 3 * 5


def test_a_loop_of_unknown_length_is_told():
  def call(a, b):
    return tf.while_loop(lambda x: x[0, 0] < 9, lambda x: [tf.matmul(x, b)], [a])

  found = count_call(call, tf.zeros([2, 3]), tf.zeros([3, 3]))
  assert (found.total, len(found.loops)) == (2 * 3 * 3, 1)


def test_what_xla_compiles_is_counted():
  compiled = tf.function(tf.matmul, autograph=False, jit_compile=True)
  assert _total(lambda a, b: compiled(a, b), [2, 3], [3, 5]) == 2 * 3 * 5


def test_a_product_whose_size_depends_on_the_data_is_told():
  def call(a, b):
    return tf.matmul(tf.boolean_mask(a, a[:, 0] > 0), b) + tf.reduce_sum(tf.matmul(a, b))

  found = count_call(call, tf.zeros([2, 3]), tf.zeros([3, 5]))
  assert (found.total, found.unknown) == (2 * 3 * 5, ("MatMul",))


def test_a_sparse_product_counts_its_entries():
  sparse = tf.sparse.from_dense([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
  assert _total(lambda b: tf.sparse.sparse_dense_matmul(sparse, b), [3, 5]) == 3 * 5

"""Exact networks give the integers that integer arithmetic gives, and refuse what they cannot prove."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.codec.entropy.exact import (
    ACTIVATION_LIMIT,
    FLOAT32_LIMIT,
    FLOAT64_LIMIT,
    INPUT_LIMIT,
    ExactLayer,
    ExactNetwork,
)
from shared.errors import WeightsError
from tests.programs import output_by_threads


def _network(seed, sizes=(13, 32, 24, 3), sum_limit=FLOAT64_LIMIT):
    random = np.random.default_rng(seed)
    layers = [
        (random.normal(size=(after, before)) / before**0.5, random.normal(size=after) * 0.1)
        for before, after in pairwise(sizes)
    ]
    return ExactNetwork.from_floats(layers, 1 / 64, 16, sum_limit=sum_limit), layers


def _by_python_integers(network, row):
    for i, layer in enumerate(network.layers):
        sums = [sum(int(w) * int(x) for w, x in zip(r, row, strict=True)) for r in layer.weights]
        row = [(s + int(b)) >> layer.shift for s, b in zip(sums, layer.bias, strict=True)]
        if i < len(network.layers) - 1:
            row = [min(max(x, 0), ACTIVATION_LIMIT) for x in row]
    return row


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([FLOAT32_LIMIT, FLOAT64_LIMIT]), st.sampled_from([30, INPUT_LIMIT]))
def test_the_result_is_that_of_python_integers(seed, sum_limit, limit):
    network, _ = _network(seed % 7, sum_limit=sum_limit)
    x = np.random.default_rng(seed).integers(-limit, limit + 1, (6, 13))
    assert network(x).tolist() == [_by_python_integers(network, row) for row in x]


def test_extreme_inputs_are_exact():
    network, _ = _network(1, sum_limit=FLOAT32_LIMIT)
    signs = np.sign(network.layers[0].weights).astype(np.int64) * INPUT_LIMIT
    assert network(signs).tolist() == [_by_python_integers(network, row) for row in signs]


def test_float32_is_taken_only_where_it_is_proven():
    assert _network(2, sum_limit=FLOAT32_LIMIT)[0].dtype is np.float32
    assert _network(2)[0].dtype is np.float64


@pytest.mark.parametrize("sum_limit", [FLOAT32_LIMIT, FLOAT64_LIMIT])
def test_the_result_is_near_that_of_the_trained_floats(sum_limit):
    network, layers = _network(3, sum_limit=sum_limit)
    x = np.random.default_rng(4).integers(-120, 121, (500, 13))
    expected = x / 64.0
    for i, (weights, bias) in enumerate(layers):
        expected = expected @ weights.T + bias
        if i < len(layers) - 1:
            expected = expected.clip(0, 16)
    np.testing.assert_allclose(network(x) / 16, expected, atol=0.1)


def test_more_rows_than_one_chunk_give_the_same():
    network, _ = _network(5)
    x = np.random.default_rng(6).integers(-500, 501, (5_000, 13))
    np.testing.assert_array_equal(network(x)[2_040:2_060], network(x[2_040:2_060]))
    assert network(x[:0]).shape == (0, 3)


def test_the_network_comes_back_from_its_tensors():
    network, _ = _network(7)
    again = ExactNetwork.from_tensors(network.to_tensors("net"), "net")
    x = np.random.default_rng(8).integers(-500, 501, (50, 13))
    np.testing.assert_array_equal(again(x), network(x))
    assert (again.inputs, again.outputs, again.input_limit) == (13, 3, INPUT_LIMIT)


@pytest.mark.parametrize("name", ["net.shifts", "net.input_limit", "net.0.weights", "net.1.bias"])
def test_missing_or_foreign_tensors_are_refused(name):
    tensors = _network(9)[0].to_tensors("net")
    with pytest.raises(WeightsError, match=name):
        ExactNetwork.from_tensors({key: value for key, value in tensors.items() if key != name}, "net")
    with pytest.raises(WeightsError, match=name):
        ExactNetwork.from_tensors({**tensors, name: tensors[name].astype(np.float32)}, "net")


def _layer(weight, bias, shift=0, shape=(2, 3)):
    return ExactLayer(np.full(shape, weight, np.int16), np.full(shape[0], bias, np.int64), shift)


@pytest.mark.parametrize("bias", [FLOAT64_LIMIT, -FLOAT64_LIMIT, FLOAT64_LIMIT - 3 * INPUT_LIMIT, -(2**63)])
def test_sums_that_could_be_inexact_are_refused(bias):
    with pytest.raises(WeightsError, match="exact"):
        ExactNetwork((_layer(1, bias),))


def test_the_largest_provable_sum_is_accepted():
    network = ExactNetwork((_layer(1, FLOAT64_LIMIT - 1 - 3 * INPUT_LIMIT),))
    assert network(np.full((1, 3), INPUT_LIMIT))[0, 0] == FLOAT64_LIMIT - 1


@pytest.mark.parametrize(
    "layers",
    [
        (),
        (_layer(1, 0, shift=-1),),
        (_layer(1, 0, shift=25),),
        (_layer(1, 0), _layer(1, 0)),
        (ExactLayer(np.ones((2, 3), np.int16), np.zeros(3, np.int64), 0),),
        (ExactLayer(np.ones((2, 3)), np.zeros(2, np.int64), 0),),  # type: ignore[arg-type]
    ],
)
def test_layers_that_contradict_are_refused(layers):
    with pytest.raises(WeightsError):
        ExactNetwork(layers)


def test_weights_too_large_to_round_are_refused():
    with pytest.raises(WeightsError, match="too large"):
        ExactNetwork.from_floats([(np.full((1, 1), 1e9), np.zeros(1))], 1.0, 1.0)


_PROGRAM = """
import hashlib, numpy as np
from tests.test_exact import _network
x = np.random.default_rng(0).integers(-2047, 2048, (300, 200))
for limit in (1 << 24, 1 << 53):
    print(hashlib.sha256(_network(1, (200, 300, 300, 5), limit)[0](x).tobytes()).hexdigest())
"""


def test_threads_do_not_change_the_result():
    assert len(output_by_threads(_PROGRAM).split()) == 2

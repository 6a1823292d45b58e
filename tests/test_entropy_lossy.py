"""The lossy levels of the entropy codec: what goes in comes out as the encoder expects, whatever travels together."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from shared.codec.entropy.context import FEATURE_BOUND, QUALITIES, PatchContext, inputs_of, quantiser_steps
from shared.codec.entropy.lossy import run
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.codec.entropy.part_network import ALWAYS, PART_ACTIVATION_LIMIT
from shared.codec.entropy.schedule import GROUP_ENDS, GROUPS, parts_of, passes_of, steps
from shared.codec.entropy.symbols import SymbolCosts
from shared.codec.entropy.transform import COEFFICIENTS, MEANS
from shared.codec.entropy.weights import load_lossy
from shared.errors import WeightsError
from shared.patches import PatchGrid, join, split

MODEL, _ = load_lossy()
IMAGE = np.ascontiguousarray(astronaut()[:160, 100:340])
GRID = PatchGrid.of(IMAGE)
PATCHES = split(IMAGE)
COEFFICIENTS_OF_IMAGE = MODEL.transform.analyse(PATCHES)


def _context(numbers, qualities, packets=None):
    rows, columns = np.divmod(np.asarray(numbers), GRID.columns)
    background = np.zeros((len(numbers), MEANS))
    return PatchContext(rows, columns, np.asarray(qualities, np.int64), background, packets)


def _psnr_db(a, b):
    return 10 * np.log10(255**2 / np.square(a.astype(float) - b).mean())


def test_transform_gives_every_patch_back():
    coefficients = np.rint(COEFFICIENTS_OF_IMAGE).astype(np.float64)
    np.testing.assert_array_equal(MODEL.transform.synthesise(coefficients), PATCHES)


def test_means_of_even_patches_are_foretold_to_the_unit():
    colours = np.array([[0, 0, 0], [255, 255, 255], [12, 200, 77]], np.uint8)
    even = np.broadcast_to(colours[:, None, None], (3, 8, 8, 3))
    foretold = MODEL.transform.means_of(colours.astype(np.float64) * 64)
    np.testing.assert_allclose(foretold, MODEL.transform.analyse(even)[:, :MEANS], atol=16)


def test_every_step_codes_every_patch_once():
    rows, columns = np.divmod(np.arange(13 * 21), 21)
    for group in range(GROUPS):
        seen = np.concatenate([s.targets(rows, columns) for s in steps() if s.group == group])
        assert sorted(seen) == list(range(13 * 21))


@pytest.mark.parametrize("quality", [24, 64, 100])
def test_decoder_has_what_the_encoder_expects(quality):
    numbers = np.arange(GRID.count)
    qualities = np.full(GRID.count, quality)
    encoding = MODEL.encode(COEFFICIENTS_OF_IMAGE, _context(numbers, qualities), DEFAULT_PRICE)
    decoding = MODEL.decode(encoding.bodies, _context(numbers, qualities))
    assert not decoding.damaged.any()
    np.testing.assert_array_equal(decoding.coefficients, encoding.coefficients)
    assert abs(encoding.bits.sum() / 8 - len(encoding.bodies[0])) < 0.02 * len(encoding.bodies[0]) + 8


@pytest.mark.parametrize("quality", [24, 64, 100])
def test_measured_bytes_are_nearly_the_coded_ones(quality):
    numbers, qualities, packets = np.arange(GRID.count), np.full(GRID.count, quality), np.arange(GRID.count) // 200
    coded = MODEL.encode(COEFFICIENTS_OF_IMAGE, _context(numbers, qualities, packets), DEFAULT_PRICE)
    measured = MODEL.measure(COEFFICIENTS_OF_IMAGE, _context(numbers, qualities, packets), DEFAULT_PRICE)
    sizes = np.array([len(body) for body in coded.bodies])
    np.testing.assert_allclose(measured.body_bytes, sizes, rtol=0.035, atol=4)
    assert abs(sum(measured.body_bytes) / sizes.sum() - 1) < 0.03


def test_parts_are_predicted_from_those_before_and_no_others():
    rng = np.random.default_rng(3)
    for group, network in enumerate(MODEL.networks):
        features = rng.integers(-100, 100, (5, network.inputs)).astype(np.float64)
        shared = network.shared(features)
        for number, part in enumerate(parts_of(group)):
            own = rng.integers(-FEATURE_BOUND, FEATURE_BOUND + 1, (5, part.start)).astype(np.float64)
            assert network.part(number, shared, own).shape == (5, 2 * (part.stop - part.start))
            np.testing.assert_array_equal(network.shared(features), shared)
            for row in range(5):
                expected = _part_by_integers(network, number, features[row], own[row])
                np.testing.assert_array_equal(network.part(number, shared, own)[row], expected)


def _part_by_integers(network, number, features, own):
    first, sizes = network.first, [size // 2 for size in network.outputs]
    begin = network.inputs + sum(1 + sum(sizes[:before]) for before in range(number))
    row = [int(x) for x in [*features, ALWAYS, *own]]
    columns = [*range(network.inputs), *range(begin, begin + 1 + len(own))]
    sums = first.weights[:, columns].astype(np.int64) @ np.array(row)
    hidden = np.clip((sums + first.bias) >> first.shift, 0, PART_ACTIVATION_LIMIT)
    for layer in network.heads[number].layers[:-1]:
        hidden = np.clip(
            (layer.weights.astype(np.int64) @ hidden + layer.bias) >> layer.shift, 0, PART_ACTIVATION_LIMIT
        )
    last = network.heads[number].layers[-1]
    return (last.weights.astype(np.int64) @ hidden + last.bias) >> last.shift


def test_networks_that_do_not_fit_are_refused():
    network = MODEL.networks[1]
    with pytest.raises(WeightsError, match="fit"):
        replace(network, heads=(*network.heads, MODEL.networks[2].heads[0]))
    with pytest.raises(WeightsError, match="fit"):
        replace(network, heads=())
    with pytest.raises(WeightsError, match="right shapes"):
        replace(MODEL, networks=MODEL.networks[::-1])


def test_tables_and_estimates_that_do_not_fit_are_refused():
    estimates = MODEL.estimates
    with pytest.raises(WeightsError, match="as many tables"):
        replace(MODEL, shrink=MODEL.shrink[:1])
    with pytest.raises(WeightsError, match="as many estimates"):
        replace(estimates, shrink=MODEL.shrink)
    with pytest.raises(WeightsError, match="every quantiser"):
        replace(estimates, factors=estimates.factors[1:])
    with pytest.raises(WeightsError, match="every quantiser"):
        replace(estimates, factors=estimates.factors * np.nan)
    with pytest.raises(WeightsError, match="bits"):
        SymbolCosts(estimates.costs.bits - 100)


def test_finer_quantisers_cost_more_and_show_more():
    numbers = np.arange(GRID.count)
    sizes, quality_db = [], []
    for quality in (104, 88, 72, 56, 40, 24):
        encoding = MODEL.encode(COEFFICIENTS_OF_IMAGE, _context(numbers, np.full(GRID.count, quality)), DEFAULT_PRICE)
        sizes.append(len(encoding.bodies[0]))
        quality_db.append(_psnr_db(IMAGE, join(MODEL.transform.synthesise(encoding.coefficients), GRID)))
    assert sizes == sorted(sizes)
    assert quality_db == sorted(quality_db)
    # A quantiser of step d leaves about d^2 / 12 where it matters: 1.41 grey levels here.
    assert quality_db[-1] > 49


@settings(max_examples=20, deadline=None)
@given(st.data())
def test_any_patches_under_any_quantisers_in_any_packets(data):
    count = data.draw(st.integers(1, 60))
    numbers = data.draw(st.permutations(range(GRID.count)))[:count]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    qualities, packets = rng.integers(0, QUALITIES, count), np.sort(rng.integers(0, 3, count))
    packets = np.unique(packets, return_inverse=True)[1]
    coefficients = COEFFICIENTS_OF_IMAGE[numbers]
    encoding = MODEL.encode(coefficients, _context(numbers, qualities, packets), DEFAULT_PRICE)
    decoding = MODEL.decode(encoding.bodies, _context(numbers, qualities, packets))
    np.testing.assert_array_equal(decoding.coefficients, encoding.coefficients)


@pytest.mark.parametrize("quality", [60, 150])
def test_patches_that_are_as_foretold_are_shown_so(quality):
    """The means of a patch of its background's colour need no correction, and are no zeros for all that."""
    context = _context(np.arange(3), np.full(3, quality), np.arange(3))
    run(context, MODEL, MODEL.shrink, lambda prediction: np.zeros_like(prediction.scales), np.ones(3, np.int64))
    foretold = context.values[:-1].astype(np.float32)
    assert np.abs(foretold[:, 0]).min() > 0
    encoding = MODEL.encode(foretold, _context(np.arange(3), np.full(3, quality), np.arange(3)), DEFAULT_PRICE)
    decoding = MODEL.decode(encoding.bodies, _context(np.arange(3), np.full(3, quality), np.arange(3)))
    np.testing.assert_array_equal(decoding.coefficients, foretold)
    np.testing.assert_array_equal(encoding.coefficients, foretold)


def test_packet_decodes_without_the_others():
    numbers, qualities = np.arange(GRID.count), np.full(GRID.count, 70)
    packets = (numbers >= GRID.count // 2).astype(np.int64)
    both = MODEL.encode(COEFFICIENTS_OF_IMAGE, _context(numbers, qualities, packets), DEFAULT_PRICE)
    second = packets == 1
    alone = MODEL.decode(both.bodies[1:], _context(numbers[second], qualities[second]))
    np.testing.assert_array_equal(alone.coefficients, both.coefficients[second])


def test_company_saves_bytes():
    numbers, qualities = np.arange(GRID.count), np.full(GRID.count, 80)
    together = MODEL.encode(COEFFICIENTS_OF_IMAGE, _context(numbers, qualities), DEFAULT_PRICE)
    apart = MODEL.encode(COEFFICIENTS_OF_IMAGE, _context(numbers, qualities, numbers // 40), DEFAULT_PRICE)
    assert len(together.bodies[0]) < 0.97 * sum(map(len, apart.bodies))


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_decode_to_something_or_are_told_as_damaged(data):
    numbers, qualities = np.arange(20), np.full(20, 60)
    decoding = MODEL.decode([data], _context(numbers, qualities))
    assert decoding.coefficients.shape == (20, COEFFICIENTS)
    assert np.isfinite(decoding.coefficients).all()


def test_damage_of_one_packet_leaves_the_others_alone():
    numbers, qualities = np.arange(GRID.count), np.full(GRID.count, 70)
    packets = numbers % 3
    encoding = MODEL.encode(COEFFICIENTS_OF_IMAGE, _context(numbers, qualities, packets), DEFAULT_PRICE)
    bodies = [encoding.bodies[0], b"\xff" + encoding.bodies[1][1:], encoding.bodies[2]]
    decoding = MODEL.decode(bodies, _context(numbers, qualities, packets))
    assert decoding.damaged.tolist() == [False, True, False]
    np.testing.assert_array_equal(decoding.coefficients[packets != 1], encoding.coefficients[packets != 1])


def test_beginning_of_a_packet_shows_all_its_patches_more_coarsely():
    numbers, qualities = np.arange(GRID.count), np.full(GRID.count, 70)
    body = MODEL.encode(COEFFICIENTS_OF_IMAGE, _context(numbers, qualities), DEFAULT_PRICE).bodies[0]
    quality_db = []
    for share in (0.1, 0.3, 0.6, 0.9, 1.0):
        beginning = body[: round(share * len(body))]
        decoding = MODEL.decode([beginning], _context(numbers, qualities), np.array([share < 1]))
        assert not decoding.damaged.any()
        quality_db.append(_psnr_db(IMAGE, join(MODEL.transform.synthesise(decoding.coefficients), GRID)))
    assert quality_db == sorted(quality_db)
    assert quality_db[0] > 15
    assert quality_db[-1] > 39


def test_group_sizes_and_inputs_fit():
    assert GROUP_ENDS[-1] == COEFFICIENTS
    assert [network.inputs for network in MODEL.networks] == [inputs_of(group) for group in range(GROUPS)]
    assert [len(network.heads) for network in MODEL.networks] == [
        len(step.parts) for step in steps() if not step.number
    ]
    assert len(passes_of(0)) == 7
    assert quantiser_steps()[16] == 2 * quantiser_steps()[0]


GOLDEN = Path(__file__).parent / "expected" / "entropy_golden.json"

DECODE = """
import hashlib, json, sys
import numpy as np
from shared.codec.entropy.context import PatchContext
from shared.codec.entropy.weights import load_lossy
golden = json.loads(open(sys.argv[1]).read())
model, _ = load_lossy()
rows, columns = np.divmod(np.arange(golden["rows"] * golden["columns"]), golden["columns"])
qualities = np.full(len(rows), golden["quality"])
context = PatchContext(rows, columns, qualities, np.zeros((len(rows), 3)))
decoded = model.decode([bytes.fromhex(golden["body"])], context).coefficients
print(hashlib.sha256(decoded.astype("<i8").tobytes()).hexdigest())
"""


@pytest.mark.parametrize(
    "environment",
    [
        {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        {"OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"},
        # The matrix library's code for other processors adds up in other orders.
        {"OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_CORETYPE": "Nehalem"},
    ],
    ids=lambda environment: ",".join(environment.values()),
)
def test_golden_body_decodes_to_the_same_everywhere(environment):
    """`python -m tests.make_entropy_golden` makes the file anew when the weights change."""
    arguments = [sys.executable, "-c", DECODE, str(GOLDEN)]
    done = subprocess.run(arguments, env={**os.environ, **environment}, capture_output=True, check=True, text=True)
    assert done.stdout.strip() == json.loads(GOLDEN.read_text())["sha256"]

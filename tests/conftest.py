"""Settings of all tests."""

import os

import pytest
from hypothesis import settings

# No example has a deadline: a busy machine is no reason to fail, and speed is measured by the benchmarks.
settings.register_profile("desk", deadline=None)
# A submission is judged on the same examples each time; new ones are looked for at the desk.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

# Helpers that assert on behalf of tests say what was there instead, as the tests themselves do.
pytest.register_assert_rewrite("commands", "hub_fakes", "tests.programs", "weights_fakes")


@pytest.fixture
def one_thread():
    """Torch sums in one order: for tests that train twice and compare."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

"""Errors cross from one process to another with all that they carry."""

import pickle

import pytest

from shared import errors

EXAMPLES = {
    errors.InvalidInputError: ("budget", "is below 0"),
    errors.BudgetTooSmallError: ("budget", "holds no header"),
    errors.BusyError: ("64 calls at once", 1.5),
    errors.StoreError: ("no room", "full"),
}


def _classes(root):
    return [root, *(leaf for child in root.__subclasses__() for leaf in _classes(child))]


@pytest.mark.parametrize("kind", [kind for kind in _classes(errors.MmscError) if kind.__module__ == errors.__name__])
def test_errors_survive_pickling(kind):
    error = kind(*EXAMPLES.get(kind, ("what is wrong",)))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (str(copy), vars(copy)) == (str(error), vars(error))

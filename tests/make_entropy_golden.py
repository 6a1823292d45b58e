"""`python -m tests.make_entropy_golden`: a coded picture and what it decodes to, for the shipped weights."""

import hashlib
import json

import numpy as np
from skimage.data import chelsea

from shared.codec.entropy.context import PatchContext
from shared.codec.entropy.lossy_model import DEFAULT_PRICE
from shared.codec.entropy.weights import load_lossy
from shared.patches import PatchGrid, split
from tests.test_entropy_lossy import GOLDEN

QUALITY = 76


def main() -> None:
    """Writes tests/expected/entropy_golden.json."""
    model, _ = load_lossy()
    image = np.ascontiguousarray(chelsea()[:96, 64:224])
    grid = PatchGrid.of(image)
    rows, columns = np.divmod(np.arange(grid.count), grid.columns)
    context = PatchContext(rows, columns, np.full(grid.count, QUALITY), np.zeros((grid.count, 3)))
    encoding = model.encode(model.transform.analyse(split(image)), context, DEFAULT_PRICE)
    golden = {
        "rows": grid.rows,
        "columns": grid.columns,
        "quality": QUALITY,
        "body": encoding.bodies[0].hex(),
        "sha256": hashlib.sha256(encoding.coefficients.astype("<i8").tobytes()).hexdigest(),
    }
    GOLDEN.write_text(json.dumps(golden, indent=2) + "\n")


if __name__ == "__main__":
    main()

"""Settings of all tests."""

import os

from hypothesis import settings

# No example has a deadline: a busy machine is no reason to fail, and speed is measured by the benchmarks.
settings.register_profile("desk", deadline=None)
# A submission is judged on the same examples each time; new ones are looked for at the desk.
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

"""Settings of all tests."""

import os

from hypothesis import settings

# A submission is judged on the same examples each time; new ones are looked for at the desk.
settings.register_profile("ci", derandomize=True, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

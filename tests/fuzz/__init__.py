"""Fuzzing of every decoder of bytes from outside: `python -m tests.fuzz` (see `__main__`)."""

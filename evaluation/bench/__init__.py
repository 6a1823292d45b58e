"""Measurements of what the system promises: each prints a table and writes out/bench/NAME.json."""

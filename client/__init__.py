"""The Python client, the `mmsc` command line and its figures."""

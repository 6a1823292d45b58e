"""Traces of links that the project generated; `channel_emulator.replay` lists them."""

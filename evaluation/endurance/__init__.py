"""Do the three services survive the real world: killed, stalled, cut off, crowded, and left alone for a long time."""

"""From the bytes that came through the channel to a picture."""

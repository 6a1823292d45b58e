"""What keeps a picture useful on a link that fades, stalls and drops: a sender that listens to the receiver."""

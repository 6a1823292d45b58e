"""A link with a rate, a delay and a finite queue between the transmitter and the receiver."""

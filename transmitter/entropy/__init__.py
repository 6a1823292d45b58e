"""The entropy codec's sending half: importance to levels, levels to bytes, bytes to the budget."""

"""The ladder's sending half: errors of every level, upgrades in order of merit, levels within the budget."""

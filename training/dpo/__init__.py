"""`mesh train dpo`: direct preference optimization, by TRL, on pairs of answers such as the arena's votes."""

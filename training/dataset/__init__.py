"""EuroSAT: its tiles and splits, what changes them, and how they reach a model."""

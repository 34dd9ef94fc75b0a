"""Training along a log: score a period with the model of the one before, then train on it."""

"""A run: its state and step, its losses and metrics, its evaluations, and the loop."""

"""The run itself: horizon, mesh, state, step, evaluation, checkpoints, logs and the loop."""

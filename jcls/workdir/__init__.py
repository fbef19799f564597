"""What a run leaves on disk: config.json and model.json, logs, checkpoints."""

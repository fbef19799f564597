"""From files to device batches: source -> decode -> augment -> pipeline. TensorFlow lives here."""

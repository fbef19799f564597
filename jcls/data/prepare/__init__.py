"""From a folder or tar of images to a TFDS dataset: find, inspect, arrange, write; see `run`."""

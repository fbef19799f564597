"""Other systems' files: reading them, recognising the network, naming its tensors as jcls does."""

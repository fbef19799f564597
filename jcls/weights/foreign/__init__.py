"""Other systems' files: read them, recognise the network, give its tensors jcls's names."""

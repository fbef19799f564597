"""The verbs of the command line, each a file or a folder of its own."""

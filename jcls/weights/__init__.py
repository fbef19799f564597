"""Where weights come from, and which of them are trained."""

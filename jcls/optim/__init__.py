"""Learning-rate schedules, optimizers, and the groups of parameters that they treat differently."""

"""Learning-rate schedules, optimizers and the groups of parameters they treat differently."""

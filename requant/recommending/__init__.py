"""Which recipe of a model fits a memory, how fast it can be at most, and what it is expected to lose."""

"""The three studies: what each asks, and what it is made of."""

"""Foreign addresses and the ghosts that stand for them."""

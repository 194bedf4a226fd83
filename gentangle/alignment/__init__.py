"""Gradient entanglement: margin objectives, their conditions, and the training runs that test them."""

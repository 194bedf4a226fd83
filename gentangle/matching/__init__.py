"""Gradient matching across domains: the gradient inner product, and ERM, IDGM, Fish and SmoothFish, which move it."""

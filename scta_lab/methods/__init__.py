"""Heads, samplers, backbones, second stages, and the model of these."""

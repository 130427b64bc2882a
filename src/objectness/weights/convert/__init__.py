"""Weights of other programs, converted: one file a family."""

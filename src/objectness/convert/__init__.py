"""Weights and proposal files of other programs, converted."""

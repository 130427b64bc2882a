"""Recall: how it is counted, reported, and measured of a network."""

"""Proposal files of other programs, converted."""

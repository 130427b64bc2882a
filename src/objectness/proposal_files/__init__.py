"""Proposals in files, ours and other programs': one file a format."""

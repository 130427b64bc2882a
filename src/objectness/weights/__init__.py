"""Networks on disk and on the hub, ours and other programs'; `lite0` is the one that ships."""

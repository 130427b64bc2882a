"""Networks on disk and on the hub, ours and other programs'; `cspnet` and `lite0` ship with the package."""

"""Fast kernels, each beside the plain torch function that defines what it must return; `cpu` has those in C."""

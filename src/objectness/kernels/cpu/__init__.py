"""Fast kernels in C, each beside the plain torch function that defines what it must return.

`library` finds what was built and says so; every other module hands tensors to one kernel. What calls them is the
module of the plain function, which falls back on it wherever a kernel does not apply.
"""

"""The GPU's kernels in Triton: experimental until a device has measured them."""

"""Attention over packed rows and paged keys and values, by kernels for each device."""

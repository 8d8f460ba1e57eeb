"""The same numbers, faster: compiled C++ loops for the CPU and Triton kernels for the GPU.

Each has a plain computation as its oracle, and tests hold it to that. `dispatch` is the table of
what runs when. What captioning needs without torch (`cpp_step` and what it uses) works on numpy.
"""

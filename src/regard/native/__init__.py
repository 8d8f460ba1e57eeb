"""Fast equivalents of plain torch: compiled C++ loops for the CPU, Triton kernels for the GPU.

Each has a plain computation as its oracle, which tests compare it with. `dispatch` chooses the
implementation. `cpp_step` and its helpers, which caption without torch, work on numpy arrays.
"""

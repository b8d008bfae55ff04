"""Majority kernels (Mazzawi et al. 2024) for any ``torch.nn.Module``; nothing here needs the rest of ``collegium``.

In reading order:

==================== =============================================================================================
``expand``           the method on one page: expand, mix, step, collapse
``kernel``           one weight as a mixture of copies
``draw``             the random numbers p, recomputed instead of stored
``uniforms``         independent numbers from a key, on a processor
``philox``           the same on a GPU, inside the ``triton_kernels`` that mix
``table``            numbers read from tables: an option, and its limits
``clock``            which optimizer step it is
``targets``          which parameters of a model are kernels
``parametrization``  how a parameter is replaced by its copies, and put back
``operators``        mixing as a differentiable operator, also for ``torch.compile`` and ``torch.func``
``fused``            gradient, optimizer update and the next mixture in one pass, for CPUs
``diagnostics``      how much mixing changes the loss, how far copies are apart
==================== =============================================================================================
"""

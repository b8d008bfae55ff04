"""Majority kernels (Mazzawi et al. 2024) for any ``torch.nn.Module``; nothing here needs the rest of ``collegium``.

In reading order:

==================== =============================================================================================
``expand``           the method on one page: expand, mix, step, collapse
``kernel``           one weight as a mixture of copies
``draw``             the random numbers p, recomputed instead of stored
``generators``       what makes them: independent numbers on processors and GPUs, or a table of quantiles
``clock``            which optimizer step it is, and what one pass is
``targets``          which parameters are kernels, why others are not, and how copies take a parameter's place
``guards``           what is written into a weight, what looks for gradients, what optimizers get wrong
``operators``        mixing as a differentiable operator, also for ``torch.compile`` and ``torch.func``
``fused``            gradient, optimizer update and the next mixture at once
``native``           the same in one pass over memory, in C, for processors
``launched``         the same in one launch, for GPUs
``updates``          the optimizer's own arithmetic
``per_copy``         optimizers for matrices
``diagnostics``      how much mixing changes the loss, how far copies are apart
==================== =============================================================================================
"""

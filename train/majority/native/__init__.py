"""One pass over memory on a processor: ``kernels.c``, built with the package where there is a C compiler.

Run operator by operator, the update of a chunk of copies passes its numbers through the caches a dozen times, and each
operator is a call. The C code does all of it for a block of elements before it goes on to the next: draw p, form
p_k ∘ g, take the optimizer's step, draw the next p and mix. It draws the numbers of
``collegium.train.majority.generators.uniforms``, so that p is the same with it and without it, bit for bit; weights
differ by the order of rounding. Without a compiler nothing is missing but speed.
"""

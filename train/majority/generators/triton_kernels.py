"""Mixing and spreading as one Triton kernel each, with a Philox generator inside: what a GPU runs.

Importing this needs Triton; ``collegium.train.majority.generators.philox`` does so where it is at hand.

Element i takes the words (i // BLOCK % SHARE)·(e − 1) … of the counters below, where one call of Philox-4x32-10 (Salmon
et al. 2011) with the draw's key and the counter (i // (BLOCK·SHARE)·BLOCK + i % BLOCK, call, 0, 0) gives four words of
32 bits. SHARE elements share a call, as many as its words suffice for.
"""
# pyright: reportMissingImports=false, reportIndexIssue=false, reportUnboundVariable=false

import triton
import triton.language as tl


@triton.jit
def fraction(key, counter, WORD: tl.constexpr, POWER: tl.constexpr, WIDE: tl.constexpr):
    """q = U^{1/POWER} for the uniform U in (0, 1) that word WORD of the counter holds: 24 bits of it, or 32 in float64.

    Calls for several words of one counter are one call when compiled.
    """
    zero = tl.zeros_like(counter)
    first, second, third, fourth = tl.philox(key, counter, zero + WORD // 4, zero, zero)
    if WORD % 4 == 0:
        word = first
    elif WORD % 4 == 1:
        word = second
    elif WORD % 4 == 2:
        word = third
    else:
        word = fourth
    if WIDE:
        uniform = (word.to(tl.float64) + 0.5) * 2.3283064365386963e-10  # 2^-32
    else:
        uniform = ((word >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08  # 2^-24
    if POWER == 1:
        q = uniform
    elif POWER == 2:
        q = tl.sqrt(uniform)
    else:
        q = tl.exp2(tl.log2(uniform) * (1.0 / POWER))
    return q


@triton.jit(do_not_specialize=["key"])
def mix(copies, out, key, elements, E: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Σ_k p_k ∘ copies_k: ``copies`` (E, elements) and ``out`` (elements,), both contiguous."""
    block, lane = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    counter = (block * BLOCK + lane).to(tl.uint32)
    row = tl.full((), 0, tl.int64) + elements
    for share in tl.static_range(SHARE):
        element = (block * SHARE + share) * BLOCK + lane
        inside = element < elements
        before = tl.load(copies + element, mask=inside).to(tl.float64 if WIDE else tl.float32)
        mixed, level = before, tl.full((BLOCK,), 1.0, before.dtype)
        for k in tl.static_range(1, E):
            copy = tl.load(copies + k * row + element, mask=inside).to(before.dtype)
            level = level * fraction(key, counter, share * (E - 1) + k - 1, E - k, WIDE)
            mixed = mixed + level * (copy - before)
            before = copy
        tl.store(out + element, mixed, mask=inside)


@triton.jit(do_not_specialize=["key"])
def spread(gradient, out, key, elements, E: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """p_k ∘ gradient: ``gradient`` (elements,) and ``out`` (E, elements), both contiguous."""
    block, lane = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    counter = (block * BLOCK + lane).to(tl.uint32)
    row = tl.full((), 0, tl.int64) + elements
    for share in tl.static_range(SHARE):
        element = (block * SHARE + share) * BLOCK + lane
        inside = element < elements
        rest = tl.load(gradient + element, mask=inside).to(tl.float64 if WIDE else tl.float32)
        for k in tl.static_range(E - 1):
            q = fraction(key, counter, share * (E - 1) + k, E - 1 - k, WIDE)
            following = rest * q
            tl.store(out + k * row + element, rest - following, mask=inside)
            rest = following
        tl.store(out + (E - 1) * row + element, rest, mask=inside)

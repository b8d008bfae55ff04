"""A whole step of many majority kernels as one Triton launch; ``collegium.train.majority.launched`` calls it.

A program works on elements of one kernel. ``table`` has a row of WORDS 64-bit words for each kernel: addresses, sizes,
keys, and the numbers of its optimizer, float64; ``owner`` has, for each program, whose row. Numbers are drawn as in
``triton_kernels`` beside this, element by element alike, so that a mixture is the same whichever of them has made it.
"""
# pyright: reportMissingImports=false, reportIndexIssue=false, reportUnboundVariable=false

import triton
import triton.language as tl

from collegium.train.majority.generators.triton_kernels import fraction


@triton.jit
def number(row, word: tl.constexpr, DTYPE: tl.constexpr):
    """A float64 of the table, as DTYPE."""
    return tl.load(row + word).to(tl.float64, bitcast=True).to(DTYPE)


@triton.jit
def memory(row, word: tl.constexpr, DTYPE: tl.constexpr):
    """An address of the table, as a pointer."""
    return tl.load(row + word).to(tl.pointer_type(DTYPE))


@triton.jit
def update(
    table, owner, WORDS: tl.constexpr, E: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr,
    DTYPE: tl.constexpr, WIDE: tl.constexpr, ADAM: tl.constexpr, STATES: tl.constexpr,
):  # fmt: skip
    """Form p_k ∘ g, take the optimizer's step for every copy, and mix the copies by the next p.

    Formulas are those of ``updates.numbers``; ADAM or SGD, with as many state tensors as STATES.
    """
    program, lane = tl.program_id(0), tl.arange(0, BLOCK)
    row = table + tl.load(owner + program).to(tl.int64) * WORDS
    elements, key, following = tl.load(row), tl.load(row + 2), tl.load(row + 3)
    block = program.to(tl.int64) - tl.load(row + 1)
    gradient, target, copies = memory(row, 4, DTYPE), memory(row, 5, DTYPE), memory(row, 6, DTYPE)
    first, second = memory(row, 7, DTYPE), memory(row, 8, DTYPE)
    REAL: tl.constexpr = tl.float64 if WIDE else tl.float32
    rate, decay, sign = number(row, 9, REAL), number(row, 10, REAL), number(row, 11, REAL)
    n0, n1, n2 = number(row, 12, REAL), number(row, 13, REAL), number(row, 14, REAL)
    n3, n4 = number(row, 15, REAL), number(row, 16, REAL)
    counter = (block * BLOCK + lane).to(tl.uint32)
    for share in tl.static_range(SHARE):
        element = (block * SHARE + share) * BLOCK + lane
        inside = element < elements
        rest = tl.load(gradient + element, mask=inside, other=0.0).to(REAL)
        level = tl.full((BLOCK,), 1.0, REAL)
        before, mixed = level, level
        for k in tl.static_range(E):
            place = k * elements + element
            slope = rest
            if k < E - 1:
                rest = rest * fraction(key, counter, share * (E - 1) + k, E - 1 - k, WIDE)
                slope = slope - rest
            copy = tl.load(copies + place, mask=inside, other=0.0).to(REAL)
            slope = slope * sign + copy * decay
            if ADAM:  # shrink, √ of the correction, ε, 1 − β1, 1 − β2
                mean = tl.load(first + place, mask=inside, other=0.0).to(REAL)
                square = tl.load(second + place, mask=inside, other=0.0).to(REAL)
                mean += (slope - mean) * n3
                square += (slope * slope - square) * n4
                copy = copy * n0 - rate * mean / (tl.sqrt(square) * n1 + n2)
                tl.store(first + place, mean.to(DTYPE), mask=inside)
                tl.store(second + place, square.to(DTYPE), mask=inside)
            elif STATES:  # of the buffer and the slope in the buffer, of the buffer and the slope in the step
                buffer = tl.load(first + place, mask=inside, other=0.0).to(REAL)
                buffer = buffer * n0 + slope * n1
                tl.store(first + place, buffer.to(DTYPE), mask=inside)
                copy -= rate * (buffer * n2 + slope * n3)
            else:
                copy -= rate * slope
            stored = copy.to(DTYPE)
            tl.store(copies + place, stored, mask=inside)
            copy = stored.to(REAL)
            if k == 0:
                mixed = copy
            else:
                level = level * fraction(following, counter, share * (E - 1) + k - 1, E - k, WIDE)
                mixed = mixed + level * (copy - before)
            before = copy
        tl.store(target + element, mixed.to(DTYPE), mask=inside)


@triton.jit
def squares(
    table, owner, out, WORDS: tl.constexpr, E: tl.constexpr, SHARE: tl.constexpr, BLOCK: tl.constexpr,
    DTYPE: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    """Σ |p_k ∘ g|² of each program's elements into ``out``, float64."""
    program, lane = tl.program_id(0), tl.arange(0, BLOCK)
    row = table + tl.load(owner + program).to(tl.int64) * WORDS
    elements, key = tl.load(row), tl.load(row + 2)
    block, gradient = program.to(tl.int64) - tl.load(row + 1), memory(row, 4, DTYPE)
    counter = (block * BLOCK + lane).to(tl.uint32)
    total = tl.zeros((BLOCK,), tl.float64)
    for share in tl.static_range(SHARE):
        element = (block * SHARE + share) * BLOCK + lane
        rest = tl.load(gradient + element, mask=element < elements, other=0.0).to(tl.float64 if WIDE else tl.float32)
        for k in tl.static_range(E):
            slope = rest
            if k < E - 1:
                rest = rest * fraction(key, counter, share * (E - 1) + k, E - 1 - k, WIDE)
                slope = slope - rest
            wide = slope.to(tl.float64)
            total += wide * wide
    tl.store(out + program, tl.sum(total, 0))

/* One block of a task, for numbers of type REAL: kernels.c includes this once for each type.
 *
 * Points v_1 >= ... >= v_{e-1} break a stick of length 1; p_k are the pieces (collegium.train.majority.draw).
 */

INLINE void NAME(fill_points)(const Tables *tables, uint64_t state, const Block *block, int count, REAL (*out)[BLOCK])
{
    int16_t halves[MOST - 1][BLOCK];
    fill_halves(tables, state, block, count, halves);
    for (int row = 0; row < count; row++)
        for (int i = 0; i < block->count; i++)
            out[row][i] = (REAL)CENTRE + (REAL)SCALE * (REAL)halves[row][i];
}

/* p_k * g between the points ``upper`` and ``lower``; none is 1 above, 0 below. */
INLINE void NAME(share)(const REAL *restrict gradient, const REAL *restrict upper, const REAL *restrict lower, int n,
                        REAL *restrict out)
{
    if (!upper)
        for (int i = 0; i < n; i++)
            out[i] = ((REAL)1 - lower[i]) * gradient[i];
    else if (!lower)
        for (int i = 0; i < n; i++)
            out[i] = upper[i] * gradient[i];
    else
        for (int i = 0; i < n; i++)
            out[i] = (upper[i] - lower[i]) * gradient[i];
}

/* The steps of collegium.train.majority.compiled; numbers in the order of updates.numbers. */
INLINE void NAME(adam)(const double *numbers, const REAL *restrict shares, int n, REAL *restrict weights,
                       REAL *restrict firsts, REAL *restrict seconds)
{
    const REAL rate = (REAL)numbers[0], decay = (REAL)numbers[1], sign = (REAL)numbers[2], shrink = (REAL)numbers[3];
    const REAL root = (REAL)numbers[4], epsilon = (REAL)numbers[5], rest1 = (REAL)numbers[6], rest2 = (REAL)numbers[7];
    for (int i = 0; i < n; i++) {
        const REAL slope = shares[i] * sign + weights[i] * decay;
        firsts[i] += (slope - firsts[i]) * rest1;
        seconds[i] += (slope * slope - seconds[i]) * rest2;
        weights[i] = weights[i] * shrink - rate * firsts[i] / (ROOT(seconds[i]) * root + epsilon);
    }
}

INLINE void NAME(sgd)(const double *numbers, const REAL *restrict shares, int n, REAL *restrict weights,
                      REAL *restrict buffers)
{
    const REAL rate = (REAL)numbers[0], decay = (REAL)numbers[1], sign = (REAL)numbers[2], kept = (REAL)numbers[3];
    const REAL taken = (REAL)numbers[4], momentum = (REAL)numbers[5], own = (REAL)numbers[6];
    if (!buffers)
        for (int i = 0; i < n; i++)
            weights[i] -= rate * (shares[i] * sign + weights[i] * decay);
    else
        for (int i = 0; i < n; i++) {
            const REAL slope = shares[i] * sign + weights[i] * decay;
            buffers[i] = buffers[i] * kept + slope * taken;
            weights[i] -= rate * (buffers[i] * momentum + slope * own);
        }
}

/* w_1 + sum of v_k * (w_{k+1} - w_k). */
INLINE void NAME(mix)(const REAL *copies, int64_t size, int expansion, REAL (*points)[BLOCK], int n, REAL *out)
{
    memcpy(out, copies, (size_t)n * sizeof(REAL));
    for (int k = 0; k < expansion - 1; k++) {
        const REAL *one = copies + k * size, *next = one + size, *level = points[k];
        REAL *restrict sum = out;
        for (int i = 0; i < n; i++)
            sum[i] += level[i] * (next[i] - one[i]);
    }
}

/* What the task asks for. Returns the sum of squares of p_k * g, where it asks for that. */
CLONES static double NAME(run)(const Task *task, const Tables *tables, const Block *block)
{
    REAL points[MOST - 1][BLOCK], shares[BLOCK];
    const int expansion = (int)task->expansion, n = block->count;
    const int64_t size = task->elements;
    REAL *copies = (REAL *)task->copies + block->place;
    double squares = 0;
    if (task->kind != MIX) {
        const REAL *gradient = (const REAL *)task->gradient + block->place;
        NAME(fill_points)(tables, task->draw, block, expansion - 1, points);
        for (int k = 0; k < expansion; k++) {
            const int64_t row = k * size + block->place;
            NAME(share)(gradient, k ? points[k - 1] : NULL, k < expansion - 1 ? points[k] : NULL, n, shares);
            if (task->kind == SPREAD)
                memcpy(copies + k * size, shares, (size_t)n * sizeof(REAL));
            else if (task->kind == ADAM)
                NAME(adam)(task->numbers, shares, n, copies + k * size, (REAL *)task->first + row,
                           (REAL *)task->second + row);
            else if (task->kind == SGD)
                NAME(sgd)(task->numbers, shares, n, copies + k * size, task->first ? (REAL *)task->first + row : NULL);
            else
                for (int i = 0; i < n; i++)
                    squares += (double)shares[i] * shares[i];
        }
    }
    if (task->kind != SPREAD && task->kind != SQUARES) {
        NAME(fill_points)(tables, task->following, block, expansion - 1, points);
        NAME(mix)(copies, size, expansion, points, n, (REAL *)task->target + block->place);
    }
    return squares;
}

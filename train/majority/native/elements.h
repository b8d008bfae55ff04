/* One block of a task, for numbers of type REAL: kernels.c includes this once for each type.
 *
 * Points v_1 >= ... >= v_{e-1} break a stick of length 1; p_k are the pieces (collegium.train.majority.draw).
 */

/* A strip of a row into the caches; nothing is read, so that it may lie behind the end. */
INLINE void NAME(call_for)(const REAL *row)
{
    for (int i = 0; i < STRIP; i += 64 / (int)sizeof(REAL))
        CALL_FOR(row + i);
}

/* Rows 1 to ``count`` are v_1 to v_count, row 0 is 1 and the row after them 0: p_k = row k - row (k + 1), exactly. */
INLINE void NAME(fill_points)(const Tables *tables, uint64_t state, const Block *block, int count, REAL (*out)[BLOCK])
{
    int16_t halves[MOST - 1][BLOCK];
    fill_halves(tables, state, block, count, halves);
    for (int row = 0; row < count; row++)
        for (int i = 0; i < block->count; i++)
            out[row + 1][i] = (REAL)CENTRE + (REAL)SCALE * (REAL)halves[row][i];
    for (int i = 0; i < block->count; i++) {
        out[0][i] = 1;
        out[count + 1][i] = 0;
    }
}

/* The steps of collegium.train.majority.updates.numbers, in its order, for the share (upper - lower) * gradient.
 * Each row of a block begins a page of memory or two, which no processor foresees: those of the next block are called for.
 */
INLINE void NAME(adam)(const double *numbers, const REAL *restrict gradient, const REAL *restrict upper,
                       const REAL *restrict lower, int n, REAL *restrict weights, REAL *restrict firsts,
                       REAL *restrict seconds)
{
    const REAL rate = (REAL)numbers[0], decay = (REAL)numbers[1], sign = (REAL)numbers[2], shrink = (REAL)numbers[3];
    const REAL root = (REAL)numbers[4], epsilon = (REAL)numbers[5], rest1 = (REAL)numbers[6], rest2 = (REAL)numbers[7];
    for (int strip = 0; strip < n; strip += STRIP) {
        const int end = (int)least(strip + STRIP, n);
        NAME(call_for)(weights + strip + BLOCK);
        NAME(call_for)(firsts + strip + BLOCK);
        NAME(call_for)(seconds + strip + BLOCK);
        for (int i = strip; i < end; i++) {
            const REAL slope = (upper[i] - lower[i]) * gradient[i] * sign + weights[i] * decay;
            firsts[i] += (slope - firsts[i]) * rest1;
            seconds[i] += (slope * slope - seconds[i]) * rest2;
            weights[i] = weights[i] * shrink - rate * firsts[i] / (ROOT(seconds[i]) * root + epsilon);
        }
    }
}

INLINE void NAME(sgd)(const double *numbers, const REAL *restrict gradient, const REAL *restrict upper,
                      const REAL *restrict lower, int n, REAL *restrict weights)
{
    const REAL rate = (REAL)numbers[0], decay = (REAL)numbers[1], sign = (REAL)numbers[2];
    for (int i = 0; i < n; i++)
        weights[i] -= rate * ((upper[i] - lower[i]) * gradient[i] * sign + weights[i] * decay);
}

INLINE void NAME(momentum)(const double *numbers, const REAL *restrict gradient, const REAL *restrict upper,
                           const REAL *restrict lower, int n, REAL *restrict weights, REAL *restrict buffers)
{
    const REAL rate = (REAL)numbers[0], decay = (REAL)numbers[1], sign = (REAL)numbers[2], kept = (REAL)numbers[3];
    const REAL taken = (REAL)numbers[4], momentum = (REAL)numbers[5], own = (REAL)numbers[6];
    for (int strip = 0; strip < n; strip += STRIP) {
        const int end = (int)least(strip + STRIP, n);
        NAME(call_for)(weights + strip + BLOCK);
        NAME(call_for)(buffers + strip + BLOCK);
        for (int i = strip; i < end; i++) {
            const REAL slope = (upper[i] - lower[i]) * gradient[i] * sign + weights[i] * decay;
            buffers[i] = buffers[i] * kept + slope * taken;
            weights[i] -= rate * (buffers[i] * momentum + slope * own);
        }
    }
}

/* w_1 + sum of v_k * (w_{k+1} - w_k). */
INLINE void NAME(mix)(const REAL *copies, int64_t size, int expansion, REAL (*points)[BLOCK], int n,
                      REAL *restrict out)
{
    memcpy(out, copies, (size_t)n * sizeof(REAL));
    for (int k = 0; k < expansion - 1; k++) {
        const REAL *one = copies + k * size, *next = one + size, *level = points[k + 1];
        for (int i = 0; i < n; i++)
            out[i] += level[i] * (next[i] - one[i]);
    }
}

/* What the task asks for. Returns the sum of squares of p_k * g, where it asks for that. */
CLONES static double NAME(run)(const Task *task, const Tables *tables, const Block *block)
{
    REAL points[MOST + 1][BLOCK];
    const int expansion = (int)task->expansion, n = block->count;
    const int64_t size = task->elements;
    REAL *copies = (REAL *)task->copies + block->place;
    double lanes[LANES] = {0}, squares = 0; /* sums of their own, which are added at once */
    if (task->kind != MIX) {
        const REAL *gradient = (const REAL *)task->gradient + block->place;
        NAME(fill_points)(tables, task->draw, block, expansion - 1, points);
        for (int k = 0; k < expansion; k++) {
            const int64_t row = k * size + block->place;
            const REAL *upper = points[k], *lower = points[k + 1];
            REAL *copy = copies + k * size, *first = (REAL *)task->first + row, *second = (REAL *)task->second + row;
            if (task->kind == ADAM)
                NAME(adam)(task->numbers, gradient, upper, lower, n, copy, first, second);
            else if (task->kind == SGD && task->first)
                NAME(momentum)(task->numbers, gradient, upper, lower, n, copy, first);
            else if (task->kind == SGD)
                NAME(sgd)(task->numbers, gradient, upper, lower, n, copy);
            else if (task->kind == SPREAD)
                for (int i = 0; i < n; i++)
                    copy[i] = (upper[i] - lower[i]) * gradient[i];
            else
                for (int i = 0; i < n; i++) {
                    const double share = (upper[i] - lower[i]) * gradient[i];
                    lanes[i % LANES] += share * share;
                }
        }
    }
    if (task->kind != SPREAD && task->kind != SQUARES) {
        NAME(fill_points)(tables, task->following, block, expansion - 1, points);
        NAME(mix)(copies, size, expansion, points, n, (REAL *)task->target + block->place);
    }
    for (int lane = 0; lane < LANES; lane++)
        squares += lanes[lane];
    return squares;
}

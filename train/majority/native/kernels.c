/* The step of majority kernels in one pass over memory; collegium.train.majority.native.passes calls it.
 *
 * A task is one kernel's: elements, copies and state as rows of that many numbers. Threads take pieces of the tasks, and
 * a piece is done block by block, in memory that stays in a core's own cache. Blocks do not depend on one another, so
 * that neither threads nor pieces change a bit; nor do instructions, since no product is fused with a sum (the build
 * says -ffp-contract=off). Random numbers are those of generators/uniforms.py, where the equations stand.
 */
#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

#define BLOCK 1024        /* elements: the rows of a few copies of it fit into a core's own cache */
#define PIECE (8 * BLOCK) /* elements that a thread takes at a time */
#define STRIP 64          /* elements between which memory is called for */
#define LANES 8           /* sums of squares beside one another */
#define MOST 16           /* copies; passes.py knows it too */

#define COLUMNS 2048 /* this and the following as in uniforms.py */
#define PERIOD (1 << 17)
#define SCALE 0x1p-16
#define CENTRE (0.5 + 0x1p-17)
#define STREAM 0xD1342543DE82EF95u
#define GAMMA 0x9E3779B97F4A7C15u

#define CALL_FOR(address) __builtin_prefetch(address, 1, 2)
#define INLINE static inline __attribute__((always_inline))
#if !defined(__x86_64__) || !defined(__GLIBC__)
#define CLONES
#elif __GNUC__ >= 12
#define CLONES __attribute__((target_clones("default", "avx2", "arch=x86-64-v4")))
#else
#define CLONES __attribute__((target_clones("default", "avx2")))
#endif

enum { MIX, SPREAD, SQUARES, SGD, ADAM };

typedef struct {
    int64_t elements, chunk, expansion, kind, wide;
    uint64_t draw, following;
    const void *gradient;
    void *target, *copies, *first, *second;
    double numbers[8];
} Task;

typedef struct {
    const uint32_t *b, *a, *c;
} Tables;

typedef struct {
    const Task *tasks;
    int64_t pieces;
    Tables tables;
    atomic_int_fast64_t next;
} Job;

/* Of the elements of a task from ``place`` on, so many as a block has: they are of one chunk, from ``start`` on. */
typedef struct {
    int64_t place, chunk, start, length; /* ``length`` is the chunk's */
    int count;
} Block;

static uint64_t hashed(uint64_t state)
{
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
    state = (state ^ (state >> 27)) * 0x94D049BB133111EBu;
    return state ^ (state >> 31);
}

static int64_t least(int64_t one, int64_t other)
{
    return one < other ? one : other;
}

/* Words ``first`` to ``end`` of a pair of rows of the chunk with this state. */
INLINE void fill_words(const Tables *tables, uint64_t state, int pair, int64_t first, int64_t end, uint32_t *out)
{
    const uint64_t place = hashed(state + (2 * pair + 1) * GAMMA);
    const uint32_t factor = (uint32_t)hashed(state + (2 * pair + 2) * GAMMA) | 1;
    for (int64_t run; first < end; first += run, out += run) {
        const int64_t row = first / COLUMNS, column = first % COLUMNS;
        const uint32_t *restrict b = tables->b + place % PERIOD + 17 * row + column;
        const uint32_t *restrict a = tables->a + (place >> 20) % PERIOD + 29 * row + column;
        const uint32_t *restrict c = tables->c + (place >> 40) % PERIOD + 43 * row + column;
        run = least(COLUMNS - column, end - first);
        for (int i = 0; i < run; i++)
            out[i] = b[i] + factor * (a[i] * c[i]);
    }
}

/* ``count`` rows of numbers of 16 bits, descending at every element of the block. */
INLINE void fill_halves(const Tables *tables, uint64_t state, const Block *block, int count, int16_t (*out)[BLOCK])
{
    uint32_t words[BLOCK / 2 + 1];
    for (int row = 0; row < count; row++) {
        const int64_t first = (row & 1) * block->length + block->start;
        fill_words(tables, state + (uint64_t)block->chunk * STREAM, row / 2, first / 2, (first + block->count + 1) / 2, words);
        memcpy(out[row], (const int16_t *)words + (first & 1), (size_t)block->count * sizeof(int16_t));
    }
    for (int sorted = count - 1; sorted > 0; sorted--)
        for (int row = 0; row < sorted; row++) {
            int16_t *restrict upper = out[row], *restrict lower = out[row + 1];
            for (int i = 0; i < block->count; i++) {
                const int16_t one = upper[i], other = lower[i];
                upper[i] = one > other ? one : other;
                lower[i] = one > other ? other : one;
            }
        }
}

#define REAL float
#define NAME(word) word##_float
#define ROOT sqrtf
#include "elements.h"
#undef REAL
#undef NAME
#undef ROOT
#define REAL double
#define NAME(word) word##_double
#define ROOT sqrt
#include "elements.h"

int64_t collegium_pieces(int64_t elements)
{
    return (elements + PIECE - 1) / PIECE;
}

static void work(void *shared)
{
    Job *job = shared;
    for (int64_t piece; (piece = atomic_fetch_add(&job->next, 1)) < job->pieces;) {
        const Task *task = job->tasks;
        for (int64_t own; piece >= (own = collegium_pieces(task->elements)); task++)
            piece -= own;
        const int64_t end = least((piece + 1) * PIECE, task->elements);
        double squares = 0;
        Block block = {.place = piece * PIECE};
        for (; block.place < end; block.place += block.count) {
            block.chunk = block.place / task->chunk;
            block.start = block.place % task->chunk;
            block.length = least(task->chunk, task->elements - block.place + block.start);
            block.count = (int)least(least(BLOCK, block.length - block.start), end - block.place);
            squares += task->wide ? run_double(task, &job->tables, &block) : run_float(task, &job->tables, &block);
        }
        if (task->kind == SQUARES)
            ((double *)task->target)[piece] = squares;
    }
}

/* Do ``count`` tasks on so many threads, which ``parallel`` starts: GOMP_parallel, or none. */
void collegium_run(const Task *tasks, int64_t count, const uint32_t *b, const uint32_t *a, const uint32_t *c,
                   void (*parallel)(void (*)(void *), void *, unsigned, unsigned), int64_t threads)
{
    Job job = {.tasks = tasks, .tables = {b, a, c}};
    for (int64_t i = 0; i < count; i++)
        job.pieces += collegium_pieces(tasks[i].elements);
    threads = least(threads, job.pieces);
    if (parallel && threads > 1)
        parallel(work, &job, (unsigned)threads, 0);
    else
        work(&job);
}

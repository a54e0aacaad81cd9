/* Pillow's antialiased resize of 8-bit images, bit for bit, in vectors of 16 rows or columns.

   A pixel of the result is a weighted sum of pixels of the source, first along the rows, then along
   the columns, or the reverse; each pass rounds to 8 bits. Weights are values of the filter at the
   distances from the centre, stretched when an image shrinks. They have 22 fractional bits, so sums
   fit into 32 bits and do not depend on their order (Pillow, src/libImaging/Resample.c).

   AVX2 multiplies 16-bit numbers and adds pairs of products, so a weight is split into 16 high bits
   and 8 low bits, and taps are added in pairs. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if !defined(__x86_64__)
#error "only processors with AVX2: elsewhere Pillow resizes"
#endif

#include <immintrin.h>

#define VECTOR __attribute__((target("avx2")))
#define INLINE VECTOR static inline __attribute__((always_inline))
#define LANES 16
#define FRACTION 22

/* --- weights */

typedef struct {
    int16_t high[2], low[2]; /* of two taps; a weight is high * 256 + low */
} Pair;

typedef struct {
    int first, count; /* source pixels of a result */
    const Pair *pairs;
} Taps;

static double bicubic(double x) /* Keys 1981, a = -1/2 */
{
    const double a = -0.5;
    x = fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

static double bilinear(double x)
{
    x = fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

/* Returns the taps of `count` results that cover [start, end) of `length` pixels; NULL if there is
   no memory. One block, freed by free(). */
static Taps *make_taps(int length, float start, float end, int count, int cubic)
{
    const double scale = (double)(end - start) / count, stretch = scale < 1.0 ? 1.0 : scale;
    const double support = (cubic ? 2.0 : 1.0) * stretch;
    const size_t most = (size_t)ceil(support) * 2 + 1, pairs = most / 2 + 1;
    Taps *taps = malloc(count * (sizeof(Taps) + pairs * sizeof(Pair)) + most * sizeof(double));
    if (!taps) return NULL;
    double *values = (double *)(taps + count);
    Pair *pair = (Pair *)(values + most);
    for (int i = 0; i < count; i++, pair += pairs) {
        const double centre = start + (i + 0.5) * scale;
        int first = (int)(centre - support + 0.5), last = (int)(centre + support + 0.5);
        double sum = 0.0;
        first = first < 0 ? 0 : first;
        last = last > length ? length : last;
        taps[i] = (Taps){first, last - first, pair};
        for (int t = 0; t < last - first; t++) {
            const double x = (t + first - centre + 0.5) * (1.0 / stretch);
            sum += values[t] = cubic ? bicubic(x) : bilinear(x);
        }
        memset(pair, 0, pairs * sizeof(Pair)); /* the second weight of an odd last tap is 0 */
        for (int t = 0; t < last - first; t++) {
            const double value = (sum != 0.0 ? values[t] / sum : values[t]) * (1 << FRACTION);
            const int32_t weight = (int32_t)(value + (value < 0 ? -0.5 : 0.5));
            pair[t / 2].high[t % 2] = (int16_t)(weight >> 8);
            pair[t / 2].low[t % 2] = weight & 255;
        }
    }
    return taps;
}

/* --- 16 bytes at once */

typedef __m128i Bytes;
typedef struct {
    __m256i high[2], low[2]; /* of the first and the last 8 sums */
} Sums;

INLINE Bytes load_16(const uint8_t *from) { return _mm_loadu_si128((const __m128i *)from); }
INLINE void store_16(uint8_t *to, Bytes value) { _mm_storeu_si128((__m128i *)to, value); }
INLINE Bytes interleave_first(Bytes a, Bytes b) { return _mm_unpacklo_epi8(a, b); }
INLINE Bytes interleave_last(Bytes a, Bytes b) { return _mm_unpackhi_epi8(a, b); }

INLINE Sums half(void)
{
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (FRACTION - 1));
    return (Sums){{zero, zero}, {half, half}};
}

/* Adds the weighted pixels of two taps. */
INLINE Sums plus(Sums sums, const Pair *pair, Bytes a, Bytes b)
{
    int32_t high, low;
    memcpy(&high, pair->high, 4);
    memcpy(&low, pair->low, 4);
    const Bytes bytes[2] = {interleave_first(a, b), interleave_last(a, b)};
    for (int i = 0; i < 2; i++) {
        const __m256i pixels = _mm256_cvtepu8_epi16(bytes[i]);
        const __m256i highs = _mm256_madd_epi16(pixels, _mm256_set1_epi32(high));
        const __m256i lows = _mm256_madd_epi16(pixels, _mm256_set1_epi32(low));
        sums.high[i] = _mm256_add_epi32(sums.high[i], highs);
        sums.low[i] = _mm256_add_epi32(sums.low[i], lows);
    }
    return sums;
}

/* Returns sums without their fraction, from 0 to 255. */
INLINE Bytes clipped(Sums sums)
{
    __m256i sum[2];
    for (int i = 0; i < 2; i++) {
        sum[i] = _mm256_add_epi32(_mm256_slli_epi32(sums.high[i], 8), sums.low[i]);
        sum[i] = _mm256_srai_epi32(sum[i], FRACTION);
    }
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(sum[0], sum[1]), 0xd8);
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/* Loads and stores 16 bytes, or the `bytes` that are left of a row. */
INLINE Bytes load(const uint8_t *from, size_t bytes)
{
    uint8_t part[LANES] = {0};
    if (bytes >= LANES) return load_16(from);
    memcpy(part, from, bytes);
    return load_16(part);
}

INLINE void store(uint8_t *to, Bytes value, size_t bytes)
{
    uint8_t part[LANES];
    store_16(bytes >= LANES ? to : part, value);
    if (bytes < LANES) memcpy(to, part, bytes);
}

/* Transposes 16 x 16 bytes: four times, rows i and i + 8 are interleaved. */
INLINE void transpose(Bytes *rows)
{
    Bytes next[LANES];
    for (int times = 0; times < 4; times++) {
        for (int i = 0; i < LANES / 2; i++) {
            next[2 * i] = interleave_first(rows[i], rows[i + 8]);
            next[2 * i + 1] = interleave_last(rows[i], rows[i + 8]);
        }
        memcpy(rows, next, sizeof(next));
    }
}

/* --- passes */

typedef struct {
    uint8_t *pixels;
    ptrdiff_t stride; /* bytes from row to row */
    int height, width, channels;
} Image;

/* Sums columns of 16 rows: `from` [width][channels][16] to `to`, of `width` results. */
INLINE void sum_columns(const uint8_t *from, uint8_t *to, const Taps *taps, int width, int flip,
                        const int channels)
{
    const size_t step = (size_t)channels * LANES; /* bytes from pixel to pixel */
    for (int x = 0; x < width; x++) {
        const uint8_t *pixel = from + taps[x].first * step;
        uint8_t *result = to + (flip ? width - 1 - x : x) * step;
        Sums sums[3] = {half(), half(), half()};
        for (int t = 0; t < taps[x].count; t += 2, pixel += 2 * step) {
            const uint8_t *next = t + 1 < taps[x].count ? pixel + step : pixel;
            for (int c = 0; c < channels; c++)
                sums[c] = plus(sums[c], taps[x].pairs + t / 2, load_16(pixel + c * LANES),
                               load_16(next + c * LANES));
        }
        for (int c = 0; c < channels; c++) store_16(result + c * LANES, clipped(sums[c]));
    }
}

/* Sums 16 columns of rows that are `stride` bytes apart, or the `bytes` that are left. */
INLINE void sum_rows(const uint8_t *from, ptrdiff_t stride, uint8_t *to, Taps taps, size_t bytes)
{
    Sums sums = half();
    for (int t = 0; t < taps.count; t += 2, from += 2 * stride) {
        const uint8_t *next = t + 1 < taps.count ? from + stride : from;
        sums = plus(sums, taps.pairs + t / 2, load(from, bytes), load(next, bytes));
    }
    store(to, clipped(sums), bytes);
}

/* Resizes along the rows, 16 of them at a time. `work` has room for these, transposed, before and
   after. */
VECTOR static void resize_across(Image from, Image to, const Taps *taps, int flip,
                                 uint8_t *work)
{
    const size_t before = (size_t)from.width * from.channels;
    const size_t after = (size_t)to.width * to.channels;
    uint8_t *results = work + (before + LANES) * LANES;
    Bytes block[LANES];
    for (int y = 0; y < to.height; y += LANES) {
        const int rows = to.height - y < LANES ? to.height - y : LANES;
        for (size_t x = 0; x < before; x += LANES) {
            for (int i = 0; i < LANES; i++)
                block[i] = load(from.pixels + (y + (i < rows ? i : 0)) * from.stride + x,
                                before - x);
            transpose(block);
            memcpy(work + x * LANES, block, sizeof(block));
        }
        if (to.channels == 3) sum_columns(work, results, taps, to.width, flip, 3);
        else sum_columns(work, results, taps, to.width, flip, 1);
        for (size_t x = 0; x < after; x += LANES) {
            memcpy(block, results + x * LANES, sizeof(block));
            transpose(block);
            for (int i = 0; i < rows; i++)
                store(to.pixels + (y + i) * to.stride + x, block[i], after - x);
        }
    }
}

/* Resizes along the columns. */
VECTOR static void resize_down(Image from, Image to, const Taps *taps)
{
    const size_t bytes = (size_t)to.width * to.channels;
    for (int y = 0; y < to.height; y++) {
        const uint8_t *first = from.pixels + taps[y].first * from.stride;
        uint8_t *row = to.pixels + y * to.stride;
        size_t x = 0;
        for (; x + LANES <= bytes; x += LANES)
            sum_rows(first + x, from.stride, row + x, taps[y], LANES);
        if (x < bytes) sum_rows(first + x, from.stride, row + x, taps[y], bytes - x);
    }
}

/* Returns whether there was enough memory. `box`: left, top, right, bottom. */
static int resize(Image from, Image to, const float box[4], int cubic, int flip, int down_first)
{
    Taps *across = make_taps(from.width, box[0], box[2], to.width, cubic);
    Taps *down = make_taps(from.height, box[1], box[3], to.height, cubic);
    uint8_t *memory = NULL;
    if (across && down) {
        const Taps last = down[to.height - 1];
        const int top = down[0].first, rows = last.first + last.count - top;
        Image middle = {NULL, 0, down_first ? to.height : rows, down_first ? from.width : to.width,
                        from.channels};
        const size_t work = ((size_t)from.width + to.width + LANES) * 2 * LANES * from.channels;
        middle.stride = (ptrdiff_t)middle.width * middle.channels;
        memory = malloc(work + middle.height * middle.stride);
        middle.pixels = memory + work;
        if (memory && down_first) {
            resize_down(from, middle, down);
            resize_across(middle, to, across, flip, memory);
        } else if (memory) {
            from.pixels += top * from.stride; /* only rows that the second pass reads */
            for (int y = 0; y < to.height; y++) down[y].first -= top;
            resize_across(from, middle, across, flip, memory);
            resize_down(middle, to, down);
        }
    }
    free(across);
    free(down);
    const int done = memory != NULL;
    free(memory);
    return done;
}

/* --- Python */

/* Fills `image` from uint8 [h, w, 1 or 3] whose pixels are side by side; returns whether it is
   that. */
static int as_image(const Py_buffer *view, Image *image)
{
    const Py_ssize_t *shape = view->shape, *strides = view->strides;
    if (view->itemsize != 1 || view->ndim != 3 || (shape[2] != 1 && shape[2] != 3)) return 0;
    for (int i = 0; i < 2; i++)
        if (shape[i] < 1 || shape[i] > INT32_MAX / 64) return 0;
    if (strides[2] != 1 || strides[1] != shape[2]) return 0;
    *image = (Image){view->buf, strides[0], (int)shape[0], (int)shape[1], (int)shape[2]};
    return 1;
}

static PyObject *py_resize(PyObject *module, PyObject *args)
{
    PyObject *source, *target, *result = NULL;
    Py_buffer from = {0}, to = {0};
    Image image, resized;
    float box[4];
    int cubic, flip, down_first, done;
    if (!PyArg_ParseTuple(args, "OO(ffff)ppp", &source, &target, box, box + 1, box + 2, box + 3,
                          &cubic, &flip, &down_first))
        return NULL;
    if (PyObject_GetBuffer(source, &from, PyBUF_STRIDES) < 0) return NULL;
    if (PyObject_GetBuffer(target, &to, PyBUF_STRIDES | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&from);
        return NULL;
    }
    if (!as_image(&from, &image) || !as_image(&to, &resized) ||
        image.channels != resized.channels) {
        PyErr_SetString(PyExc_ValueError,
                        "images must be uint8 [h, w, 1 or 3], with equal channels");
    } else if (!(0 <= box[0] && box[0] <= box[2] && box[2] <= image.width && 0 <= box[1] &&
                 box[1] <= box[3] && box[3] <= image.height)) {
        PyErr_SetString(PyExc_ValueError, "the box must lie in the image");
    } else {
        Py_BEGIN_ALLOW_THREADS
        done = resize(image, resized, box, cubic, flip, down_first);
        Py_END_ALLOW_THREADS
        if (done) result = Py_NewRef(Py_None);
        else PyErr_NoMemory();
    }
    PyBuffer_Release(&to);
    PyBuffer_Release(&from);
    return result;
}

static PyMethodDef methods[] = {
    {"resize", py_resize, METH_VARARGS,
     "resize(source, target, box, cubic, flip, down_first)\n\n"
     "Fills `target` with the part of `source` in `box`, (left, top, right, bottom), mirrored if\n"
     "`flip`; both are uint8 `[h, w, 1 or 3]`. Columns are resized before rows if `down_first`."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_resize",
    .m_doc = "Pillow's resize of 8-bit images, bit for bit.",
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__resize(void)
{
    if (!__builtin_cpu_supports("avx2")) {
        PyErr_SetString(PyExc_ImportError, "this processor has no AVX2");
        return NULL;
    }
    return PyModule_Create(&definition);
}

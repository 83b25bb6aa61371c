/* What networks are made of, in C99. `source.py` takes the sections that a network
   needs, from one "@" line to the next; the words after the colon are other sections
   that come first. Maps are HWC; `int32_t` counts, nothing wraps but `uint32_t`. */

/* @window: */
struct window { /* how a window moves over a map */
  int32_t in_h, in_w, out_h, out_w, h, w;
  int32_t step_y, step_x, gap_y, gap_x, pad_y, pad_x;
};

/* @inside: window */
/* The part of a window that lies on the map: places `*from` up to `*to`. */
static void inside(int32_t start, int32_t size, int32_t gap, int32_t length,
                   int32_t *from, int32_t *to) {
  *from = start < 0 ? (gap - 1 - start) / gap : 0;
  *to = start < length ? (length - start + gap - 1) / gap : 0;
  if (*to > size) *to = size;
  if (*to < *from) *to = *from;
}

/* @clamp: */
static float clamp(float x, float low, float high) {
  return x < low ? low : x > high ? high : x;
}

/* @bconv: inside clamp */
/* A binary convolution. Bits are signs, 1 for negative; a sum is the number of factors
   less twice the number of unequal signs. Four pixels of a row are counted at once,
   one in each byte of a word: for four channels of the input there are 16 possible
   kernels, whose counts are put into a table, and each filter's four bits look up
   theirs. A row's tables serve all filters, and all rows of the window. */
struct bconv {
  struct window window;
  int32_t channels, filters;
  uint32_t padding;         /* 0x01010101 if ones are padded, 0 for zeros */
  const uint32_t *kernel;   /* [filters / 8, h, w, channels / 4 (even)], 4 bits a filter */
  const float *multiplier, *bias, *slope;
  const int32_t *threshold;
  float low, high;
};
enum { BCONV_CLAMP = 1, BCONV_ADD = 2, BCONV_PRELU = 4 };

/* Left to themselves, compilers unroll the innermost loop, or put it into its
   caller, and then have too few registers for its eight counts. */
#if defined(__GNUC__)
#define BCONV_ALONE __attribute__((noinline))
#define BCONV_KEEP(x) __asm__ volatile("" : "+r"(x) : : "memory");
#else
#define BCONV_ALONE
#define BCONV_KEEP(x)
#endif
#if defined(__clang__)
#define BCONV_ROLLED _Pragma("clang loop unroll(disable)")
#else
#define BCONV_ROLLED
#endif

static uint32_t *bconv_table(uint32_t bits, uint32_t ones, uint32_t *t) {
  const uint32_t m = 0x01010101u;
  const uint32_t e0 = bits & m, e1 = bits >> 1 & m, e2 = bits >> 2 & m;
  const uint32_t e3 = bits >> 3 & m;
  /* What a kernel's bit adds to the count: 1, -1 next to a set bit, 0 for padding. */
  const uint32_t d0 = ones - 2 * e0, d1 = ones - 2 * e1, d2 = ones - 2 * e2;
  const uint32_t d3 = ones - 2 * e3;
  uint32_t x = e0 + e1 + e2 + e3;
  /* In the order of a Gray code, every entry is one addition. */
  t[0] = x;
  t[1] = x += d0;
  t[3] = x += d1;
  t[2] = x -= d0;
  t[6] = x += d2;
  t[7] = x += d0;
  t[5] = x -= d1;
  t[4] = x -= d0;
  t[12] = x += d3;
  t[13] = x += d0;
  t[15] = x += d1;
  t[14] = x -= d0;
  t[10] = x -= d2;
  t[11] = x += d0;
  t[9] = x -= d1;
  t[8] = x -= d0;
  return t + 16;
}

/* The tables of a row of the input, for four pixels of the output from `x0` on. */
BCONV_ALONE static void bconv_row(const struct bconv *c, const uint8_t *in, int32_t row, int32_t x0,
                      uint32_t *t) {
  const struct window *w = &c->window;
  const int32_t bytes = (c->channels + 7) / 8;
  int32_t kx, b, lane;
  for (kx = 0; kx < w->w; kx++) {
    const uint8_t *p[4];
    uint32_t ones = c->padding, real = 0;
    for (lane = 0; lane < 4; lane++) {
      const int32_t x = (x0 + lane) * w->step_x + kx * w->gap_x - w->pad_x;
      p[lane] = in;
      if (row >= 0 && row < w->in_h && x >= 0 && x < w->in_w) {
        p[lane] += (row * w->in_w + x) * bytes;
        ones |= 1u << (8 * lane);
        real |= 0xffu << (8 * lane);
      }
    }
    for (b = 0; b < bytes; b++) {
      const uint32_t bits = real & ((uint32_t)p[0][b] | (uint32_t)p[1][b] << 8 |
                                    (uint32_t)p[2][b] << 16 | (uint32_t)p[3][b] << 24);
      t = bconv_table(bits, ones, t);
      t = bconv_table(bits >> 4, ones, t);
    }
  }
}

#define BCONV_8(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#define BCONV_LOOK_UP(i)        \
  {                             \
    uint32_t j = v >> (4 * i) & 15; \
    BCONV_KEEP(j)               \
    a##i += t[j];               \
    BCONV_KEEP(a##i)            \
  }
/* From bytes to halves of words: `sums[2 * i]` has pixels 0 and 2, the next 1 and 3. */
#define BCONV_SET(i)              \
  sums[2 * i] = a##i & 0xff00ffu; \
  sums[2 * i + 1] = a##i >> 8 & 0xff00ffu;
#define BCONV_ADD_TO(i)            \
  sums[2 * i] += a##i & 0xff00ffu; \
  sums[2 * i + 1] += a##i >> 8 & 0xff00ffu;

/* Counts for eight filters over `n` tables (an even number) of each of some rows; not
   more than 63 in all, whose counts of up to 4 fit into a byte. Sets the sums, or adds
   to them. */
BCONV_ALONE static void bconv_look_up(const uint32_t *k, const uint32_t *const *rows,
                                      int32_t offset, int32_t count, int32_t n,
                                      int is_first, uint32_t *sums) {
  uint32_t a0 = 0, a1 = 0, a2 = 0, a3 = 0, a4 = 0, a5 = 0, a6 = 0, a7 = 0;
  BCONV_ROLLED do {
    const uint32_t *t = *rows++ + offset;
    int32_t left = n;
    BCONV_ROLLED do {
      uint32_t v = *k++;
      BCONV_KEEP(k)
      BCONV_8(BCONV_LOOK_UP)
      t += 16;
      BCONV_KEEP(t)
      v = *k++;
      BCONV_KEEP(k)
      BCONV_8(BCONV_LOOK_UP)
      t += 16;
      BCONV_KEEP(t)
    } while ((left -= 2) != 0);
  } while (--count);
  if (is_first) {
    BCONV_8(BCONV_SET)
  } else {
    BCONV_8(BCONV_ADD_TO)
  }
}

/* From the counts of some filters, up to eight, to the outputs of up to four pixels. */
static inline void bconv_finish(const struct bconv *c, int32_t f, const uint32_t *sums,
                                const int32_t *factors, int32_t lanes, int flags,
                                float *out) {
  const float *multiplier = c->multiplier + f, *bias = c->bias + f;
  const float *slope = flags & BCONV_PRELU ? c->slope + f : bias;
  const int32_t filters = c->filters, some = filters - f < 8 ? filters - f : 8;
  int32_t i, lane;
  BCONV_ROLLED for (i = 0; i < some; i++) {
    const float m = multiplier[i], b = bias[i], s = slope[i];
    float *o = out + i;
    for (lane = 0; lane < lanes; lane++, o += filters) {
      const uint32_t count = sums[2 * i + lane % 2] >> (lane / 2 * 16) & 0xffffu;
      float x = (float)(factors[lane] - 2 * (int32_t)count);
      if (flags & BCONV_CLAMP) x = clamp(x, c->low, c->high);
      x = x * m;
      x = x + b;
      if (flags & BCONV_ADD) x = x + *o;
      if (flags & BCONV_PRELU) x = x < 0.0f ? x * s : x;
      *o = x;
    }
  }
}

typedef void bconv_finisher(const struct bconv *c, int32_t f, const uint32_t *sums,
                            const int32_t *factors, int32_t lanes, float *out);

static void bconv(const struct bconv *c, const uint8_t *in, float *out,
                  uint8_t *out_bits, uint32_t *tables, bconv_finisher *finish) {
  const struct window *w = &c->window;
  const int32_t size = w->w * ((c->channels + 7) / 8 * 2);
  const int32_t span = (w->h - 1) * w->gap_y + 1, filters = c->filters;
  const int32_t together = size < 62 ? 62 / size : 1;
  int32_t x0, y, f, i, lane, from, to;
  for (x0 = 0; x0 < w->out_w; x0 += 4) {
    const int32_t lanes = w->out_w - x0 < 4 ? w->out_w - x0 : 4;
    int32_t across[4], factors[4], next = 0; /* rows before have their tables */
    for (lane = 0; lane < 4; lane++) {
      inside((x0 + lane) * w->step_x - w->pad_x, w->w, w->gap_x, w->in_w, &from, &to);
      across[lane] = c->channels * (c->padding ? w->w : to - from);
    }
    for (y = 0; y < w->out_h; y++) {
      const int32_t top = y * w->step_y, pixel = y * w->out_w + x0;
      const uint32_t *k = c->kernel, *rows[16];
      if (next < top) next = top;
      for (; next < top + span; next++)
        bconv_row(c, in, next - w->pad_y, x0, tables + next % span * size * 16);
      inside(top - w->pad_y, w->h, w->gap_y, w->in_h, &from, &to);
      if (c->padding) from = 0, to = w->h;
      for (lane = 0; lane < 4; lane++) factors[lane] = across[lane] * (to - from);
      for (i = 0; i < w->h; i++)
        rows[i] = tables + (top + i * w->gap_y) % span * size * 16;
      for (f = 0; f < filters; f += 8, k += w->h * size) {
        uint32_t sums[16], bits[4];
        int32_t ky, n;
        for (ky = from; ky < to; ky += together)
          for (n = 0; n < size; n += 62)
            bconv_look_up(k + ky * size + n, rows + ky, n * 16,
                          to - ky < together ? to - ky : together,
                          size - n < 62 ? size - n : 62, ky + n == from, sums);
        if (to == from)
          for (i = 0; i < 16; i++) sums[i] = 0;
        if (out_bits) {
          for (lane = 0; lane < 4; lane++) bits[lane] = 0;
          for (i = 0; i < 8 && f + i < filters; i++)
            for (lane = 0; lane < 4; lane++) {
              const uint32_t count = sums[2 * i + lane % 2] >> (lane / 2 * 16);
              bits[lane] |= (uint32_t)((int32_t)(count & 0xffffu) > c->threshold[f + i])
                            << i;
            }
          for (lane = 0; lane < lanes; lane++)
            out_bits[(pixel + lane) * ((filters + 7) / 8) + f / 8] =
                (uint8_t)bits[lane];
        } else {
          finish(c, f, sums, factors, lanes, out + pixel * filters + f);
        }
      }
    }
  }
}

/* @quantize: */
/* Signs as bits, 1 for negative, eight channels a byte. */
static inline void quantize(const float *x, const float *shift, int32_t pixels,
                            int32_t channels, uint8_t *bits) {
  int32_t p, c, i;
  for (p = 0; p < pixels; p++) {
    for (c = 0; c < channels; c += 8) {
      const int32_t n = channels - c < 8 ? channels - c : 8;
      uint32_t byte = 0;
      for (i = 0; i < n; i++) {
        const float value = shift ? x[i] + shift[c + i] : x[i];
        byte |= (uint32_t)(value < 0.0f) << i;
      }
      *bits++ = (uint8_t)byte;
      x += n;
    }
  }
}

/* @dequantize: */
static void dequantize(const uint8_t *bits, int32_t pixels, int32_t channels,
                       float *out) {
  int32_t p, c;
  for (p = 0; p < pixels; p++, bits += (channels + 7) / 8)
    for (c = 0; c < channels; c++)
      *out++ = bits[c / 8] >> (c % 8) & 1 ? -1.0f : 1.0f;
}

/* @bmaxpool: inside */
/* The largest of signs: negative where all are. */
static void bmaxpool(const struct window *w, const uint8_t *in, int32_t channels,
                     uint8_t *out) {
  const int32_t bytes = (channels + 7) / 8;
  int32_t y, x, b, ky, kx, y0, y1, x0, x1;
  for (y = 0; y < w->out_h; y++) {
    const int32_t top = y * w->step_y - w->pad_y;
    inside(top, w->h, 1, w->in_h, &y0, &y1);
    for (x = 0; x < w->out_w; x++) {
      const int32_t side = x * w->step_x - w->pad_x;
      inside(side, w->w, 1, w->in_w, &x0, &x1);
      for (b = 0; b < bytes; b++) {
        uint32_t all = 0xffu;
        for (ky = y0; ky < y1; ky++)
          for (kx = x0; kx < x1; kx++)
            all &= in[((top + ky) * w->in_w + side + kx) * bytes + b];
        *out++ = (uint8_t)all;
      }
    }
  }
}

/* @dot: */
static float dot(const float *a, const float *b, int32_t n, float sum) {
  while (n-- > 0) sum = sum + *a++ * *b++;
  return sum;
}

/* @dot_int8: */
static float dot_int8(const float *a, const int8_t *b, int32_t n, float sum) {
  while (n-- > 0) sum = sum + *a++ * (float)*b++;
  return sum;
}

/* @conv_struct: window clamp */
struct conv {
  struct window window;
  int32_t channels, filters;
  const float *kernel;  /* [filters, h, w, channels] */
  const int8_t *int8;   /* or these, times a scale for each filter */
  const float *scale, *bias;
  float low, high;
};

/* @conv_macro: inside conv_struct */
#define CONV(name, DOT, KERNEL, FINISH)                                              \
  static void name(const struct conv *c, const float *in, float *out) {              \
    const struct window *w = &c->window;                                             \
    const int32_t size = c->channels;                                                \
    int32_t y, x, f, ky, kx, y0, y1, x0, x1;                                         \
    for (y = 0; y < w->out_h; y++) {                                                 \
      const int32_t top = y * w->step_y - w->pad_y;                                  \
      inside(top, w->h, w->gap_y, w->in_h, &y0, &y1);                                \
      for (x = 0; x < w->out_w; x++) {                                               \
        const int32_t side = x * w->step_x - w->pad_x;                               \
        inside(side, w->w, w->gap_x, w->in_w, &x0, &x1);                             \
        for (f = 0; f < c->filters; f++) {                                           \
          /* Neighbouring pixels lie in one row, unless there are gaps. */           \
          const int32_t run = w->gap_x == 1 ? x1 - x0 : 1;                           \
          float sum = 0.0f;                                                          \
          for (ky = y0; ky < y1; ky++)                                               \
            for (kx = x0; kx < x1; kx += run)                                        \
              sum = DOT(in + ((top + ky * w->gap_y) * w->in_w + side +               \
                              kx * w->gap_x) * size,                                 \
                        c->KERNEL + ((f * w->h + ky) * w->w + kx) * size,            \
                        run * size, sum);                                            \
          FINISH                                                                     \
          *out++ = clamp(sum + c->bias[f], c->low, c->high);                         \
        }                                                                            \
      }                                                                              \
    }                                                                                \
  }
/* @conv: conv_macro dot */
CONV(conv, dot, kernel, )

/* @conv_int8: conv_macro dot_int8 */
CONV(conv_int8, dot_int8, int8, sum = sum * c->scale[f];)

/* @depthwise: inside conv_struct */
/* The kernel is [h, w, filters]. */
static void depthwise(const struct conv *c, const float *in, float *out) {
  const struct window *w = &c->window;
  const int32_t each = c->filters / c->channels;
  int32_t y, x, f, ky, kx, y0, y1, x0, x1;
  for (y = 0; y < w->out_h; y++) {
    const int32_t top = y * w->step_y - w->pad_y;
    inside(top, w->h, w->gap_y, w->in_h, &y0, &y1);
    for (x = 0; x < w->out_w; x++) {
      const int32_t side = x * w->step_x - w->pad_x;
      inside(side, w->w, w->gap_x, w->in_w, &x0, &x1);
      for (f = 0; f < c->filters; f++) {
        float sum = 0.0f;
        for (ky = y0; ky < y1; ky++)
          for (kx = x0; kx < x1; kx++)
            sum = sum + in[((top + ky * w->gap_y) * w->in_w + side + kx * w->gap_x) *
                               c->channels + f / each] *
                            c->kernel[(ky * w->w + kx) * c->filters + f];
        *out++ = clamp(sum + c->bias[f], c->low, c->high);
      }
    }
  }
}

/* @pool: inside clamp */
/* The average, or the largest, of those in the window that lie on the map. */
static inline void pool(const struct window *w, const float *in, int32_t channels,
                        float low, float high, int largest, float *out) {
  int32_t y, x, c, ky, kx, y0, y1, x0, x1;
  for (y = 0; y < w->out_h; y++) {
    const int32_t top = y * w->step_y - w->pad_y;
    inside(top, w->h, 1, w->in_h, &y0, &y1);
    for (x = 0; x < w->out_w; x++) {
      const int32_t side = x * w->step_x - w->pad_x;
      inside(side, w->w, 1, w->in_w, &x0, &x1);
      for (c = 0; c < channels; c++) {
        float all = largest ? -3.402823466e+38f : 0.0f;
        for (ky = y0; ky < y1; ky++)
          for (kx = x0; kx < x1; kx++) {
            const float value =
                in[((top + ky) * w->in_w + side + kx) * channels + c];
            all = !largest ? all + value : value > all ? value : all;
          }
        if (!largest) all = all / (float)((y1 - y0) * (x1 - x0));
        *out++ = clamp(all, low, high);
      }
    }
  }
}

/* @mean: */
/* Over all pixels. */
static void mean(const float *in, int32_t pixels, int32_t channels, float *out) {
  int32_t c, p;
  for (c = 0; c < channels; c++) {
    float sum = 0.0f;
    for (p = 0; p < pixels; p++) sum = sum + in[p * channels + c];
    out[c] = sum / (float)pixels;
  }
}

/* @dense: conv_struct dot */
static void dense(const struct conv *c, const float *in, int32_t rows, float *out) {
  int32_t row, f;
  for (row = 0; row < rows; row++, in += c->channels)
    for (f = 0; f < c->filters; f++)
      *out++ = clamp(dot(in, c->kernel + f * c->channels, c->channels, 0.0f) +
                         c->bias[f],
                     c->low, c->high);
}

/* @dense_int8: conv_struct dot_int8 */
static void dense_int8(const struct conv *c, const float *in, int32_t rows,
                       float *out) {
  int32_t row, f;
  for (row = 0; row < rows; row++, in += c->channels)
    for (f = 0; f < c->filters; f++) {
      const float sum = dot_int8(in, c->int8 + f * c->channels, c->channels, 0.0f);
      *out++ = clamp(sum * c->scale[f] + c->bias[f], c->low, c->high);
    }
}

/* @elementwise: clamp */
/* `b` is repeated over `a`. `out` may be `a`. */
#define ELEMENTWISE(name, EXPRESSION)                                              \
  static void name(const float *a, const float *b, int32_t size, int32_t repeated, \
                   float low, float high, float *out) {                            \
    int32_t i, j;                                                                  \
    for (i = 0; i < size; i += repeated)                                           \
      for (j = 0; j < repeated; j++, a++)                                          \
        *out++ = clamp(EXPRESSION, low, high);                                     \
  }

/* @add: elementwise */
ELEMENTWISE(add, *a + b[j])

/* @subtract: elementwise */
ELEMENTWISE(subtract, *a - b[j])

/* @subtract_from: elementwise */
ELEMENTWISE(subtract_from, b[j] - *a)

/* @multiply: elementwise */
ELEMENTWISE(multiply, *a * b[j])

/* @divide: elementwise */
ELEMENTWISE(divide, *a / b[j])

/* @maximum: elementwise */
ELEMENTWISE(maximum, *a > b[j] ? *a : b[j])

/* @minimum: elementwise */
ELEMENTWISE(minimum, *a < b[j] ? *a : b[j])

/* @prelu: elementwise */
ELEMENTWISE(prelu, *a < 0.0f ? *a * b[j] : *a)

/* @unary: */
#define UNARY(name, EXPRESSION)                                     \
  static void name(const float *in, int32_t size, float *out) {     \
    int32_t i;                                                      \
    for (i = 0; i < size; i++) {                                    \
      const float x = in[i];                                        \
      out[i] = EXPRESSION;                                          \
    }                                                               \
  }

/* @relu: unary */
UNARY(relu, x < 0.0f ? 0.0f : x)

/* @relu_6: unary */
UNARY(relu_6, x < 0.0f ? 0.0f : x > 6.0f ? 6.0f : x)

/* @relu_n1_to_1: unary */
UNARY(relu_n1_to_1, x < -1.0f ? -1.0f : x > 1.0f ? 1.0f : x)

/* @absolute: unary */
UNARY(absolute, x < 0.0f ? -x : x)

/* @negative: unary */
UNARY(negative, -x)

/* @hard_swish: unary */
UNARY(hard_swish, x * (x < -3.0f ? 0.0f : x > 3.0f ? 6.0f : x + 3.0f) / 6.0f)

/* @leaky_relu: */
static void leaky_relu(const float *in, float slope, int32_t size, float *out) {
  int32_t i;
  for (i = 0; i < size; i++) out[i] = in[i] < 0.0f ? in[i] * slope : in[i];
}

/* @exponential: */
/* Its own, so that every machine gives the same: 2^n times a Taylor series. */
static float exponential(float x) {
  union {
    uint32_t bits;
    float value;
  } power;
  int32_t n;
  float r, y;
  if (x < -87.0f) return 0.0f;
  if (x > 88.0f) x = 88.0f;
  n = (int32_t)(x * 1.44269504f + (x < 0.0f ? -0.5f : 0.5f));
  r = x - (float)n * 0.693359375f;
  r = r + (float)n * 2.12194440e-4f;
  y = 1.0f / 5040.0f;
  y = y * r + 1.0f / 720.0f;
  y = y * r + 1.0f / 120.0f;
  y = y * r + 1.0f / 24.0f;
  y = y * r + 1.0f / 6.0f;
  y = y * r + 0.5f;
  y = y * r + 1.0f;
  y = y * r + 1.0f;
  power.bits = (uint32_t)(n + 127) << 23;
  return y * power.value;
}

/* @logistic: exponential unary */
UNARY(logistic, 1.0f / (1.0f + exponential(-x)))

/* @softmax: exponential */
static void softmax(const float *in, float beta, int32_t rows, int32_t classes,
                    float *out) {
  int32_t row, i;
  for (row = 0; row < rows; row++, in += classes, out += classes) {
    float largest = in[0], sum = 0.0f;
    for (i = 1; i < classes; i++)
      if (in[i] > largest) largest = in[i];
    for (i = 0; i < classes; i++) {
      out[i] = exponential((in[i] - largest) * beta);
      sum = sum + out[i];
    }
    for (i = 0; i < classes; i++) out[i] = out[i] / sum;
  }
}

/* @copy: */
/* `rows` pieces of `size` floats, which lie `from` and `to` floats apart. */
static void copy(const float *in, int32_t rows, int32_t size, int32_t from, int32_t to,
                 float *out) {
  int32_t row, i;
  for (row = 0; row < rows; row++, in += from, out += to)
    for (i = 0; i < size; i++) out[i] = in[i];
}

/* @reverse: */
/* `rows` pieces of `size` floats, the last first; `times` in a row. */
static void reverse(const float *in, int32_t times, int32_t rows, int32_t size,
                    float *out) {
  int32_t t, row, i;
  for (t = 0; t < times; t++)
    for (row = 0; row < rows; row++)
      for (i = 0; i < size; i++)
        *out++ = in[(t * rows + rows - 1 - row) * size + i];
}

/* @pad: */
static void pad(const float *in, const int32_t *size, const int32_t *before,
                const int32_t *padded, float value, float *out) {
  int32_t y, x, c;
  for (y = 0; y < padded[0]; y++)
    for (x = 0; x < padded[1]; x++)
      for (c = 0; c < padded[2]; c++) {
        const int32_t iy = y - before[0], ix = x - before[1], ic = c - before[2];
        const int is_inside = iy >= 0 && iy < size[0] && ix >= 0 && ix < size[1] &&
                              ic >= 0 && ic < size[2];
        *out++ = is_inside ? in[(iy * size[1] + ix) * size[2] + ic] : value;
      }
}

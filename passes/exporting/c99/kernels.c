/* Codes are stored as unsigned bytes, code - low_code; integer = byte + offset, offset = low_code - zero_point. */

/*@ output */
typedef struct {
  const int32_t *mantissa; /* one, or one a channel */
  const uint8_t *shift;
  int32_t many;            /* more than one of them */
  int32_t zero, low, high; /* zero point, and codes after the clamp */
  int32_t base;            /* smallest code that the bytes store */
  const int32_t *thresholds; /* of every channel, or 0: the code is how many are not above the sum, from `zero` on */
  int32_t steps;             /* thresholds of a channel */
} qir_output;

/*@ round */
/* sum / 2^shift rounded half to even, on integers alone */
static int64_t qir_round(int64_t sum, int shift) {
  const int64_t whole = sum < 0 ? ~((~sum) >> shift) : sum >> shift;
  const uint64_t unit = (uint64_t)1 << shift;
  const uint64_t rest = (uint64_t)sum & (unit - 1);
  return whole + (rest * 2 > unit || (rest * 2 == unit && (whole & 1)));
}

/*@ clamp output */
static uint8_t qir_clamp(int64_t code, const qir_output *to) {
  code += to->zero;
  code = code < to->low ? to->low : code;
  code = code > to->high ? to->high : code;
  return (uint8_t)(code - to->base);
}

/*@ code clamp round */
static uint8_t qir_code(int32_t sum, const qir_output *to, int32_t channel) {
  const int32_t i = to->many ? channel : 0;
  if (to->thresholds) {
    const int32_t *t = to->thresholds + i * to->steps;
    int32_t code = to->zero - to->base, k;
    for (k = 0; k < to->steps; k++)
      code += sum >= t[k];
    return (uint8_t)code;
  }
  return qir_clamp(qir_round((int64_t)sum * to->mantissa[i], to->shift[i]), to);
}

/*@ mean clamp */
/* a sum divided by 2^shift * count as well */
static uint8_t qir_mean(int32_t sum, int32_t count, const qir_output *to) {
  const int64_t exact = (int64_t)sum * to->mantissa[0], unit = (int64_t)count << to->shift[0];
  int64_t whole = exact / unit, rest = exact % unit;
  if (rest < 0) {
    rest += unit;
    whole -= 1;
  }
  return qir_clamp(whole + (rest > unit - rest || (rest == unit - rest && (whole & 1))), to);
}

/*@ window */
typedef struct {
  int32_t channels, size[3], output[3], kernel[3], stride[3], dilation[3], begin[3];
  int32_t transposed;
} qir_window;

/*@ place window */
/* where a tap reads along one axis, or -1 */
static int32_t qir_place(const qir_window *w, int axis, int32_t out, int32_t tap) {
  int32_t at;
  if (w->transposed) {
    at = out + w->begin[axis] - tap * w->dilation[axis];
    if (at < 0 || at % w->stride[axis])
      return -1;
    at /= w->stride[axis];
  } else {
    at = out * w->stride[axis] - w->begin[axis] + tap * w->dilation[axis];
  }
  return at < 0 || at >= w->size[axis] ? -1 : at;
}

/*@ column place */
/* where each element of a window lies, from the window's first one: [channels, kernel...] */
static void qir_offsets(const qir_window *w, int32_t *offsets) {
  const int32_t plane = w->size[0] * w->size[1] * w->size[2];
  int32_t c, i, j, k;
  for (c = 0; c < w->channels; c++)
    for (i = 0; i < w->kernel[0]; i++)
      for (j = 0; j < w->kernel[1]; j++)
        for (k = 0; k < w->kernel[2]; k++)
          *offsets++ = c * plane + (i * w->dilation[0] * w->size[1] + j * w->dilation[1]) * w->size[2] + k * w->dilation[2];
}

/* the elements that one output element is made of, [channels, kernel...], `fill` outside */
static void qir_column(const uint8_t *in, const qir_window *w, const int32_t *offsets, int32_t place, uint8_t fill,
                       uint8_t *column) {
  const int32_t out[3] = {place / w->output[2] / w->output[1], place / w->output[2] % w->output[1],
                          place % w->output[2]};
  const int32_t plane = w->size[0] * w->size[1] * w->size[2];
  const int32_t n = w->channels * w->kernel[0] * w->kernel[1] * w->kernel[2];
  int32_t c, i, j, k, begin = 0, inside = !w->transposed;
  for (i = 0; i < 3; i++) {
    const int32_t first = out[i] * w->stride[i] - w->begin[i];
    inside = inside && first >= 0 && first + (w->kernel[i] - 1) * w->dilation[i] < w->size[i];
    begin = begin * w->size[i] + first;
  }
  if (inside) {
    in += begin;
    for (i = 0; i < n; i++)
      column[i] = in[offsets[i]];
    return;
  }
  for (c = 0; c < w->channels; c++)
    for (i = 0; i < w->kernel[0]; i++) {
      const int32_t a = qir_place(w, 0, out[0], i);
      for (j = 0; j < w->kernel[1]; j++) {
        const int32_t b = qir_place(w, 1, out[1], j);
        const uint8_t *row = in + c * plane + (a * w->size[1] + b) * w->size[2];
        for (k = 0; k < w->kernel[2]; k++) {
          const int32_t d = qir_place(w, 2, out[2], k);
          *column++ = a < 0 || b < 0 || d < 0 ? fill : row[d];
        }
      }
    }
}

/*@ integers */
/* rows of bytes as integers */
static void qir_integers(const uint8_t *in, int32_t n, int32_t offset, int16_t *out) {
  int32_t i;
  for (i = 0; i < n; i++)
    out[i] = (int16_t)(in[i] + offset);
}

/*@ bytes */
/* weights of 8 bits */
static int32_t qir_dot8(const int8_t *w, const int16_t *x, int32_t n) {
  int32_t i, sum = 0;
  for (i = 0; i < n; i++)
    sum += (int32_t)w[i] * x[i];
  return sum;
}

/*@ words */
static int32_t qir_dot(const int16_t *w, const int16_t *x, int32_t n) {
  int32_t i, sum = 0;
  for (i = 0; i < n; i++)
    sum += (int32_t)w[i] * x[i];
  return sum;
}

/*@ unpack */
/* Parts of 4, 2 and 1 bits hold a row: part p of width b has 8/b elements a byte, element s * m + i in bits s * b of
   byte i, m the bytes of the part. */
static void qir_unpack(const uint8_t *packed, int32_t n, int bits, int32_t step, int32_t offset, int16_t *row) {
  int32_t i, s;
  int base = 0, width;
  for (i = 0; i < n; i++)
    row[i] = 0;
  for (width = 4; width > 0; width /= 2) {
    const int32_t per = 8 / width, m = (n + per - 1) / per;
    int repeat = width == 4 ? bits / 4 : (bits & width) != 0;
    for (; repeat > 0; repeat--) {
      for (s = 0; s < per; s++) {
        const int32_t end = n - s * m < m ? n - s * m : m;
        int16_t *to = row + s * m;
        for (i = 0; i < end; i++)
          to[i] = (int16_t)(to[i] | (((packed[i] >> (s * width)) & ((1 << width) - 1)) << base));
      }
      packed += m;
      base += width;
    }
  }
  for (i = 0; i < n; i++)
    row[i] = (int16_t)(row[i] * step + offset);
}

/*@ planes */
static int32_t qir_ones(uint64_t x) {
#if defined(__POPCNT__) && defined(__GNUC__)
  return __builtin_popcountll(x);
#else
  x -= x >> 1 & 0x5555555555555555u;
  x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
  x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return (int32_t)(x * 0x0101010101010101u >> 56);
#endif
}

/* bit planes of bytes, each of (n + 63) / 64 words; returns the sum of the bytes; reads 8 bytes at a time */
static int32_t qir_planes(const uint8_t *in, int32_t n, int bits, uint64_t *out) {
  const int32_t words = (n + 63) / 64;
  int32_t i, k, sum = 0;
  int p;
  for (i = 0; i < n; i++)
    sum += in[i];
  for (i = 0; i < words * bits; i++)
    out[i] = 0;
  for (i = 0; i < n; i += 8) {
    uint64_t eight = 0;
    if (n - i >= 8)
      eight = (uint64_t)in[i] | (uint64_t)in[i + 1] << 8 | (uint64_t)in[i + 2] << 16 | (uint64_t)in[i + 3] << 24 |
              (uint64_t)in[i + 4] << 32 | (uint64_t)in[i + 5] << 40 | (uint64_t)in[i + 6] << 48 |
              (uint64_t)in[i + 7] << 56;
    else
      for (k = 0; k < n - i; k++)
        eight |= (uint64_t)in[i + k] << (8 * k);
    for (p = 0; p < bits; p++) {
      const uint64_t lowest = eight >> p & 0x0101010101010101u;
      out[p * words + i / 64] |= (lowest * 0x0102040810204080u >> 56) << (i % 64);
    }
  }
  return sum;
}

static int32_t qir_count(const uint64_t *w, const uint64_t *x, int32_t words, int w_bits, int x_bits) {
  int32_t i, sum = 0;
  int p, q;
  for (p = 0; p < w_bits; p++)
    for (q = 0; q < x_bits; q++) {
      int32_t ones = 0;
      for (i = 0; i < words; i++)
        ones += qir_ones(w[p * words + i] & x[q * words + i]);
      sum += ones * ((int32_t)1 << (p + q));
    }
  return sum;
}

/*@ product window */
typedef struct {
  const qir_window *window;                         /* of a convolution; 0 for rows of a matrix */
  int32_t images, groups, outputs, places, length;  /* outputs of a group; length of what is multiplied */
  int32_t in_image, in_group, out_place, out_channel; /* distances of neighbours, in elements */
  int32_t offset;                                   /* of the data */
  int32_t row, bits, step, w_offset;                /* of the weights: elements of a row, code * step + w_offset */
  uint8_t fill;
} qir_product;

/*@ counted product planes column code */
static void qir_counted(const uint8_t *in, const uint64_t *w, const int32_t *bias, const qir_product *p, int x_bits,
                        const qir_output *to, int32_t *offsets, uint8_t *column, uint64_t *planes, uint8_t *out) {
  const int32_t words = (p->length + 63) / 64;
  int32_t n, g, i, o;
  if (p->window)
    qir_offsets(p->window, offsets);
  for (n = 0; n < p->images; n++)
    for (g = 0; g < p->groups; g++)
      for (i = 0; i < p->places; i++) {
        const uint8_t *from = in + n * p->in_image + g * p->in_group;
        const int32_t first = g * p->outputs;
        uint8_t *here = out + (n * p->groups * p->outputs + first) * p->places;
        int32_t sum;
        if (p->window) {
          qir_column(from, p->window, offsets, i, p->fill, column);
          from = column;
        } else {
          from += i * p->length;
        }
        sum = p->w_offset * qir_planes(from, p->length, x_bits, planes);
        for (o = 0; o < p->outputs; o++) {
          const int32_t c = first + o;
          const int32_t total = p->step * qir_count(w + c * p->row, planes, words, p->bits, x_bits) + sum + bias[c];
          here[i * p->out_place + o * p->out_channel] = qir_code(total, to, c);
        }
      }
}

/*@ multiplied product integers column code */
/* `tile` places at a time: their columns as integers, then row after row of the weights */
static void qir_columns(const uint8_t *in, const qir_product *p, int32_t first, int32_t n, const int32_t *offsets,
                        uint8_t *column, int16_t *columns) {
  int32_t t;
  for (t = 0; t < n; t++) {
    const uint8_t *from = in + (first + t) * p->length;
    if (p->window) {
      qir_column(in, p->window, offsets, first + t, p->fill, column);
      from = column;
    }
    qir_integers(from, p->length, p->offset, columns + t * p->length);
  }
}

/*@ product_bytes multiplied bytes */
static void qir_product_bytes(const uint8_t *in, const int8_t *w, const int32_t *bias, const qir_product *p,
                              int32_t tile, const qir_output *to, int32_t *offsets, uint8_t *column, int16_t *columns,
                              uint8_t *out) {
  int32_t n, g, i, o, t;
  if (p->window)
    qir_offsets(p->window, offsets);
  for (n = 0; n < p->images; n++)
    for (g = 0; g < p->groups; g++)
      for (i = 0; i < p->places; i += tile) {
        const int32_t first = g * p->outputs, end = p->places - i < tile ? p->places - i : tile;
        uint8_t *here = out + (n * p->groups * p->outputs + first) * p->places;
        qir_columns(in + n * p->in_image + g * p->in_group, p, i, end, offsets, column, columns);
        for (o = 0; o < p->outputs; o++)
          for (t = 0; t < end; t++)
            here[(i + t) * p->out_place + o * p->out_channel] = qir_code(
                qir_dot8(w + (first + o) * p->row, columns + t * p->length, p->length) + bias[first + o], to, first + o);
      }
}

/*@ product_wide multiplied words */
static void qir_product_wide(const uint8_t *in, const int16_t *w, const int32_t *bias, const qir_product *p,
                             int32_t tile, const qir_output *to, int32_t *offsets, uint8_t *column, int16_t *columns,
                              uint8_t *out) {
  int32_t n, g, i, o, t;
  if (p->window)
    qir_offsets(p->window, offsets);
  for (n = 0; n < p->images; n++)
    for (g = 0; g < p->groups; g++)
      for (i = 0; i < p->places; i += tile) {
        const int32_t first = g * p->outputs, end = p->places - i < tile ? p->places - i : tile;
        uint8_t *here = out + (n * p->groups * p->outputs + first) * p->places;
        qir_columns(in + n * p->in_image + g * p->in_group, p, i, end, offsets, column, columns);
        for (o = 0; o < p->outputs; o++)
          for (t = 0; t < end; t++)
            here[(i + t) * p->out_place + o * p->out_channel] = qir_code(
                qir_dot(w + (first + o) * p->row, columns + t * p->length, p->length) + bias[first + o], to, first + o);
      }
}

/*@ product_words multiplied words unpack */
static void qir_product_words(const uint8_t *in, const uint8_t *w, const int32_t *bias, const qir_product *p,
                              int32_t tile, const qir_output *to, int32_t *offsets, uint8_t *column, int16_t *columns,
                              int16_t *row, uint8_t *out) {
  int32_t n, g, i, o, t;
  if (p->window)
    qir_offsets(p->window, offsets);
  for (n = 0; n < p->images; n++)
    for (g = 0; g < p->groups; g++)
      for (i = 0; i < p->places; i += tile) {
        const int32_t first = g * p->outputs, end = p->places - i < tile ? p->places - i : tile;
        uint8_t *here = out + (n * p->groups * p->outputs + first) * p->places;
        qir_columns(in + n * p->in_image + g * p->in_group, p, i, end, offsets, column, columns);
        for (o = 0; o < p->outputs; o++) {
          qir_unpack(w + (first + o) * p->row, p->length, p->bits, p->step, p->w_offset, row);
          for (t = 0; t < end; t++)
            here[(i + t) * p->out_place + o * p->out_channel] =
                qir_code(qir_dot(row, columns + t * p->length, p->length) + bias[first + o], to, first + o);
        }
      }
}

/*@ maximum place */
static void qir_maximum(const uint8_t *in, const qir_window *w, uint8_t *out) {
  const int32_t plane = w->size[0] * w->size[1] * w->size[2];
  int32_t c, x, y, z, i, j, k;
  for (c = 0; c < w->channels; c++)
    for (z = 0; z < w->output[0]; z++)
      for (y = 0; y < w->output[1]; y++)
        for (x = 0; x < w->output[2]; x++) {
          uint8_t largest = 0;
          for (i = 0; i < w->kernel[0]; i++)
            for (j = 0; j < w->kernel[1]; j++)
              for (k = 0; k < w->kernel[2]; k++) {
                const int32_t a = qir_place(w, 0, z, i), b = qir_place(w, 1, y, j), d = qir_place(w, 2, x, k);
                if (a >= 0 && b >= 0 && d >= 0) {
                  const uint8_t found = in[c * plane + (a * w->size[1] + b) * w->size[2] + d];
                  largest = found > largest ? found : largest;
                }
              }
          *out++ = largest;
        }
}

/*@ average place mean */
/* counts: one, or one a place of the output */
static void qir_average(const uint8_t *in, const qir_window *w, int32_t offset, const int32_t *counts, int32_t many,
                        const qir_output *to, uint8_t *out) {
  const int32_t plane = w->size[0] * w->size[1] * w->size[2];
  int32_t c, x, y, z, i, j, k;
  for (c = 0; c < w->channels; c++) {
    int32_t place = 0;
    for (z = 0; z < w->output[0]; z++)
      for (y = 0; y < w->output[1]; y++)
        for (x = 0; x < w->output[2]; x++) {
          int32_t sum = 0;
          for (i = 0; i < w->kernel[0]; i++)
            for (j = 0; j < w->kernel[1]; j++)
              for (k = 0; k < w->kernel[2]; k++) {
                const int32_t a = qir_place(w, 0, z, i), b = qir_place(w, 1, y, j), d = qir_place(w, 2, x, k);
                if (a >= 0 && b >= 0 && d >= 0)
                  sum += in[c * plane + (a * w->size[1] + b) * w->size[2] + d] + offset;
              }
          *out++ = qir_mean(sum, counts[many ? place : 0], to);
          place++;
        }
  }
}

/*@ gather */
/* out[i, j, ...] = in[offsets[0][i] + offsets[1][j] + ...], `fill` where the sum is below 0 */
static void qir_gather(const uint8_t *in, int rank, const int32_t *sizes, const int32_t *const *offsets, uint8_t fill,
                       uint8_t *out) {
  int32_t index[8] = {0}, i, n = 1;
  int axis;
  for (axis = 0; axis < rank; axis++)
    n *= sizes[axis];
  for (i = 0; i < n; i++) {
    int64_t place = 0;
    for (axis = 0; axis < rank; axis++)
      place += offsets[axis][index[axis]];
    out[i] = place < 0 ? fill : in[place];
    for (axis = rank - 1; axis >= 0 && ++index[axis] == sizes[axis]; axis--)
      index[axis] = 0;
  }
}

/*@ pairs */
typedef struct {
  int32_t sizes[8], a[8], b[8]; /* of the result; how far a step along an axis moves in each operand */
  int rank;
  int32_t offset_a, offset_b;
} qir_pair;

static void qir_places(const qir_pair *p, int32_t i, int32_t *a, int32_t *b) {
  int axis;
  *a = 0;
  *b = 0;
  for (axis = p->rank - 1; axis >= 0; axis--) {
    const int32_t at = i % p->sizes[axis];
    i /= p->sizes[axis];
    *a += at * p->a[axis];
    *b += at * p->b[axis];
  }
}

/*@ add pairs clamp round */
static void qir_add(const uint8_t *a, const uint8_t *b, const qir_pair *p, int32_t n, const qir_output *to,
                    uint8_t *out) {
  int32_t i, j, k;
  for (i = 0; i < n; i++) {
    qir_places(p, i, &j, &k);
    out[i] = qir_clamp(qir_round((int64_t)(a[j] + p->offset_a) * to->mantissa[0] +
                                     (int64_t)(b[k] + p->offset_b) * to->mantissa[1],
                                 to->shift[0]),
                       to);
  }
}

/*@ multiply pairs code */
static void qir_multiply(const uint8_t *a, const uint8_t *b, const qir_pair *p, int32_t n, const qir_output *to,
                         uint8_t *out) {
  int32_t i, j, k;
  for (i = 0; i < n; i++) {
    qir_places(p, i, &j, &k);
    out[i] = qir_code((a[j] + p->offset_a) * (b[k] + p->offset_b), to, 0);
  }
}

/*@ matmul code */
/* one product [m, k] x [k, n] of two tensors of codes, the second [n, k] where it is turned */
static void qir_matmul(const uint8_t *a, const uint8_t *b, int32_t m, int32_t n, int32_t k, int32_t turned,
                       int32_t offset_a, int32_t offset_b, const qir_output *to, uint8_t *out) {
  int32_t i, j, l;
  for (i = 0; i < m; i++)
    for (j = 0; j < n; j++) {
      int32_t sum = 0;
      for (l = 0; l < k; l++)
        sum += (a[i * k + l] + offset_a) * (b[turned ? j * k + l : l * n + j] + offset_b);
      out[i * n + j] = qir_code(sum, to, 0);
    }
}

/*@ rescale code */
static void qir_rescale(const uint8_t *in, int32_t n, int32_t offset, const qir_output *to, uint8_t *out) {
  int32_t i;
  for (i = 0; i < n; i++)
    out[i] = qir_code(in[i] + offset, to, 0);
}

// Linear layers for few rows: each weight is read once, as it is stored, and memory is the bound.
//
// A thread reads several rows of the matrix at once, far apart: more reads are on their way than of
// one row (docs/performance.md). Sums are in float32, or in whole numbers that lose no more. Vectors
// are those of the compiler's own extension, so one text serves every processor; where one has
// products of bytes (VNNI), 8-bit and 4-bit weights use them, since nothing else keeps up.
//
// Only torch's stable C++ interface is used.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "bfloat16.h"
#include "many_rows.h"

#ifdef __AVX512VNNI__
#include <immintrin.h>
#endif

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using triptych::narrowed;
using triptych::widened;

constexpr int64_t LINE = 64;        // bytes of a row that are taken in one step: a cache line
constexpr int64_t AHEAD = 1024;     // bytes between what is read and what is asked for
constexpr int64_t FEW = 8;          // rows of x that share one reading of the matrix
constexpr int64_t QUICK = 2;        // rows of x that vectors multiply while it is read
constexpr int64_t SHARE = 1 << 15;  // bytes that are worth a thread
constexpr int64_t LANES = 16;

typedef float Floats __attribute__((vector_size(64)));
typedef int32_t Ints __attribute__((vector_size(64)));
typedef uint32_t Words __attribute__((vector_size(64)));
typedef int8_t Bytes __attribute__((vector_size(16)));

template <class Value>
Value load(const void* from) {
  Value value;
  std::memcpy(&value, from, sizeof value);
  return value;
}

// body(0), body(1), ... with constants, so that what it indexes can stay in registers.
template <int COUNT, class Body>
[[gnu::always_inline]] inline void each(Body body) {
  [&]<int... I>(std::integer_sequence<int, I...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, I>{}), ...);
  }(std::make_integer_sequence<int, COUNT>{});
}

float sum(Floats v) {
  v += __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  v += __builtin_shufflevector(v, v, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  return (v[0] + v[1]) + (v[2] + v[3]);
}

// A format has STEP weights in a cache line. A row of x comes to `lay` with zeros behind its end, and
// is laid down as the format wants it: PLACES numbers for each step. `add` multiplies a line of row
// `row` of the matrix by R rows of x, `finish` says what that adds up to. LAST: the line may be cut.

template <int R>
struct InFloats {
  Floats lanes[R] = {};
};

struct Bfloat16 {
  static constexpr int64_t STEP = 32, PLACES = 32;
  using Given = float;
  template <int R>
  using Sums = InFloats<R>;
  static constexpr int together(int rows) { return rows > 4 ? 2 : 4; }

  void lay(int64_t, const std::vector<float>& x, Given* out, int64_t apart) {
    for (size_t at = 0; at < x.size(); at += STEP, out += apart) {
      for (int i = 0; i < STEP; ++i) out[i % 2 * LANES + i / 2] = x[at + i];
    }
  }

  template <int R, bool LAST>
  void add(const char* line, int64_t, int64_t, const Given* x, Sums<R>& sums) const {
    const Words pairs = load<Words>(line), even = pairs << 16, odd = pairs & 0xffff0000;
    each<R>([&](auto r) {
      sums.lanes[r] += load<Floats>(&even) * load<Floats>(x + r * PLACES);
      sums.lanes[r] += load<Floats>(&odd) * load<Floats>(x + r * PLACES + LANES);
    });
  }

  template <int R>
  void finish(const Sums<R>& sums, int64_t, float* totals) const {
    each<R>([&](auto r) { totals[r] = sum(sums.lanes[r]); });
  }
};

#ifdef __AVX512VNNI__
// A row of x in whole numbers of 24 bits, none above `limit`, of a unit that is a power of two:
// numbers of bfloat16 are exact down to 2^-14 of the largest, which is closer than sums in float32
// come.
struct Whole {
  static constexpr int32_t MOST = (1 << 23) - 1;
  float unit;
  std::vector<int32_t> numbers;

  explicit Whole(const std::vector<float>& x, int32_t limit = MOST) : numbers(x.size()) {
    uint32_t most = 0;  // the bits of the largest: without their signs, they stand in its order
    for (const float& number : x) most = std::max(most, load<uint32_t>(&number) << 1 >> 1);
    const bool finite = most < 0x7f800000;
    int exponent = std::max(int(most >> 23) - 127, -100) + 1;
    if (finite && std::ldexp(load<float>(&most), 23 - exponent) > limit) ++exponent;
    const float units = finite ? std::ldexp(1.0f, 23 - exponent) : 0.0f;
    unit = finite ? std::ldexp(1.0f, exponent - 23) : std::numeric_limits<float>::quiet_NaN();
    for (size_t i = 0; finite && i < x.size(); ++i) {
      const float number = x[i] * units;
      numbers[i] = int32_t(number + (number < 0 ? -0.5f : 0.5f));
    }
  }
};
#endif

struct Int8 {
  static constexpr int64_t STEP = 64;
  const float* scale;         // of each row of the matrix
  std::array<float, FEW> units = {};

#ifdef __AVX512VNNI__
  // Bytes of x, the lowest first, of numbers that are made positive by 2^23; `weights` knows how
  // much that is too much.
  static constexpr int64_t PLACES = 3 * STEP;
  using Given = uint8_t;
  template <int R>
  struct Sums {
    __m512i bytes[3 * R] = {};
    __m512i weights = {};
  };
  static constexpr int together(int rows) { return rows == 1 ? 4 : rows <= 4 ? 2 : 1; }

  void lay(int64_t r, const std::vector<float>& x, Given* out, int64_t apart) {
    const Whole whole(x);
    units[r] = whole.unit;
    for (size_t at = 0; at < x.size(); at += STEP, out += apart) {
      for (int byte = 0; byte < 3; ++byte) {
        for (int i = 0; i < STEP; ++i) {
          out[byte * STEP + i] = uint8_t((whole.numbers[at + i] + (1 << 23)) >> 8 * byte);
        }
      }
    }
  }

  template <int R, bool LAST>
  void add(const char* line, int64_t, int64_t, const Given* x, Sums<R>& sums) const {
    const __m512i weights = load<__m512i>(line);
    sums.weights = _mm512_dpbusd_epi32(sums.weights, _mm512_set1_epi8(1), weights);
    each<3 * R>([&](auto i) {
      const __m512i numbers = load<__m512i>(x + i * STEP);
      sums.bytes[i] = _mm512_dpbusd_epi32(sums.bytes[i], numbers, weights);
    });
  }

  template <int R>
  void finish(const Sums<R>& sums, int64_t row, float* totals) const {
    each<R>([&](auto r) {
      const Ints most = Ints(sums.bytes[3 * r + 2]) - (Ints(sums.weights) << 7);
      Floats lanes = __builtin_convertvector(most, Floats) * 65536.0f;
      lanes += __builtin_convertvector(Ints(sums.bytes[3 * r + 1]), Floats) * 256.0f;
      lanes += __builtin_convertvector(Ints(sums.bytes[3 * r]), Floats);
      totals[r] = sum(lanes) * units[r] * scale[row];
    });
  }
#else
  static constexpr int64_t PLACES = STEP;
  using Given = float;
  template <int R>
  using Sums = InFloats<R>;
  static constexpr int together(int rows) { return rows > 4 ? 2 : 4; }

  void lay(int64_t, const std::vector<float>& x, Given* out, int64_t apart) {
    for (size_t at = 0; at < x.size(); at += STEP, out += apart) {
      std::copy_n(x.data() + at, STEP, out);
    }
  }

  template <int R, bool LAST>
  void add(const char* line, int64_t, int64_t, const Given* x, Sums<R>& sums) const {
    for (int part = 0; part < 4; ++part) {
      const Floats weights = __builtin_convertvector(load<Bytes>(line + 16 * part), Floats);
      each<R>([&](auto r) {
        sums.lanes[r] += weights * load<Floats>(x + r * PLACES + part * LANES);
      });
    }
  }

  template <int R>
  void finish(const Sums<R>& sums, int64_t row, float* totals) const {
    each<R>([&](auto r) { totals[r] = sum(sums.lanes[r]) * scale[row]; });
  }
#endif
};

// Two weights a byte, the even one in its low bits; `zero` of a group is what stands for 0. Lane l of
// a sum has the weights 8 l .. 8 l + 7 of a step, so that a group is a number of lanes.
template <int GROUP>
struct Int4 {
  static constexpr int64_t STEP = 128, GROUPS = STEP / GROUP;  // GROUPS of a step
  using Scales = std::conditional_t<GROUP == 32, uint64_t,
                                    std::conditional_t<GROUP == 64, uint32_t, uint16_t>>;
  const uint16_t* scale;  // bfloat16, of each group of each row
  const uint8_t* zero;
  int64_t groups;  // of a row

  template <int R>
  using Sums = InFloats<R>;
  static constexpr int together(int rows) { return rows > 2 ? 2 : 4; }

  // The scales of the groups of a step; 0 behind the end of a row.
  template <bool LAST>
  Scales scales(int64_t row, int64_t step) const {
    const uint16_t* first = scale + row * groups + step * GROUPS;
    if constexpr (!LAST) return load<Scales>(first);
    Scales few = 0;
    std::memcpy(&few, first, sizeof(uint16_t) * (groups - step * GROUPS));
    return few;
  }

#ifdef __AVX512VNNI__
  // What `zero` takes off is known from the sum of x over a group: it is taken off at the end of a
  // row.
  std::array<float, FEW> units = {};
  std::vector<float> given = {};  // the sum of x over each group, a row of x after another

  int64_t padded() const { return (groups + LANES - 1) / LANES * LANES; }

  void add_up(int64_t r, const std::vector<float>& x) {
    given.resize(FEW * padded());
    for (int64_t group = 0; group < groups; ++group) {
      float total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t i = group * GROUP; i < (group + 1) * GROUP; ++i) total += x[i];
      given[r * padded() + group] = total;
    }
  }

  // Digits of x to the base of 256, from -128 to 127, the highest first; of each the even weights'
  // and the odd ones'. Three digits of 127 are the most that they can say.
  static constexpr int32_t DIGITS = 0x7f7f7f;
  static constexpr int64_t PLACES = 3 * STEP;
  using Given = int8_t;

  void lay(int64_t r, const std::vector<float>& x, Given* out, int64_t apart) {
    const Whole whole(x, DIGITS);
    units[r] = whole.unit;
    add_up(r, x);
    for (size_t at = 0; at < x.size(); at += STEP, out += apart) {
      for (int digit = 0; digit < 3; ++digit) {
        const int32_t up = digit == 0 ? 0x8080 : digit == 1 ? 0x80 : 0;
        for (int odd = 0; odd < 2; ++odd) {
          for (int i = 0; i < LINE; ++i) {
            const int32_t number = whole.numbers[at + 2 * i + odd];
            out[digit * STEP + odd * LINE + i] = int8_t((number + up) >> 8 * (2 - digit));
          }
        }
      }
    }
  }

  template <int R, bool LAST>
  void add(const char* line, int64_t row, int64_t step, const Given* x, Sums<R>& sums) const {
    const __m512i pairs = load<__m512i>(line), low = _mm512_set1_epi8(15);
    const __m512i even = _mm512_and_si512(pairs, low);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(pairs, 4), low);
    alignas(64) static constexpr auto PLACE = [] {
      std::array<uint16_t, 32> place{};
      for (int i = 0; i < 32; ++i) place[i] = i / 2 * GROUPS / LANES;
      return place;
    }();
    const __m512i all = _mm512_set1_epi64(scales<LAST>(row, step));
    const Floats lanes = Floats(_mm512_maskz_permutexvar_epi16(0xaaaaaaaa, load<__m512i>(&PLACE), all));
    each<R>([&](auto r) {
      __m512i total = {};
      each<3>([&](auto digit) {
        const Given* numbers = x + r * PLACES + digit * STEP;
        total = _mm512_slli_epi32(total, 8);
        total = _mm512_dpbusd_epi32(total, even, load<__m512i>(numbers));
        total = _mm512_dpbusd_epi32(total, odd, load<__m512i>(numbers + LINE));
      });
      sums.lanes[r] += __builtin_convertvector(Ints(total), Floats) * lanes;
    });
  }

  // What the zeros of a row take off, for each row of x.
  template <int R>
  void off(int64_t row, float* totals) const {
    const uint16_t* scales = scale + row * groups;
    const uint8_t* zeros = zero + row * groups;
    Floats lanes[R] = {};
    for (int64_t at = 0; at < groups; at += LANES) {
      const auto mask = __mmask16(groups - at < LANES ? (1 << (groups - at)) - 1 : 0xffff);
      const __m256i halves = _mm256_maskz_loadu_epi16(mask, scales + at);
      const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
      const __m128i bytes = _mm_maskz_loadu_epi8(mask, zeros + at);
      const Floats zero = _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
      const Floats over = Floats(wide) * zero;
      each<R>([&](auto r) { lanes[r] += over * load<Floats>(given.data() + r * padded() + at); });
    }
    each<R>([&](auto r) { totals[r] -= sum(lanes[r]); });
  }

  template <int R>
  void finish(const Sums<R>& sums, int64_t row, float* totals) const {
    each<R>([&](auto r) { totals[r] = sum(sums.lanes[r]) * units[r]; });
    off<R>(row, totals);
  }
#else
  static constexpr int64_t PLACES = STEP;
  using Given = float;

  void lay(int64_t, const std::vector<float>& x, Given* out, int64_t apart) {
    for (size_t at = 0; at < x.size(); at += STEP, out += apart) {
      for (int i = 0; i < STEP; ++i) out[i % 8 * LANES + i / 8] = x[at + i];
    }
  }

  template <int R, bool LAST>
  void add(const char* line, int64_t row, int64_t step, const Given* x, Sums<R>& sums) const {
    const Words words = load<Words>(line);
    const Scales few = scales<LAST>(row, step);
    Floats lanes, zeros, totals[R] = {};
    for (int lane = 0; lane < LANES; ++lane) {
      const int64_t group = lane * GROUPS / LANES;
      lanes[lane] = widened(uint16_t(few >> 16 * group));
      zeros[lane] = zero[row * groups + std::min(step * GROUPS + group, groups - 1)];
    }
    for (int part = 0; part < 8; ++part) {
      const Ints numbers = Ints(words >> (4 * part) & 15);
      const Floats weights = __builtin_convertvector(numbers, Floats) - zeros;
      for (int r = 0; r < R; ++r) {
        totals[r] += weights * load<Floats>(x + r * PLACES + part * LANES);
      }
    }
    for (int r = 0; r < R; ++r) sums.lanes[r] += totals[r] * lanes;
  }

  template <int R>
  void finish(const Sums<R>& sums, int64_t, float* totals) const {
    each<R>([&](auto r) { totals[r] = sum(sums.lanes[r]); });
  }
#endif
};

struct Matrix {
  const char* data;
  int64_t rows;
  int64_t bytes;  // of a row
};

// Rows `at`, `at + apart`, ... of the matrix, N of them, times R rows of x: totals[n][r].
template <int R, int N, class Format>
void multiply(const Format& format, const Matrix& matrix, int64_t at, int64_t apart,
              const typename Format::Given* x, float (&totals)[N][R]) {
  const int64_t whole = matrix.bytes / LINE, rest = matrix.bytes % LINE;
  const char* first = matrix.data + at * matrix.bytes;
  typename Format::template Sums<R> sums[N];
  for (int64_t step = 0; step < whole; ++step) {
    each<N>([&](auto n) {
      const char* line = first + n * apart * matrix.bytes + step * LINE;
      __builtin_prefetch(line + AHEAD, 0, 2);  // into the second cache
      format.template add<R, false>(line, at + n * apart, step, x + step * R * Format::PLACES,
                                    sums[n]);
    });
  }
  each<N>([&](auto n) {
    if (rest) {
      char line[LINE] = {};
      std::memcpy(line, first + n * apart * matrix.bytes + whole * LINE, rest);
      format.template add<R, true>(line, at + n * apart, whole, x + whole * R * Format::PLACES,
                                   sums[n]);
    }
    format.template finish<R>(sums[n], at + n * apart, totals[n]);
  });
}

// Numbers of bfloat16 or float32.
struct Numbers {
  void* data;
  bool wide;

  float operator[](int64_t i) const {
    return wide ? static_cast<const float*>(data)[i]
                : widened(static_cast<const uint16_t*>(data)[i]);
  }

  void copy(int64_t from, int64_t count, float* to) const {
    if (wide) std::copy_n(static_cast<const float*>(data) + from, count, to);
    else std::transform(static_cast<const uint16_t*>(data) + from,
                        static_cast<const uint16_t*>(data) + from + count, to, widened);
  }

  void put(int64_t i, float value) const {
    if (wide) static_cast<float*>(data)[i] = value;
    else static_cast<uint16_t*>(data)[i] = narrowed(value);
  }
};

// All rows of the matrix times `few` rows of x, of R that are laid down; `out` from its number `to`.
template <int R, class Format>
void multiply_all(const Format& format, const Matrix& matrix, const typename Format::Given* x,
                  int64_t few, const std::optional<Numbers>& bias, const Numbers& out, int64_t to) {
  constexpr int N = Format::together(R);
  const auto write = [&](int64_t row, const float* totals) {
    for (int r = 0; r < few; ++r) {
      out.put(to + r * matrix.rows + row, bias ? totals[r] + (*bias)[row] : totals[r]);
    }
  };
  const int64_t grain = SHARE / matrix.bytes + 1;
  torch::stable::parallel_for(0, matrix.rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t apart = (end - begin) / N;
    for (int64_t row = begin; row < begin + apart; ++row) {
      float totals[N][R];
      multiply<R, N>(format, matrix, row, apart, x, totals);
      for (int n = 0; n < N; ++n) write(row + n * apart, totals[n]);
    }
    for (int64_t row = begin + N * apart; row < end; ++row) {
      float totals[1][R];
      multiply<R, 1>(format, matrix, row, 0, x, totals);
      write(row, totals[0]);
    }
  });
}

Numbers numbers(const Tensor& tensor) {
  const bool wide = tensor.scalar_type() == ScalarType::Float;
  STD_TORCH_CHECK(wide || tensor.scalar_type() == ScalarType::BFloat16,
                  "x and bias must be bfloat16 or float32");
  return {tensor.data_ptr(), wide};
}

template <class Value>
const Value* data(const Tensor& tensor, ScalarType type) {
  STD_TORCH_CHECK(tensor.scalar_type() == type, "weights, scales or zeros have the wrong type");
  return static_cast<const Value*>(tensor.const_data_ptr());
}

Tensor dense(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

// x [..., I] times a dense matrix [O, I], FEW rows of x at a time.
template <class Format>
Tensor product(Format format, const Tensor& given_x, const char* weights, int64_t outputs,
               int64_t width, const std::optional<Tensor>& given_bias) {
  using Given = typename Format::Given;
  const int64_t dims = given_x.dim();
  STD_TORCH_CHECK(dims > 0 && given_x.size(dims - 1) == width, "x and the matrix differ in width");
  const Tensor x = dense(given_x);
  const Numbers from = numbers(x);
  std::vector<int64_t> sizes;
  int64_t rows = 1;
  for (int64_t dim = 0; dim + 1 < dims; ++dim) {
    sizes.push_back(x.size(dim));
    rows *= x.size(dim);
  }
  sizes.push_back(outputs);
  Tensor out = torch::stable::new_empty(x, sizes);
  const std::optional<Tensor> bias = given_bias ? std::optional(dense(*given_bias)) : std::nullopt;
  const std::optional<Numbers> added = bias ? std::optional(numbers(*bias)) : std::nullopt;
  const Matrix matrix{weights, outputs, width * LINE / Format::STEP};
  const int64_t steps = (width + Format::STEP - 1) / Format::STEP;
  std::vector<float> one(steps * Format::STEP);
  std::vector<Given> laid;
  for (int64_t row = 0; row < rows; row += FEW) {
    const int64_t few = std::min(FEW, rows - row);
    const int64_t room = few <= 2 ? few : few <= 4 ? 4 : FEW;
    laid.assign(steps * Format::PLACES * room, Given{});
    for (int64_t r = 0; r < few; ++r) {
      from.copy((row + r) * width, width, one.data());
      format.lay(r, one, laid.data() + r * Format::PLACES, room * Format::PLACES);
    }
    const auto run = [&](auto count) {
      multiply_all<decltype(count)::value>(format, matrix, laid.data(), few, added, numbers(out),
                                           row * outputs);
    };
    switch (room) {
      case 1: run(std::integral_constant<int, 1>{}); break;
      case 2: run(std::integral_constant<int, 2>{}); break;
      case 4: run(std::integral_constant<int, 4>{}); break;
      default: run(std::integral_constant<int, 8>{}); break;
    }
  }
  return out;
}

Tensor linear(Tensor x, Tensor weight, std::optional<Tensor> bias) {
  const bool halves = x.scalar_type() == ScalarType::BFloat16;
  if (!halves || x.numel() > FEW * weight.size(1)) return triptych::many_rows(x, weight, bias);
  if (x.numel() > QUICK * weight.size(1)) {
    if (const auto out = triptych::tiled_linear(x, weight, bias)) return *out;
  }
  const Tensor matrix = dense(weight);
  return product(Bfloat16{}, x, data<char>(matrix, ScalarType::BFloat16), matrix.size(0),
                 matrix.size(1), bias);
}

Tensor linear_int8(Tensor x, Tensor weight, Tensor scale, std::optional<Tensor> bias) {
  const Tensor matrix = dense(weight), scales = dense(scale);
  return product(Int8{data<float>(scales, ScalarType::Float)}, x,
                 data<char>(matrix, ScalarType::Char), matrix.size(0), matrix.size(1), bias);
}

Tensor linear_int4(Tensor x, Tensor weight, Tensor scale, Tensor zero, std::optional<Tensor> bias) {
  const Tensor matrix = dense(weight), scales = dense(scale), zeros = dense(zero);
  const int64_t width = 2 * matrix.size(1), groups = scales.size(1);
  const auto of = [&](auto group) {
    const Int4<decltype(group)::value> format{data<uint16_t>(scales, ScalarType::BFloat16),
                                              data<uint8_t>(zeros, ScalarType::Byte), groups};
    return product(format, x, data<char>(matrix, ScalarType::Byte), matrix.size(0), width, bias);
  };
  switch (width / groups) {
    case 32: return of(std::integral_constant<int, 32>{});
    case 64: return of(std::integral_constant<int, 64>{});
    default: break;
  }
  STD_TORCH_CHECK(width == 128 * groups, "groups must have 32, 64 or 128 weights");
  return of(std::integral_constant<int, 128>{});
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(triptych, CPU, m) {
  m.impl("linear", TORCH_BOX(&linear));
  m.impl("linear_int8", TORCH_BOX(&linear_int8));
  m.impl("linear_int4", TORCH_BOX(&linear_int4));
}

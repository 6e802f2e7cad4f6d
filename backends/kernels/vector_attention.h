#pragma once
// Attention in float32, by vectors of the compiler's own extension: one text for every processor.
//
// 32 queries meet up to 256 keys at a time, which are first transposed: a number of a query then
// meets 16 keys at once, and no sum goes across a vector.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "bfloat16.h"

namespace triptych {

typedef float Lanes __attribute__((vector_size(64)));
typedef int32_t LaneInts __attribute__((vector_size(64)));
constexpr int64_t LANE_COUNT = 16;

inline float as_float(float number) { return number; }

inline float as_float(uint16_t bfloat16) { return widened(bfloat16); }

inline void store(float* to, float number) { *to = number; }
inline void store(uint16_t* to, float number) { *to = narrowed(number); }

inline Lanes load_lanes(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}

inline void store_lanes(float* to, Lanes lanes) { std::memcpy(to, &lanes, sizeof lanes); }

// 2 ** x for x <= 0, to within some 1e-7; nothing below 2 ** -126.
inline Lanes power_of_two_below_one(Lanes x) {
  const Lanes least = Lanes{} - 126.0f, rounding = Lanes{} + 12582912.0f;  // 1.5 * 2 ** 23
  const LaneInts none = x < least;
  x = none ? least : x;
  const Lanes whole = (x + rounding) - rounding, rest = x - whole;
  Lanes y = 0.000154353093f * rest + 0.00133335581f;
  y = y * rest + 0.00961812911f;
  y = y * rest + 0.0555041087f;
  y = y * rest + 0.240226507f;
  y = y * rest + 0.693147182f;
  y = y * rest + 1.0f;
  const LaneInts scale = (__builtin_convertvector(whole, LaneInts) + 127) << 23;
  Lanes factor;
  std::memcpy(&factor, &scale, sizeof factor);
  return none ? Lanes{} : y * factor;
}

// Swaps the off-diagonal quarters of squares of side 2 * D.
template <int D, int... I>
void swap_quarters(Lanes (&r)[LANE_COUNT], std::integer_sequence<int, I...>) {
  for (int i = 0; i < LANE_COUNT; ++i) {
    if (i & D) continue;
    const Lanes above = r[i], below = r[i + D];
    r[i] = __builtin_shufflevector(above, below, (I & D ? LANE_COUNT + I - D : I)...);
    r[i + D] = __builtin_shufflevector(above, below, (I & D ? LANE_COUNT + I : I + D)...);
  }
}

inline void transpose(Lanes (&r)[LANE_COUNT]) {
  constexpr auto lanes = std::make_integer_sequence<int, LANE_COUNT>{};
  swap_quarters<8>(r, lanes);
  swap_quarters<4>(r, lanes);
  swap_quarters<2>(r, lanes);
  swap_quarters<1>(r, lanes);
}

// One head: memory for up to 256 keys, and for blocks of 32 queries that are so many together.
template <class Number>
class InVectors {
 public:
  static constexpr int64_t QUERIES = 32, KEYS = 256;

  // With `rounded`, scores are rounded to the type of the keys.
  InVectors(int64_t width, int64_t queries, bool rounded)
      : rounded_(rounded),
        width_(width),
        padded_((width + LANE_COUNT - 1) / LANE_COUNT * LANE_COUNT),
        q_((queries + QUERIES - 1) / QUERIES * QUERIES * padded_),
        k_(padded_ * KEYS),
        v_(KEYS * padded_),
        scores_(QUERIES * KEYS),
        sums_(q_.size()) {}

  template <class At>
  void take_queries(int64_t block, int64_t count, At at) {
    for (int64_t i = 0; i < count; ++i) {
      const Number* from = at(i);
      float* to = &q_[(block * QUERIES + i) * padded_];
      for (int64_t d = 0; d < width_; ++d) to[d] = as_float(from[d]);
    }
  }

  void take_keys(const Number* k, int64_t k_row, const Number* v, int64_t v_row, int64_t count) {
    const int64_t room = (count + 4 * LANE_COUNT - 1) / (4 * LANE_COUNT) * (4 * LANE_COUNT);
    Lanes square[LANE_COUNT];
    for (int64_t key = 0; key < room; key += LANE_COUNT) {
      for (int64_t d = 0; d < padded_; d += LANE_COUNT) {
        for (int64_t i = 0; i < LANE_COUNT; ++i) {
          square[i] = key + i < count ? part(k + (key + i) * k_row, d) : Lanes{};
        }
        transpose(square);
        for (int64_t i = 0; i < LANE_COUNT; ++i) store_lanes(&k_[(d + i) * KEYS + key], square[i]);
      }
    }
    for (int64_t key = 0; key < count; ++key) {
      for (int64_t d = 0; d < padded_; d += LANE_COUNT) {
        store_lanes(&v_[key * padded_ + d], part(v + key * v_row, d));
      }
    }
    keys_ = count;
  }

  // Adds what `count` queries of a block find among the keys from begin[i] to before end[i].
  void meet(int64_t block, int64_t count, const int64_t* begin, const int64_t* end, float scale,
            float* most, float* weight) {
    const int64_t first = std::max<int64_t>(*std::min_element(begin, begin + count), 0);
    const int64_t last = std::min(*std::max_element(end, end + count), keys_);
    const int64_t from = first / (4 * LANE_COUNT) * (4 * LANE_COUNT);
    for (int64_t row = 0; row < count; row += 4) {
      for (int64_t key = from; key < last; key += 4 * LANE_COUNT) score(block, row, key);
    }
    if constexpr (!std::is_same_v<Number, float>) {
      for (float& score : scores_) score = rounded_ ? as_float(narrowed(score)) : score;
    }
    for (int64_t i = 0; i < count; ++i) {
      float shrunk;
      const float more = exponentials(i, from, last, std::max(begin[i], from),
                                      std::min(end[i], last), scale, most[i], shrunk);
      weight[i] = weight[i] * shrunk + more;
      float* y = &sums_[(block * QUERIES + i) * padded_];
      for (int64_t d = 0; d < padded_; ++d) y[d] *= shrunk;
    }
    for (int64_t row = 0; row < count; row += 4) {
      for (int64_t d = 0; d < padded_; d += 4 * LANE_COUNT) {
        switch (std::min<int64_t>((padded_ - d) / LANE_COUNT, 4)) {
          case 1: sum<1>(block, row, d, from, last); break;
          case 2: sum<2>(block, row, d, from, last); break;
          case 3: sum<3>(block, row, d, from, last); break;
          default: sum<4>(block, row, d, from, last); break;
        }
      }
    }
  }

  // The sums of a query.
  void told(int64_t block, int64_t row, float* to) const {
    std::copy_n(&sums_[(block * QUERIES + row) * padded_], width_, to);
  }

 private:
  Lanes part(const Number* row, int64_t d) const {
    Lanes lanes{};
    if constexpr (std::is_same_v<Number, float>) {
      if (d + LANE_COUNT <= width_) return load_lanes(row + d);
    }
    for (int64_t i = 0; i < std::min(LANE_COUNT, width_ - d); ++i) lanes[i] = as_float(row[d + i]);
    return lanes;
  }

  // 4 queries, 64 keys.
  void score(int64_t block, int64_t row, int64_t key) {
    Lanes sums[4][4] = {};
    const float* q = &q_[(block * QUERIES + row) * padded_];
    for (int64_t d = 0; d < padded_; ++d) {
      const float* k = &k_[d * KEYS + key];
      Lanes keys[4];
      for (int j = 0; j < 4; ++j) keys[j] = load_lanes(k + j * LANE_COUNT);
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < 4; ++j) sums[i][j] += q[i * padded_ + d] * keys[j];
      }
    }
    for (int i = 0; i < 4; ++i) {
      float* to = &scores_[(row + i) * KEYS + key];
      for (int j = 0; j < 4; ++j) store_lanes(to + j * LANE_COUNT, sums[i][j]);
    }
  }

  // Turns the scores of a query into exponentials, whose sum is returned, as `Head` of
  // tile_attention.h does; those outside of begin to end become 0.
  float exponentials(int64_t row, int64_t from, int64_t last, int64_t begin, int64_t end,
                     float scale, float& most, float& shrunk) {
    float* s = &scores_[row * KEYS];
    const int64_t room = (last + LANE_COUNT - 1) / LANE_COUNT * LANE_COUNT;
    shrunk = 1;
    if (begin >= end) {
      std::fill(s + from, s + room, 0.0f);
      return 0;
    }
    std::fill(s + from, s + begin, -std::numeric_limits<float>::infinity());
    std::fill(s + end, s + room, -std::numeric_limits<float>::infinity());
    Lanes largest = load_lanes(s + from);
    for (int64_t key = from + LANE_COUNT; key < room; key += LANE_COUNT) {
      const Lanes other = load_lanes(s + key);
      largest = other > largest ? other : largest;
    }
    const float before = most;
    for (int64_t i = 0; i < LANE_COUNT; ++i) most = std::max(most, largest[i] * scale);
    shrunk = std::exp2(before - most);
    Lanes weights{};
    for (int64_t key = from; key < room; key += LANE_COUNT) {
      const Lanes power = power_of_two_below_one(load_lanes(s + key) * scale - most);
      weights += power;
      store_lanes(s + key, power);
    }
    float weight = 0;
    for (int64_t i = 0; i < LANE_COUNT; ++i) weight += weights[i];
    return weight;
  }

  // Adds values, each times its exponential: of 4 queries, N * 16 numbers.
  template <int N>
  void sum(int64_t block, int64_t row, int64_t d, int64_t from, int64_t last) {
    Lanes sums[4][N];
    float* to = &sums_[(block * QUERIES + row) * padded_ + d];
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < N; ++j) sums[i][j] = load_lanes(to + i * padded_ + j * LANE_COUNT);
    }
    const float* p = &scores_[row * KEYS];
    for (int64_t key = from; key < last; ++key) {
      const float* v = &v_[key * padded_ + d];
      Lanes values[N];
      for (int j = 0; j < N; ++j) values[j] = load_lanes(v + j * LANE_COUNT);
      for (int i = 0; i < 4; ++i) {
        for (int j = 0; j < N; ++j) sums[i][j] += p[i * KEYS + key] * values[j];
      }
    }
    for (int i = 0; i < 4; ++i) {
      for (int j = 0; j < N; ++j) store_lanes(to + i * padded_ + j * LANE_COUNT, sums[i][j]);
    }
  }

  bool rounded_;
  int64_t width_, padded_, keys_ = 0;
  std::vector<float> q_, k_, v_, scores_, sums_;
};

}  // namespace triptych

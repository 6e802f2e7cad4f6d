#pragma once
// Attention by tiles, head by head: of the rows of one segment to one another, and to a cache.
//
// 32 queries meet 256 or up to 1,024 keys at a time. Scores, their exponentials and what is summed
// stay in the second-level cache: nothing as wide as a segment is written to memory.

#include "tiles.h"
#ifdef TRIPTYCH_TILES

#include <cmath>
#include <limits>

namespace triptych {

constexpr int64_t QUERIES = 2 * SIDE;
constexpr int64_t KEYS = 1024;
constexpr int64_t ROUND = 256;  // keys of a segment at a time: their scores stay in a nearer cache
constexpr float ROOM = 8;       // powers of two that exponentials may come to before all are shrunk

struct Heads {
  const bf16* data;
  int64_t row, head;  // strides; the numbers of a head lie together
};

// 2 ** x to four digits: it is rounded to bfloat16, which has fewer than three.
inline __m512 rough_power_of_two(__m512 x) {
  constexpr int BELOW = _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC;
  const __m512 rest = _mm512_reduce_ps(x, BELOW);  // from 0 to before 1
  __m512 y = _mm512_fmadd_ps(_mm512_set1_ps(0.078024357f), rest, _mm512_set1_ps(0.226067736f));
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.695833132f));
  y = _mm512_fmadd_ps(y, rest, _mm512_set1_ps(0.999925280f));
  return _mm512_scalef_ps(y, x);  // times 2 to the whole number below x
}

// One head: memory and sizes in tiles, for so many keys, and for blocks of 32 queries.
struct Head {
  int64_t keys, width;
  int64_t deep = (width + DEEP - 1) / DEEP;   // tiles of a query or key
  int64_t wide = (width + SIDE - 1) / SIDE;   // tiles of a value
  int64_t long_ = (keys + DEEP - 1) / DEEP;   // times 32 keys
  bf16 *q, *k, *v, *p;
  float *scores, *sums;

  Head(int64_t keys, int64_t width, int64_t blocks, Scratch& numbers, Scratch& floats)
      : keys(keys), width(width) {
    k = numbers.of<bf16>((2 * long_ * deep + long_ * wide + 2 * KEYS / DEEP + 2 * blocks * deep) * TILE);
    v = k + 2 * long_ * deep * TILE;
    p = v + long_ * wide * TILE;
    q = p + 2 * KEYS / DEEP * TILE;
    scores = floats.of<float>((2 * KEYS / SIDE + 2 * blocks * wide) * SUMS);
    sums = scores + 2 * KEYS / SIDE * SUMS;
  }

  // With the queries and sums of another block.
  Head at(int64_t block) const {
    Head head = *this;
    head.q += 2 * block * deep * TILE;
    head.sums += 2 * block * wide * SUMS;
    return head;
  }

  // Brings values into tiles, no more of them than there is memory for.
  void take(const Heads& from_v, int64_t count) {
    keys = count;
    long_ = (keys + DEEP - 1) / DEEP;
    rearrange_values(from_v);
  }

  // Keys too.
  void take(const Heads& from_k, const Heads& from_v, int64_t count) {
    take(from_v, count);
    rearrange_keys(from_k);
  }

  static __mmask32 upto(int64_t count) {
    return count >= 32 ? 0xffffffff : count <= 0 ? 0 : (1u << count) - 1;
  }

  // Tiles [keys / 16][width / 32] of pairs of numbers by keys.
  void rearrange_keys(const Heads& from) const {
    bf16* to = k;
    for (int64_t key = 0; key < 2 * long_ * SIDE; key += SIDE) {
      for (int64_t step = 0; step < deep; ++step, to += TILE) {
        __m512i words[16];
        for (int64_t i = 0; i < 16; ++i) {
          const __mmask32 there = key + i < keys ? upto(width - step * DEEP) : 0;
          words[i] = _mm512_maskz_loadu_epi16(there, from.data + (key + i) * from.row + step * DEEP);
        }
        transpose(words);
        for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * DEEP, words[i]);
      }
    }
  }

  // Tiles [keys / 32][width / 16] of pairs of keys by numbers.
  void rearrange_values(const Heads& from) const {
    for (int64_t key = 0; key < long_ * DEEP; key += 2) {
      for (int64_t part = 0; part < wide; ++part) {
        const __mmask16 there = upto(width - part * SIDE);
        const bf16* at = from.data + key * from.row + part * SIDE;
        const __m256i even = _mm256_maskz_loadu_epi16(key < keys ? there : 0, at);
        const __m256i odd = _mm256_maskz_loadu_epi16(key + 1 < keys ? there : 0, at + from.row);
        const __m512i pairs = _mm512_or_si512(
            _mm512_cvtepu16_epi32(even), _mm512_slli_epi32(_mm512_cvtepu16_epi32(odd), 16));
        _mm512_store_si512(v + ((key / DEEP) * wide + part) * TILE + key % DEEP * SIDE, pairs);
      }
    }
  }

  // Tiles [2][width / 32] of up to 32 queries, of which `at` tells where each is.
  template <class At>
  void copy_queries(int64_t count, At at) const {
    for (int64_t i = 0; i < QUERIES; ++i) {
      const bf16* from = i < count ? at(i) : nullptr;
      for (int64_t step = 0; step < deep; ++step) {
        const __mmask32 there = from ? upto(width - step * DEEP) : 0;
        _mm512_store_si512(q + (i / SIDE * deep + step) * TILE + i % SIDE * DEEP,
                           _mm512_maskz_loadu_epi16(there, from + step * DEEP));
      }
    }
  }

  // Scores of the queries for keys from 32 * `first` on: tiles [2][keys / 16].
  void score(int64_t first, int64_t count) const {
    settle();
    for (int64_t j = 0; j < count; ++j) {
      const bf16* column = k + (first + j) * 2 * deep * TILE;
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
      for (int64_t step = 0; step < deep; ++step) {
        _tile_loadd(4, q + step * TILE, 64);
        _tile_loadd(6, column + step * TILE, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, column + (deep + step) * TILE, 64);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, q + (deep + step) * TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
      }
      float* to = scores + 2 * j * SUMS;
      _tile_stored(0, to, 64);
      _tile_stored(1, to + SUMS, 64);
      _tile_stored(2, to + KEYS / SIDE * SUMS, 64);
      _tile_stored(3, to + KEYS / SIDE * SUMS + SUMS, 64);
    }
  }

  // Makes tiles [width / 32] of pairs of numbers by queries of the first 16.
  void turn_queries() const {
    for (int64_t step = 0; step < deep; ++step) turn(q + step * TILE);
  }

  // As `score`, for 16 turned queries: keys are read as they lie, and it is their scores that are
  // turned, which are fewer; with `rounded`, to bfloat16 too.
  void score_few(const Heads& from, int64_t first, int64_t count, bool rounded) const {
    for (int64_t j = 0; j < count;) {
      const int64_t both = std::min<int64_t>(count - j, 2);
      Heads rows[4];
      for (int64_t i = 0; i < 2 * both; ++i) {
        rows[i] = lying(from, (2 * (first + j) + i) * SIDE, k + i * deep * TILE);
      }
      float* to = scores + 2 * j * SUMS;
      settle();
      both == 2 ? products<4>(rows, to) : products<2>(rows, to);
      settle();
      for (int64_t i = 0; i < 2 * both; ++i) turn(to + i * SUMS);
      for (int64_t i = 0; rounded && i < 2 * both * SUMS; i += SIDE) {
        const auto halves = (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(to + i));
        _mm512_store_si512(to + i, _mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
      }
      j += both;
    }
  }

  // Turns the scores of query `row` into exponentials, whose sum is returned; it sees the keys from
  // `begin` to before `end`, counted from the first that was scored. `most` is the score whose
  // exponential is 1, in powers of two: no more than `ROOM` below the largest yet; `shrunk` what
  // earlier sums are to be multiplied by.
  float exponentials(int64_t row, int64_t count, int64_t begin, int64_t end, float scale,
                     float& most, float& shrunk) const {
    float* s = scores + row / SIDE * (KEYS / SIDE) * SUMS + row % SIDE * SIDE;
    bf16* to = p + row / SIDE * (KEYS / DEEP) * TILE + row % SIDE * DEEP;
    if (begin >= end) {
      shrunk = 1;
      for (int64_t j = 0; j < count; ++j) _mm512_store_si512(to + j * TILE, _mm512_setzero_si512());
      return 0;
    }
    const auto hide = [&](int64_t j) {  // before the first key and behind the last, nothing weighs
      const __mmask16 seen = upto(end - j * SIDE) & ~upto(begin - j * SIDE);
      const __m512 none = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
      _mm512_store_ps(s + j * SUMS, _mm512_mask_loadu_ps(none, seen, s + j * SUMS));
    };
    for (int64_t j = 0; j * SIDE < begin; ++j) hide(j);
    for (int64_t j = end / SIDE; j < 2 * count; ++j) hide(j);
    __m512 left = _mm512_load_ps(s), right = _mm512_load_ps(s + SUMS);
    for (int64_t j = 1; j < count; ++j) {
      left = _mm512_max_ps(left, _mm512_load_ps(s + 2 * j * SUMS));
      right = _mm512_max_ps(right, _mm512_load_ps(s + (2 * j + 1) * SUMS));
    }
    left = _mm512_max_ps(left, right);
    shrunk = 1;
    if (_mm512_cmp_ps_mask(left, _mm512_set1_ps((most + ROOM) / scale), _CMP_GT_OQ)) {
      const float before = most;
      most = _mm512_reduce_max_ps(left) * scale;
      shrunk = std::exp2(before - most);
    }
    const __m512 scales = _mm512_set1_ps(scale), offset = _mm512_set1_ps(-most);
    left = right = _mm512_setzero_ps();
    for (int64_t j = 0; j < count; ++j, s += 2 * SUMS, to += TILE) {
      const __m512 a = rough_power_of_two(_mm512_fmadd_ps(_mm512_load_ps(s), scales, offset));
      const __m512 b = rough_power_of_two(_mm512_fmadd_ps(_mm512_load_ps(s + SUMS), scales, offset));
      left = _mm512_add_ps(left, a);
      right = _mm512_add_ps(right, b);
      _mm512_store_si512(to, (__m512i)_mm512_cvtne2ps_pbh(b, a));
    }
    return _mm512_reduce_add_ps(_mm512_add_ps(left, right));
  }

  // What was summed of values for a query, times `by`.
  void shrink(int64_t row, float by) const {
    for (int64_t part = 0; part < wide; ++part) {
      float* y = sums + (row / SIDE * wide + part) * SUMS + row % SIDE * SIDE;
      _mm512_store_ps(y, _mm512_mul_ps(_mm512_load_ps(y), _mm512_set1_ps(by)));
    }
  }

  // Adds the values of keys from 32 * `first` on, each times its exponential.
  void sum(int64_t first, int64_t count) const {
    settle();
    for (int64_t part = 0; part < wide; part += 2) {
      const bool both = part + 1 < wide;
      float *above = sums + part * SUMS, *below = above + wide * SUMS;
      _tile_loadd(0, above, 64);
      _tile_loadd(2, below, 64);
      if (both) {
        _tile_loadd(1, above + SUMS, 64);
        _tile_loadd(3, below + SUMS, 64);
      }
      const bf16* values = v + (first * wide + part) * TILE;
      for (int64_t j = 0; j < count; ++j, values += wide * TILE) {
        _tile_loadd(4, p + j * TILE, 64);
        _tile_loadd(6, values, 64);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, p + (KEYS / DEEP + j) * TILE, 64);
        _tile_dpbf16ps(2, 5, 6);
        if (both) {
          _tile_loadd(7, values + TILE, 64);
          _tile_dpbf16ps(1, 4, 7);
          _tile_dpbf16ps(3, 5, 7);
        }
      }
      _tile_stored(0, above, 64);
      _tile_stored(2, below, 64);
      if (both) {
        _tile_stored(1, above + SUMS, 64);
        _tile_stored(3, below + SUMS, 64);
      }
    }
  }

  // As `sum`, for 16 queries.
  void sum_few(int64_t first, int64_t count) const {
    settle();
    for (int64_t part = 0; part < wide; part += 4) {
      const int64_t parts = std::min<int64_t>(wide - part, 4);
      float* to = sums + part * SUMS;
      _tile_loadd(0, to, 64);
      if (parts > 1) _tile_loadd(1, to + SUMS, 64);
      if (parts > 2) _tile_loadd(2, to + 2 * SUMS, 64);
      if (parts > 3) _tile_loadd(3, to + 3 * SUMS, 64);
      const bf16* values = v + (first * wide + part) * TILE;
      for (int64_t j = 0; j < count; ++j, values += wide * TILE) {
        _tile_loadd(4, p + j * TILE, 64);
        _tile_loadd(6, values, 64);
        _tile_dpbf16ps(0, 4, 6);
        if (parts > 1) {
          _tile_loadd(7, values + TILE, 64);
          _tile_dpbf16ps(1, 4, 7);
        }
        if (parts > 2) {
          _tile_loadd(6, values + 2 * TILE, 64);
          _tile_dpbf16ps(2, 4, 6);
        }
        if (parts > 3) {
          _tile_loadd(7, values + 3 * TILE, 64);
          _tile_dpbf16ps(3, 4, 7);
        }
      }
      _tile_stored(0, to, 64);
      if (parts > 1) _tile_stored(1, to + SUMS, 64);
      if (parts > 2) _tile_stored(2, to + 2 * SUMS, 64);
      if (parts > 3) _tile_stored(3, to + 3 * SUMS, 64);
    }
  }

 private:
  // Transposes a tile of words of 32 bits, in place.
  static void turn(void* tile) {
    __m512i words[16];
    auto* rows = static_cast<__m512i*>(tile);
    for (int i = 0; i < 16; ++i) words[i] = _mm512_load_si512(rows + i);
    transpose(words);
    for (int i = 0; i < 16; ++i) _mm512_store_si512(rows + i, words[i]);
  }

  // 16 keys from `key` on, where whole tiles of them lie in memory; else a copy with zeros behind.
  Heads lying(const Heads& from, int64_t key, bf16* copy) const {
    if (key + SIDE <= keys && width % DEEP == 0) return {from.data + key * from.row, from.row, 0};
    for (int64_t i = 0; i < SIDE; ++i) {
      for (int64_t step = 0; step < deep; ++step) {
        const __mmask32 there = key + i < keys ? upto(width - step * DEEP) : 0;
        _mm512_store_si512(
            copy + (i * deep + step) * DEEP,
            _mm512_maskz_loadu_epi16(there, from.data + (key + i) * from.row + step * DEEP));
      }
    }
    return {copy, deep * DEEP, 0};
  }

  // Scores of 16 turned queries for COUNT times 16 keys, which stand below each other.
  template <int COUNT>
  void products(const Heads (&rows)[4], float* to) const {
    _tile_zero(0);
    _tile_zero(1);
    if constexpr (COUNT == 4) {
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t step = 0; step < deep; ++step) {
      _tile_loadd(6, q + step * TILE, 64);
      _tile_loadd(4, rows[0].data + step * DEEP, 2 * rows[0].row);
      _tile_dpbf16ps(0, 4, 6);
      _tile_loadd(5, rows[1].data + step * DEEP, 2 * rows[1].row);
      _tile_dpbf16ps(1, 5, 6);
      if constexpr (COUNT == 4) {
        _tile_loadd(4, rows[2].data + step * DEEP, 2 * rows[2].row);
        _tile_dpbf16ps(2, 4, 6);
        _tile_loadd(5, rows[3].data + step * DEEP, 2 * rows[3].row);
        _tile_dpbf16ps(3, 5, 6);
      }
    }
    _tile_stored(0, to, 64);
    _tile_stored(1, to + SUMS, 64);
    if constexpr (COUNT == 4) {
      _tile_stored(2, to + 2 * SUMS, 64);
      _tile_stored(3, to + 3 * SUMS, 64);
    }
  }
};

// The rows of `q` by those of `k` and `v`, all of one segment and one head; `out` likewise.
inline void attend(const Heads& q, const Heads& k, const Heads& v, bf16* out, int64_t out_row,
                   int64_t rows, int64_t width) {
  static thread_local Scratch numbers, floats;
  Head head(rows, width, 1, numbers, floats);
  const float scale = M_LOG2E / std::sqrt(float(width));
  head.take(k, v, rows);
  for (int64_t first = 0; first < rows; first += QUERIES) {
    const int64_t queries = std::min(QUERIES, rows - first);
    head.copy_queries(queries, [&](int64_t i) { return q.data + (first + i) * q.row; });
    float most[QUERIES], weight[QUERIES] = {};
    std::fill_n(most, QUERIES, -std::numeric_limits<float>::infinity());
    std::fill_n(head.sums, 2 * head.wide * SUMS, 0.0f);
    for (int64_t key = 0; key < rows; key += ROUND) {
      const int64_t keys = std::min(ROUND, rows - key), count = (keys + DEEP - 1) / DEEP;
      head.score(key / DEEP, count);
      for (int64_t i = 0; i < queries; ++i) {
        float shrunk;
        const float more = head.exponentials(i, count, 0, keys, scale, most[i], shrunk);
        weight[i] = weight[i] * shrunk + more;
        if (key > 0 && shrunk < 1) head.shrink(i, shrunk);
      }
      head.sum(key / DEEP, count);
    }
    for (int64_t i = 0; i < queries; ++i) {
      const __m512 by = _mm512_set1_ps(1 / weight[i]);
      for (int64_t part = 0; part < head.wide; ++part) {
        const float* y = head.sums + (i / SIDE * head.wide + part) * SUMS + i % SIDE * SIDE;
        const auto mean = (__m256i)_mm512_cvtneps_pbh(_mm512_mul_ps(_mm512_load_ps(y), by));
        const __mmask16 there = Head::upto(width - part * SIDE);
        _mm256_mask_storeu_epi16(out + (first + i) * out_row + part * SIDE, there, mean);
      }
    }
  }
}

}  // namespace triptych
#endif

#pragma once
// Linear layers for many rows: x [R, I] times a matrix [O, I] that stays as it is stored.
//
// The transpose of the result is computed, matrix times x: so the matrix is the left factor, whose
// tiles are plain stretches of its rows, and only x has to be rearranged. The rows that come next
// are asked for from memory while these are multiplied, and what was summed is written out then.

#include "activations.h"
#include "bfloat16.h"
#ifdef TRIPTYCH_TILES

namespace triptych {

constexpr int64_t PANEL = 2 * SIDE;    // rows of the matrix, and of x, that are multiplied at once
constexpr int64_t BLOCK = 48;          // tiles along a panel at most: x and a panel share a cache
constexpr int64_t CHUNK = 12 * PANEL;  // rows of x at a time, for the same reason
constexpr int64_t GROUP = 16;          // panels whose sums wait in memory for the next block

struct Layer {
  const bf16* x;       // all dense
  const bf16* weight;
  const bf16* bias;    // or none
  bf16* out;
  int64_t rows, outputs, width;
};

inline bool fits_tiles(int64_t outputs, int64_t width) {
  return outputs % PANEL == 0 && width % DEEP == 0 && tiles_granted();
}

// What was summed and is still to be written: 32 outputs of up to 32 rows of x.
struct Summed {
  const float* sums = nullptr;  // two tiles for the first 16 outputs, two for the others
  const float* bias = nullptr;
  bf16* out = nullptr;
  int64_t stride = 0, rows = 0;

  // 16 of the rows, past the caches: what reads them next reads all of the others before.
  template <Activation A>
  void write(int half) const {
    const int64_t count = std::min(SIDE, rows - half * SIDE);
    if (count <= 0) return;
    alignas(64) static constexpr uint16_t WOVEN[32] = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const __m512i woven = _mm512_load_si512(WOVEN);
    __m512i words[16];
    for (int i = 0; i < 16; ++i) {
      const float* pair = sums + half * SUMS + i / 8 * 2 * SUMS + i % 8 * 2 * SIDE;
      const __m512 even = _mm512_add_ps(_mm512_load_ps(pair), _mm512_set1_ps(bias[2 * i]));
      const __m512 odd = _mm512_add_ps(_mm512_load_ps(pair + SIDE), _mm512_set1_ps(bias[2 * i + 1]));
      const auto both = (__m512i)_mm512_cvtne2ps_pbh(activated<A>(odd), activated<A>(even));
      words[i] = _mm512_permutexvar_epi16(woven, both);
    }
    transpose(words);
    bf16* to = out + half * SIDE * stride;
    for (int64_t i = 0; i < count; ++i) _mm512_stream_si512((__m512i*)(to + i * stride), words[i]);
  }
};

// Tiles of pairs of inputs by rows of x, those of a block of inputs together.
inline void rearrange(const Layer& l, int64_t first, int64_t rows, int64_t block, bf16* to) {
  const int64_t deep = l.width / DEEP;
  for (int64_t begin = 0; begin < deep; begin += block) {
    const int64_t end = std::min(begin + block, deep);
    for (int64_t row = first; row < first + rows; row += SIDE) {
      for (int64_t step = begin; step < end; ++step, to += TILE) {
        __m512i words[16];
        for (int64_t i = 0; i < 16; ++i) {
          words[i] = row + i < l.rows
                         ? _mm512_loadu_si512(l.x + (row + i) * l.width + step * DEEP)
                         : _mm512_setzero_si512();
        }
        transpose(words);
        for (int i = 0; i < 16; ++i) _mm512_store_si512(to + i * DEEP, words[i]);
      }
    }
  }
}

// All of x by the outputs of the panels from `begin` to before `end`.
template <Activation A>
void multiply(const Layer& l, int64_t begin, int64_t end) {
  static thread_local Scratch rearranged, summed;
  const Tiles tiles;
  const int64_t deep = l.width / DEEP, blocks = (deep + BLOCK - 1) / BLOCK;
  const int64_t block = (deep + blocks - 1) / blocks, stride = l.width * sizeof(bf16);
  const int64_t chunks = (l.rows + CHUNK - 1) / CHUNK;
  const int64_t chunk = ((l.rows + chunks - 1) / chunks + PANEL - 1) / PANEL * PANEL;
  bf16* const x = rearranged.of<bf16>(chunk * l.width);
  // Of a matrix of one block, the sums of two squares at a time: one grows, one is written out.
  float* const sums = summed.of<float>(blocks == 1 ? 2 * 4 * SUMS : GROUP * PANEL * chunk);

  struct Place {
    int64_t panel, slot, block;
    const bf16* rows;
  };
  // A group of panels goes through all blocks before the next begins.
  const auto place = [&](int64_t turn) {
    const int64_t group = turn / (GROUP * blocks), base = begin + group * GROUP;
    const int64_t count = std::min(GROUP, end - base), rest = turn - group * GROUP * blocks;
    const int64_t slot = rest % count, number = rest / count;
    return Place{base + slot, slot, number,
                 l.weight + (base + slot) * PANEL * l.width + number * block * DEEP};
  };
  const int64_t turns = (end - begin) * blocks;

  for (int64_t first = 0; first < l.rows; first += chunk) {
    const int64_t rows = std::min(chunk, l.rows - first), squares = (rows + PANEL - 1) / PANEL;
    rearrange(l, first, squares * PANEL, block, x);
    float bias[2][PANEL] = {};
    Summed waiting;
    Place next = place(0);
    for (int64_t turn = 0; turn < turns; ++turn) {
      const Place here = next;
      next = place(turn + 1 < turns ? turn + 1 : 0);
      const int64_t steps = std::min(block, deep - here.block * block);
      for (int64_t i = 0; l.bias && i < PANEL; ++i) {
        bias[turn % 2][i] = widened(l.bias[here.panel * PANEL + i]);
      }
      for (int64_t square = 0; square < squares; ++square) {
        const int64_t left = rows - square * PANEL;
        const bool both = left > SIDE;
        const bf16* const a = here.rows;
        const bf16* const b =
            x + (here.block * block * squares + square * steps) * 2 * TILE;
        float* const c = sums + (blocks == 1 ? square % 2 : here.slot * squares + square) * 4 * SUMS;
        const int64_t low = square * PANEL / squares, high = (square + 1) * PANEL / squares;
        const auto run = [&](int64_t from, int64_t to) {
          for (int64_t step = from; step < to; ++step) {
            _tile_loadd(4, a + step * DEEP, stride);
            _tile_loadd(6, b + step * TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            if (both) {
              _tile_loadd(7, b + (steps + step) * TILE, 64);
              _tile_dpbf16ps(1, 4, 7);
            }
            _tile_loadd(5, a + SIDE * l.width + step * DEEP, stride);
            _tile_dpbf16ps(2, 5, 6);
            if (both) _tile_dpbf16ps(3, 5, 7);
            for (int64_t row = low; row < high; ++row) {
              _mm_prefetch((const char*)(next.rows + row * l.width + step * DEEP), _MM_HINT_T1);
            }
          }
        };
        settle();
        if (here.block == 0) {
          _tile_zero(0);
          _tile_zero(1);
          _tile_zero(2);
          _tile_zero(3);
        } else {
          _tile_loadd(0, c, 64);
          _tile_loadd(1, c + SUMS, 64);
          _tile_loadd(2, c + 2 * SUMS, 64);
          _tile_loadd(3, c + 3 * SUMS, 64);
        }
        run(0, steps / 3);
        waiting.write<A>(0);
        run(steps / 3, 2 * steps / 3);
        waiting.write<A>(1);
        run(2 * steps / 3, steps);
        _tile_stored(0, c, 64);
        _tile_stored(1, c + SUMS, 64);
        _tile_stored(2, c + 2 * SUMS, 64);
        _tile_stored(3, c + 3 * SUMS, 64);
        waiting = {};
        if (here.block + 1 == blocks) {
          bf16* const to = l.out + (first + square * PANEL) * l.outputs + here.panel * PANEL;
          waiting = {c, bias[turn % 2], to, l.outputs, left};
        }
      }
    }
    waiting.write<A>(0);
    waiting.write<A>(1);
  }
  _mm_sfence();
}

}  // namespace triptych
#endif

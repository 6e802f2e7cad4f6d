#pragma once
// Linear layers for many rows: x [R, I] times a matrix [O, I] that stays as it is stored.
//
// The transpose of the result is computed, matrix times x: so the matrix is the left factor, whose
// tiles are plain stretches of its rows, and only x has to be rearranged. Its 32 rows meet 48 of x:
// then five tiles come from the second-level cache for six products. The rows that come next are
// asked for from memory while these are multiplied, and what was summed is written out then.

#include "activations.h"
#include "bfloat16.h"
#ifdef TRIPTYCH_TILES

namespace triptych {

constexpr int64_t PANEL = 2 * SIDE;  // rows of the matrix that are multiplied at once
constexpr int64_t WIDE = 3;          // times 16 rows of x that they are multiplied by
constexpr int64_t BLOCK = 48;        // tiles along a panel at most: x and a panel share a cache
constexpr int64_t CHUNK = 24;        // times 16 rows of x at a time, for the same reason
constexpr int64_t GROUP = 16;        // panels whose sums wait in memory for the next block

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

// What was summed and is still to be written: 32 outputs of up to 48 rows of x. Bit by bit, between
// products: a processor computes vectors and tiles side by side, but sees only some of each ahead.
class Summed {
 public:
  Summed() = default;
  Summed(const float* sums, const float* bias, bf16* out, int64_t stride, int64_t rows)
      : sums_(sums), bias_(bias), out_(out), stride_(stride), rows_(rows) {}

  // The next bits, if there are any.
  template <Activation A>
  void write(int64_t bits) {
    for (; bits > 0 && rows_ > 0; --bits) {
      if (bit_ < SIDE) {
        narrow<A>(bit_++);
      } else {
        store();
        bit_ = 0;
        sums_ += SUMS;
        out_ += SIDE * stride_;
        rows_ -= SIDE;
      }
    }
  }

  static constexpr int64_t BITS = WIDE * (SIDE + 1);  // of 48 rows

 private:
  // Two outputs of 16 rows.
  template <Activation A>
  void narrow(int64_t i) {
    alignas(64) static constexpr uint16_t WOVEN[32] = {
        0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    const float* pair = sums_ + i / 8 * WIDE * SUMS + i % 8 * 2 * SIDE;
    const __m512 even = _mm512_add_ps(_mm512_load_ps(pair), _mm512_set1_ps(bias_[2 * i]));
    const __m512 odd =
        _mm512_add_ps(_mm512_load_ps(pair + SIDE), _mm512_set1_ps(bias_[2 * i + 1]));
    const auto both = (__m512i)_mm512_cvtne2ps_pbh(activated<A>(odd), activated<A>(even));
    words_[i] = _mm512_permutexvar_epi16(_mm512_load_si512(WOVEN), both);
  }

  // 32 outputs of 16 rows, past the caches: what reads them next reads all of the others before.
  void store() {
    transpose(words_);
    const int64_t count = std::min(SIDE, rows_);
    for (int64_t i = 0; i < count; ++i) {
      _mm512_stream_si512((__m512i*)(out_ + i * stride_), words_[i]);
    }
  }

  const float* sums_ = nullptr;  // tiles [2][WIDE] of outputs by rows
  const float* bias_ = nullptr;
  bf16* out_ = nullptr;
  int64_t stride_ = 0, rows_ = 0, bit_ = 0;
  __m512i words_[SIDE];
};

// Up to 48 neighbouring rows of x.
struct Square {
  int64_t first, tiles;
};

// One of the `count` squares that so many tiles of rows make, as even as they can be.
inline Square square_of(int64_t tiles, int64_t count, int64_t number) {
  const int64_t first = tiles * number / count;
  return {first, tiles * (number + 1) / count - first};
}

// Tiles of pairs of inputs by rows of x, those of a step together, those of a square, of a block.
inline void rearrange(const Layer& l, int64_t first, int64_t tiles, int64_t block, bf16* to) {
  const int64_t deep = l.width / DEEP, squares = (tiles + WIDE - 1) / WIDE;
  for (int64_t begin = 0; begin < deep; begin += block) {
    const int64_t steps = std::min(block, deep - begin);
    for (int64_t number = 0; number < squares; ++number) {
      const Square square = square_of(tiles, squares, number);
      for (int64_t tile = 0; tile < square.tiles; ++tile) {
        const int64_t row = first + (square.first + tile) * SIDE;
        const bf16* from = l.x + row * l.width + begin * DEEP;
        for (int64_t step = 0; step < steps; ++step) {
          __m512i words[16];
          for (int64_t i = 0; i < 16; ++i) {
            const bf16* at = from + i * l.width + step * DEEP;
            words[i] = row + i < l.rows ? _mm512_loadu_si512(at) : _mm512_setzero_si512();
          }
          transpose(words);
          for (int i = 0; i < 16; ++i) {
            _mm512_store_si512(to + (step * square.tiles + tile) * TILE + i * DEEP, words[i]);
          }
        }
      }
      to += steps * square.tiles * TILE;
    }
  }
}

// The sums of 32 outputs by COUNT times 16 rows stay in tiles 0 to 2 and 3 to 5.
template <int COUNT>
struct Sums {
  static void clear() {
    _tile_zero(0);
    _tile_zero(3);
    if constexpr (COUNT > 1) {
      _tile_zero(1);
      _tile_zero(4);
    }
    if constexpr (COUNT > 2) {
      _tile_zero(2);
      _tile_zero(5);
    }
  }
  static void load(const float* from) {
    _tile_loadd(0, from, 64);
    _tile_loadd(3, from + WIDE * SUMS, 64);
    if constexpr (COUNT > 1) {
      _tile_loadd(1, from + SUMS, 64);
      _tile_loadd(4, from + (WIDE + 1) * SUMS, 64);
    }
    if constexpr (COUNT > 2) {
      _tile_loadd(2, from + 2 * SUMS, 64);
      _tile_loadd(5, from + (WIDE + 2) * SUMS, 64);
    }
  }
  static void store(float* to) {
    _tile_stored(0, to, 64);
    _tile_stored(3, to + WIDE * SUMS, 64);
    if constexpr (COUNT > 1) {
      _tile_stored(1, to + SUMS, 64);
      _tile_stored(4, to + (WIDE + 1) * SUMS, 64);
    }
    if constexpr (COUNT > 2) {
      _tile_stored(2, to + 2 * SUMS, 64);
      _tile_stored(5, to + (WIDE + 2) * SUMS, 64);
    }
  }
  // Each tile of x is read once; those of the matrix, which lie in the nearest cache then, again.
  static void add(const bf16* above, const bf16* below, int64_t stride, const bf16* x) {
    _tile_loadd(6, x, 64);
    _tile_loadd(7, above, stride);
    _tile_dpbf16ps(0, 7, 6);
    _tile_loadd(7, below, stride);
    _tile_dpbf16ps(3, 7, 6);
    if constexpr (COUNT > 1) {
      _tile_loadd(6, x + TILE, 64);
      _tile_dpbf16ps(4, 7, 6);
      _tile_loadd(7, above, stride);
      _tile_dpbf16ps(1, 7, 6);
    }
    if constexpr (COUNT > 2) {
      _tile_loadd(6, x + 2 * TILE, 64);
      _tile_dpbf16ps(2, 7, 6);
      _tile_loadd(7, below, stride);
      _tile_dpbf16ps(5, 7, 6);
    }
  }
};

// All of x by the outputs of the panels from `begin` to before `end`.
template <Activation A>
void multiply(const Layer& l, int64_t begin, int64_t end) {
  static thread_local Scratch rearranged, summed;
  const Tiles tiles;
  const int64_t deep = l.width / DEEP, blocks = (deep + BLOCK - 1) / BLOCK;
  const int64_t block = (deep + blocks - 1) / blocks, stride = l.width * sizeof(bf16);
  const int64_t all = (l.rows + SIDE - 1) / SIDE, chunks = (all + CHUNK - 1) / CHUNK;
  const int64_t chunk = (all + chunks - 1) / chunks, most = (chunk + WIDE - 1) / WIDE;
  bf16* const x = rearranged.of<bf16>(chunk * SIDE * l.width);
  // Of a matrix of one block, the sums of two squares at a time: one grows, one is written out.
  float* const sums = summed.of<float>((blocks == 1 ? 2 : GROUP * most) * 2 * WIDE * SUMS);

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

  for (int64_t first = 0; first < all; first += chunk) {
    const int64_t count = std::min(chunk, all - first), squares = (count + WIDE - 1) / WIDE;
    rearrange(l, first * SIDE, count, block, x);
    float bias[2][PANEL] = {};
    Summed waiting;
    Place next = place(0);
    for (int64_t turn = 0; turn < turns; ++turn) {
      const Place here = next;
      next = place(turn + 1 < turns ? turn + 1 : 0);
      const int64_t steps = std::min(block, deep - here.block * block);
      const int64_t bits = (Summed::BITS + steps - 1) / steps;
      for (int64_t i = 0; l.bias && i < PANEL; ++i) {
        bias[turn % 2][i] = widened(l.bias[here.panel * PANEL + i]);
      }
      for (int64_t number = 0; number < squares; ++number) {
        const Square square = square_of(count, squares, number);
        const bf16* const b = x + (here.block * block * count + square.first * steps) * TILE;
        const int64_t row = (first + square.first) * SIDE;
        const int64_t kept = blocks == 1 ? number % 2 : here.slot * squares + number;
        float* const c = sums + kept * 2 * WIDE * SUMS;
        const int64_t low = number * PANEL / squares, high = (number + 1) * PANEL / squares;
        const auto product = [&](auto tiles) {
          using Own = Sums<tiles>;
          settle();
          here.block == 0 ? Own::clear() : Own::load(c);
          for (int64_t step = 0; step < steps; ++step) {
            const bf16* above = here.rows + step * DEEP;
            Own::add(above, above + SIDE * l.width, stride, b + step * tiles * TILE);
            waiting.write<A>(bits);
            for (int64_t row = low; row < high; ++row) {
              _mm_prefetch((const char*)(next.rows + row * l.width + step * DEEP), _MM_HINT_T1);
            }
          }
          Own::store(c);
        };
        switch (square.tiles) {
          case 3: product(std::integral_constant<int, 3>{}); break;
          case 2: product(std::integral_constant<int, 2>{}); break;
          default: product(std::integral_constant<int, 1>{});
        }
        if (here.block + 1 == blocks) {
          bf16* const to = l.out + row * l.outputs + here.panel * PANEL;
          waiting = {c, bias[turn % 2], to, l.outputs, std::min(l.rows - row, square.tiles * SIDE)};
        }
      }
    }
    waiting.write<A>(Summed::BITS);
  }
  _mm_sfence();
}

}  // namespace triptych
#endif

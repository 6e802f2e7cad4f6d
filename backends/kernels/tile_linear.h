#pragma once
// Linear layers for more than a few rows: x [R, I] times a matrix [O, I] that stays as it is stored.
//
// The transpose of the result is computed, matrix times x: so the matrix is the left factor, whose
// tiles are plain stretches of its rows, and only x has to be rearranged. Its 32 rows meet 48 of x:
// then five tiles come from the second-level cache for six products. The rows that come next are
// asked for from memory while these are multiplied, and what was summed is written out then. What
// only another layer reads is written as the tiles that it is multiplied by.

#include "activations.h"
#include "bfloat16.h"
#ifdef TRIPTYCH_TILES

namespace triptych {

constexpr int64_t PANEL = 2 * SIDE;  // rows of the matrix that are multiplied at once
constexpr int64_t WIDE = 3;          // times 16 rows of x that they are multiplied by
constexpr int64_t BLOCK = 48;        // tiles along a panel at most: x and a panel share a cache
constexpr int64_t CHUNK = 24;        // times 16 rows of x at a time, for the same reason
constexpr int64_t GROUP = 16;        // panels whose sums wait in memory for the next block

// Tiles of pairs of inputs by 16 rows: those of some rows together, of a block of inputs after another.
struct Tiled {
  bf16* tiles;
  int64_t rows, deep;  // in tiles
  int64_t block;       // tiles along a row that lie together

  static Tiled of(bf16* tiles, int64_t rows, int64_t width) {
    const int64_t deep = width / DEEP, blocks = rows > WIDE ? (deep + BLOCK - 1) / BLOCK : 1;
    return {tiles, rows, deep, (deep + blocks - 1) / blocks};
  }
  int64_t blocks() const { return (deep + block - 1) / block; }
  int64_t steps(int64_t number) const { return std::min(block, deep - number * block); }
  bf16* at(int64_t row, int64_t number) const {
    return tiles + (number * block * rows + row * steps(number)) * TILE;
  }
};

// How numbers leave a layer, each rounded before it meets another.
enum class Ending {
  rows,   // as they are
  added,  // to a residual
  tiled,  // as what another layer multiplies
  gated,  // likewise, times those of a second matrix, which are activated in their stead
};

struct Layer {
  const bf16* x;         // all dense; or none, where there are
  Tiled x_tiled;         // tiles
  const bf16* weight;
  const bf16* bias;      // or none
  const bf16* gate;      // the second matrix
  const bf16* residual;  // of the sizes of what comes out
  bf16* out;             // dense, on a line of the cache; or
  Tiled out_tiled;
  int64_t rows, outputs, width;
};

inline bool fits_tiles(int64_t outputs, int64_t width) {
  return outputs % PANEL == 0 && width % DEEP == 0 && tiles_granted();
}

// Two rows of a panel by 16 of x, as pairs: rounded, and back.
inline __m512 even(__m512i pairs) { return _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)); }
inline __m512 odd(__m512i pairs) {
  return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(0xffff0000)));
}
inline __m512i paired(__m512 even, __m512 odd) {
  alignas(64) static constexpr uint16_t WOVEN[32] = {
      0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
      8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const auto both = (__m512i)_mm512_cvtne2ps_pbh(odd, even);
  return _mm512_permutexvar_epi16(_mm512_load_si512(WOVEN), both);
}

// What was summed and is still to be written: 32 outputs of up to 48 rows of x. Bit by bit, between
// products: a processor computes vectors and tiles side by side, but sees only some of each ahead.
template <Activation A, Ending E>
class Summed {
 public:
  Summed() = default;
  // `other` is what the rows meet: of a residual, or what a gate has left. Strides: of 16 rows.
  Summed(const float* sums, const float* bias, int64_t rows, bf16* out, int64_t stride,
         const bf16* other, int64_t other_stride)
      : sums_(sums), bias_(bias), rows_(rows), out_(out), stride_(stride), other_(other),
        other_stride_(other_stride) {}

  // The next bits, if there are any.
  [[gnu::always_inline]] void write(int64_t bits) {
    for (; bits > 0 && rows_ > 0; --bits) {
      if (bit_ < SIDE) narrow(bit_);
      if (E != Ending::tiled && E != Ending::gated && bit_ >= SIDE) lay(bit_ - SIDE);
      if (++bit_ < BITS / WIDE) continue;
      bit_ = 0;
      rows_ -= SIDE;
      sums_ += SUMS;
      out_ += stride_;
      if (other_) other_ += other_stride_;
    }
  }

  static constexpr int64_t BITS =
      WIDE * (SIDE + (E == Ending::rows ? 1 : E == Ending::added ? 1 + SIDE / 2 : 0));

 private:
  // Two outputs of 16 rows.
  void narrow(int64_t i) {
    const float* pair = sums_ + i / 8 * WIDE * SUMS + i % 8 * 2 * SIDE;
    const __m512 first = _mm512_add_ps(_mm512_load_ps(pair), all(bias_[2 * i]));
    const __m512 second = _mm512_add_ps(_mm512_load_ps(pair + SIDE), all(bias_[2 * i + 1]));
    if (E == Ending::gated && other_) {
      const __m512i made = paired(first, second), by = _mm512_load_si512(other_ + i * DEEP);
      return keep(i, paired(_mm512_mul_ps(even(by), even(made)),
                            _mm512_mul_ps(odd(by), odd(made))));
    }
    const __m512i made = paired(activated<A>(first), activated<A>(second));
    if constexpr (E == Ending::tiled || E == Ending::gated) return keep(i, made);
    if (E == Ending::added && i < rows_) _mm_prefetch((const char*)other(i), _MM_HINT_T0);
    words_[i] = made;
  }

  void keep(int64_t i, __m512i pairs) const { _mm512_store_si512(out_ + i * DEEP, pairs); }

  // Rows of 32 outputs: all at once, or two with those of the residual.
  void lay(int64_t number) {
    if (number == 0) transpose(words_);
    if (E == Ending::rows) {
      for (int64_t i = 0; i < std::min(SIDE, rows_); ++i) store(i, words_[i]);
    } else if (number > 0) {
      for (int64_t i = 2 * number - 2; i < std::min(2 * number, rows_); ++i) {
        const __m512i by = _mm512_loadu_si512(other(i));
        store(i, paired(_mm512_add_ps(even(by), even(words_[i])),
                        _mm512_add_ps(odd(by), odd(words_[i]))));
      }
    }
  }

  // Past the caches: what reads it next reads all of the others before.
  void store(int64_t i, __m512i row) const {
    _mm512_stream_si512((__m512i*)(out_ + i * (stride_ / SIDE)), row);
  }
  const bf16* other(int64_t i) const { return other_ + i * (other_stride_ / SIDE); }

  const float* sums_ = nullptr;  // tiles [2][WIDE] of outputs by rows
  const float* bias_ = nullptr;
  int64_t rows_ = 0, bit_ = 0;
  bf16* out_ = nullptr;
  int64_t stride_ = 0;
  const bf16* other_ = nullptr;
  int64_t other_stride_ = 0;
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

// Brings the rows of x from `first` on into tiles, with zeros behind the last.
inline void rearrange(const Layer& l, int64_t first, const Tiled& to) {
  for (int64_t tile = 0; tile < to.rows; ++tile) {
    const int64_t row = first + tile * SIDE;
    for (int64_t block = 0; block < to.blocks(); ++block) {
      bf16* const tiles = to.at(tile, block);
      const bf16* from = l.x + row * l.width + block * to.block * DEEP;
      for (int64_t step = 0; step < to.steps(block); ++step) {
        __m512i words[SIDE];
        for (int64_t i = 0; i < SIDE; ++i) {
          const bf16* at = from + i * l.width + step * DEEP;
          words[i] = row + i < l.rows ? _mm512_loadu_si512(at) : _mm512_setzero_si512();
        }
        transpose(words);
        for (int64_t i = 0; i < SIDE; ++i) {
          _mm512_store_si512(tiles + step * TILE + i * DEEP, words[i]);
        }
      }
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
  static void add(const bf16* above, const bf16* below, int64_t stride, const bf16* x,
                  int64_t apart) {
    _tile_loadd(6, x, 64);
    _tile_loadd(7, above, stride);
    _tile_dpbf16ps(0, 7, 6);
    _tile_loadd(7, below, stride);
    _tile_dpbf16ps(3, 7, 6);
    if constexpr (COUNT > 1) {
      _tile_loadd(6, x + apart, 64);
      _tile_dpbf16ps(4, 7, 6);
      _tile_loadd(7, above, stride);
      _tile_dpbf16ps(1, 7, 6);
    }
    if constexpr (COUNT > 2) {
      _tile_loadd(6, x + 2 * apart, 64);
      _tile_dpbf16ps(2, 7, 6);
      _tile_loadd(7, below, stride);
      _tile_dpbf16ps(5, 7, 6);
    }
  }
};

// All of x by the outputs of the panels from `begin` to before `end`.
template <Activation A, Ending E>
void multiply(const Layer& l, int64_t begin, int64_t end) {
  static thread_local Scratch rearranged, summed, gates;
  constexpr int64_t MATRICES = E == Ending::gated ? 2 : 1;  // whose panels take turns
  constexpr bool TILES = E == Ending::gated || E == Ending::tiled;
  const Tiles tiles;
  const int64_t all = (l.rows + SIDE - 1) / SIDE, chunks = (all + CHUNK - 1) / CHUNK;
  const int64_t chunk = (all + chunks - 1) / chunks, most = (chunk + WIDE - 1) / WIDE;
  Tiled x = l.x ? Tiled::of(rearranged.of<bf16>(chunk * SIDE * l.width), chunk, l.width) : l.x_tiled;
  const int64_t blocks = x.blocks(), stride = l.width * sizeof(bf16);
  // Of few rows memory is the bound: all of a panel is one stretch of it, and what is asked for line
  // by line comes later than what the processor fetches of its own accord behind a line of 32.
  const bool few = all <= WIDE;
  // Of a matrix of one block, the sums of two squares at a time: one grows, one is written out.
  float* const sums = summed.of<float>((blocks == 1 ? 2 : GROUP * most) * 2 * WIDE * SUMS);
  bf16* const gated = E == Ending::gated ? gates.of<bf16>(chunk * TILE) : nullptr;

  struct Place {
    int64_t panel, slot, block;
    bool gate;
    const bf16* rows;
  };
  // A group of panels goes through all blocks before the next begins; a gate's comes first.
  const auto place = [&](int64_t turn) {
    const int64_t group = turn / (GROUP * blocks), base = MATRICES * begin + group * GROUP;
    const int64_t count = std::min(GROUP, MATRICES * end - base);
    const int64_t rest = turn - group * GROUP * blocks, slot = rest % count, number = rest / count;
    const int64_t panel = (base + slot) / MATRICES;
    const bool gate = (base + slot) % MATRICES < MATRICES - 1;
    return Place{panel, slot, number, gate,
                 (gate ? l.gate : l.weight) + panel * PANEL * l.width + number * x.block * DEEP};
  };
  const int64_t turns = MATRICES * (end - begin) * blocks;

  for (int64_t first = 0; first < all; first += chunk) {
    const int64_t count = std::min(chunk, all - first), squares = (count + WIDE - 1) / WIDE;
    if (l.x) {
      x.rows = count;
      rearrange(l, first * SIDE, x);
    }
    float bias[2][PANEL] = {};
    Summed<A, E> waiting;
    Place next = place(0);
    for (int64_t turn = 0; turn < turns; ++turn) {
      const Place here = next;
      next = place(turn + 1 < turns ? turn + 1 : 0);
      const int64_t steps = x.steps(here.block), bits = (waiting.BITS + steps - 1) / steps;
      for (int64_t i = 0; l.bias && i < PANEL; ++i) {
        bias[turn % 2][i] = widened(l.bias[here.panel * PANEL + i]);
      }
      for (int64_t number = 0; number < squares; ++number) {
        const Square square = square_of(count, squares, number);
        const bf16* const b = x.at(square.first + (l.x ? 0 : first), here.block);
        const int64_t kept = blocks == 1 ? number % 2 : here.slot * squares + number;
        float* const c = sums + kept * 2 * WIDE * SUMS;
        const int64_t low = number * PANEL / squares, high = (number + 1) * PANEL / squares;
        const auto product = [&](auto tiles) {
          using Own = Sums<tiles>;
          settle();
          here.block == 0 ? Own::clear() : Own::load(c);
          for (int64_t step = 0; step < steps; ++step) {
            const bf16* above = here.rows + step * DEEP;
            Own::add(above, above + SIDE * l.width, stride, b + step * TILE, steps * TILE);
            waiting.write(bits);
            if (few) {
              _mm_prefetch((const char*)(next.rows + step * PANEL * DEEP), _MM_HINT_T1);
              continue;
            }
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
        if (here.block + 1 < blocks) continue;
        const float* const added = bias[turn % 2];
        const int64_t tile = first + square.first, row = tile * SIDE;
        const int64_t rows = std::min(l.rows - row, square.tiles * SIDE);
        if constexpr (TILES) {
          bf16* const held = gated ? gated + square.first * TILE : nullptr;
          if (here.gate) {
            waiting = {c, added, rows, held, TILE, nullptr, 0};
          } else {
            const Tiled& to = l.out_tiled;
            const int64_t block = here.panel / to.block;
            bf16* const out = to.at(tile, block) + here.panel % to.block * TILE;
            waiting = {c, added, rows, out, to.steps(block) * TILE, held, TILE};
          }
        } else {
          const int64_t at = row * l.outputs + here.panel * PANEL, apart = SIDE * l.outputs;
          const bf16* const other = E == Ending::added ? l.residual + at : nullptr;
          waiting = {c, added, rows, l.out + at, apart, other, apart};
        }
      }
    }
    waiting.write(waiting.BITS);
  }
  _mm_sfence();
}

}  // namespace triptych
#endif

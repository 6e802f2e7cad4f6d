#pragma once
// Products of bfloat16 in the tile registers of AMX: 16 rows of 32 numbers times 32 rows of 16.
//
// A tile is read at full speed from one kibibyte that lies together, on a line of the cache, in the
// second-level cache at the farthest: whatever is multiplied is first brought into that form.

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
#define TRIPTYCH_TILES 1

#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>

namespace triptych {

using bf16 = uint16_t;

constexpr int64_t SIDE = 16;             // rows of a tile
constexpr int64_t DEEP = 32;             // numbers of bfloat16 in a row of a tile
constexpr int64_t TILE = SIDE * DEEP;    // numbers of bfloat16 in a tile
constexpr int64_t SUMS = SIDE * SIDE;    // numbers of float in a tile

// Linux hands the tile registers to who asks for them, once in a process.
inline bool tiles_granted() {
  constexpr long REQUEST = 0x1023, TILE_DATA = 18;
  static const bool granted = syscall(SYS_arch_prctl, REQUEST, TILE_DATA) == 0;
  return granted;
}

// The compiler knows not what the tile instructions read: what was stored before must be in memory.
inline void settle() { asm volatile("" ::: "memory"); }

// While it lives, all tile registers of this thread have 16 rows of 64 bytes.
struct Tiles {
  Tiles() {
    struct alignas(64) {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shapes;
    _tile_loadconfig(&shapes);
  }
  ~Tiles() { _tile_release(); }
};

// Memory that a thread keeps from call to call, in large pages: a page that is touched for the
// first time costs more than the product of what lies in it.
class Scratch {
 public:
  template <class Number>
  Number* of(int64_t count) {
    constexpr size_t PAGE = 2 << 20;
    const size_t bytes = (count * sizeof(Number) + PAGE - 1) / PAGE * PAGE;
    if (bytes > bytes_) {
      std::free(memory_);
      memory_ = std::aligned_alloc(PAGE, bytes);
      bytes_ = bytes;
      madvise(memory_, bytes, MADV_HUGEPAGE);
    }
    return static_cast<Number*>(memory_);
  }
  ~Scratch() { std::free(memory_); }

 private:
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

// 16 rows of 16 words of 32 bits, transposed in place.
inline void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

}  // namespace triptych
#endif

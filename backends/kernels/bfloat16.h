#pragma once

#include <cstdint>
#include <cstring>

namespace triptych {

inline float widened(uint16_t bfloat16) {
  const uint32_t bits = uint32_t(bfloat16) << 16;
  float number;
  std::memcpy(&number, &bits, sizeof number);
  return number;
}

inline uint16_t narrowed(float number) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  return number == number ? uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) : 0x7fc0;
}

}  // namespace triptych

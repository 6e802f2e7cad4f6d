#pragma once
// Activation functions on 16 numbers at a time, to within some 1e-6.

#include "tiles.h"
#ifdef TRIPTYCH_TILES

namespace triptych {

// In the order of `FUSED` in blocks/matrices.py.
enum class Activation : int64_t { none, silu, quick_gelu, gelu_tanh, gelu, relu };

inline __m512 all(float number) { return _mm512_set1_ps(number); }

// 2 ** x.
inline __m512 power_of_two(__m512 x) {
  const __m512 whole = _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 rest = _mm512_sub_ps(x, whole);
  __m512 y = _mm512_fmadd_ps(all(0.00133335581f), rest, all(0.00961812911f));
  y = _mm512_fmadd_ps(y, rest, all(0.0555041087f));
  y = _mm512_fmadd_ps(y, rest, all(0.240226507f));
  y = _mm512_fmadd_ps(y, rest, all(0.693147182f));
  y = _mm512_fmadd_ps(y, rest, all(1));
  return _mm512_scalef_ps(y, whole);
}

// 1 / x for 1 <= x <= 2 ** 126: an estimate of 14 bits, and a step of Newton's.
inline __m512 inverse(__m512 x) {
  const __m512 near = _mm512_rcp14_ps(x);
  return _mm512_mul_ps(near, _mm512_fnmadd_ps(x, near, all(2)));
}

// x / (1 + 2 ** -steepness): beyond 126 nothing changes that could be told.
inline __m512 gated(__m512 x, __m512 steepness) {
  const __m512 power = power_of_two(_mm512_min_ps(_mm512_sub_ps(_mm512_setzero_ps(), steepness), all(126)));
  return _mm512_mul_ps(x, inverse(_mm512_add_ps(power, all(1))));
}

// x times the normal distribution up to x (Abramowitz and Stegun, 7.1.26).
inline __m512 gelu(__m512 x) {
  const __m512 z = _mm512_mul_ps(_mm512_abs_ps(x), all(0.707106781f));
  const __m512 t = inverse(_mm512_fmadd_ps(z, all(0.3275911f), all(1)));
  __m512 y = _mm512_fmadd_ps(all(1.061405429f), t, all(-1.453152027f));
  y = _mm512_fmadd_ps(y, t, all(1.421413741f));
  y = _mm512_fmadd_ps(y, t, all(-0.284496736f));
  y = _mm512_mul_ps(_mm512_fmadd_ps(y, t, all(0.254829592f)), t);
  const __m512 tail = _mm512_mul_ps(y, power_of_two(_mm512_mul_ps(_mm512_mul_ps(z, z), all(-1.44269504f))));
  const __m512 half = _mm512_mul_ps(_mm512_mul_ps(x, all(0.5f)), tail);
  // Below zero it is the tail itself, above zero the rest.
  return _mm512_mask_sub_ps(half, _mm512_cmp_ps_mask(x, all(0), _CMP_GT_OQ), x, half);
}

template <Activation A>
__m512 activated(__m512 x) {
  if constexpr (A == Activation::silu) return gated(x, _mm512_mul_ps(x, all(1.44269504f)));
  if constexpr (A == Activation::quick_gelu) return gated(x, _mm512_mul_ps(x, all(1.702f * 1.44269504f)));
  if constexpr (A == Activation::gelu_tanh) {
    const __m512 cubic = _mm512_fmadd_ps(_mm512_mul_ps(x, x), all(0.044715f), all(1));
    return gated(x, _mm512_mul_ps(_mm512_mul_ps(x, cubic), all(2 * 0.797884561f * 1.44269504f)));
  }
  if constexpr (A == Activation::gelu) return gelu(x);
  if constexpr (A == Activation::relu) return _mm512_max_ps(x, all(0));
  return x;
}

// Calls `task` with the activation as a constant of the compiler's.
template <class Task>
void as_constant(Activation activation, const Task& task) {
  switch (activation) {
    case Activation::silu: return task(std::integral_constant<Activation, Activation::silu>{});
    case Activation::quick_gelu: return task(std::integral_constant<Activation, Activation::quick_gelu>{});
    case Activation::gelu_tanh: return task(std::integral_constant<Activation, Activation::gelu_tanh>{});
    case Activation::gelu: return task(std::integral_constant<Activation, Activation::gelu>{});
    case Activation::relu: return task(std::integral_constant<Activation, Activation::relu>{});
    default: return task(std::integral_constant<Activation, Activation::none>{});
  }
}

}  // namespace triptych
#endif

// Linear layers for many rows, as torch calls them.

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <array>
#include <vector>

#include "many_rows.h"
#include "tile_linear.h"

namespace triptych {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

namespace {

Tensor torch_linear(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(x),
                                    torch::stable::detail::from(weight),
                                    torch::stable::detail::from(bias)};
  STABLE_TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::linear", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

#ifdef TRIPTYCH_TILES
bool halved(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::BFloat16 && tensor.is_contiguous();
}

bool on_a_line(const void* memory) { return reinterpret_cast<uintptr_t>(memory) % 64 == 0; }
#endif

}  // namespace

#ifdef TRIPTYCH_TILES
static const bf16* numbers(const Tensor& tensor) {
  return static_cast<const bf16*>(tensor.const_data_ptr());
}
static const bf16* numbers(const std::optional<Tensor>& tensor) {
  return tensor ? numbers(*tensor) : nullptr;
}

// Whether tiles fit a matrix [O, I], and vectors [O] or matrices that stand beside it.
static bool fits(const Tensor& weight, std::initializer_list<const std::optional<Tensor>*> beside) {
  for (const auto* other : beside) {
    if (*other && !halved(**other)) return false;
  }
  return halved(weight) && fits_tiles(weight.size(0), weight.size(1));
}

static bool fits(const Tensor& x, int64_t width) {
  return x.scalar_type() == ScalarType::BFloat16 && x.dim() > 0 && x.size(x.dim() - 1) == width;
}

static Tensor dense(const Tensor& x) {
  return x.is_contiguous() ? x : torch::stable::contiguous(x);
}

// Room for as many outputs of each row of x.
static Tensor room(const Tensor& x, int64_t outputs) {
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = outputs;
  return torch::stable::new_empty(x, sizes);
}

template <Ending E>
static void run(const Layer& layer, Activation activation = Activation::none) {
  as_constant(activation, [&](auto constant) {
    torch::stable::parallel_for(0, layer.outputs / PANEL, 1, [&](int64_t begin, int64_t end) {
      multiply<decltype(constant)::value, E>(layer, begin, end);
    });
  });
}

// A layer by tiles, added to a residual if there is one; or nothing where tiles do not fit.
static std::optional<Tensor> by_tiles(const Tensor& given, const Tensor& weight,
                                      const std::optional<Tensor>& bias,
                                      const std::optional<Tensor>& residual = std::nullopt) {
  const int64_t outputs = weight.size(0), width = weight.size(1);
  if (!fits(given, width) || !fits(weight, {&bias, &residual})) return std::nullopt;
  const Tensor x = dense(given), out = room(x, outputs);
  Layer layer{};
  layer.x = numbers(x);
  layer.weight = numbers(weight);
  layer.bias = numbers(bias);
  layer.residual = numbers(residual);
  layer.out = static_cast<bf16*>(out.data_ptr());
  layer.rows = x.numel() / width;
  layer.outputs = outputs;
  layer.width = width;
  if (!on_a_line(layer.out)) return std::nullopt;
  residual ? run<Ending::added>(layer) : run<Ending::rows>(layer);
  return out;
}

// 16 numbers that lie together, or as many as `there` says.
static __m512 widened(__mmask16 there, const bf16* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}

// What torch's layer yields, each number changed by `change(number, there, place)`, 16 at once.
template <class Change>
static Tensor changed(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                      const Change& change) {
  const Tensor layer = torch_linear(x, weight, bias);
  STD_TORCH_CHECK(layer.scalar_type() == ScalarType::BFloat16, "numbers are bfloat16");
  const Tensor y = dense(layer);
  bf16* numbers = static_cast<bf16*>(y.data_ptr());
  const int64_t count = y.numel();
  for (int64_t i = 0; i < count; i += SIDE) {
    const __mmask16 there = count - i >= SIDE ? 0xffff : (1u << (count - i)) - 1;
    const auto narrow = (__m256i)_mm512_cvtneps_pbh(change(widened(there, numbers + i), there, i));
    _mm256_mask_storeu_epi16(numbers + i, there, narrow);
  }
  return y;
}

static Tensor residual_linear(Tensor x, Tensor weight, std::optional<Tensor> bias,
                              Tensor given_residual) {
  const Tensor residual = dense(given_residual);
  if (const auto out = by_tiles(x, weight, bias, residual)) return *out;
  STD_TORCH_CHECK(residual.scalar_type() == ScalarType::BFloat16, "a residual is of bfloat16");
  return changed(x, weight, bias, [&](__m512 number, __mmask16 there, int64_t place) {
    return _mm512_add_ps(widened(there, numbers(residual) + place), number);
  });
}

// Of `feed_forward`, what stands between its layers, where tiles do not fit.
static Tensor between(const Tensor& x, const std::optional<Tensor>& gate, const Tensor& up,
                      const std::optional<Tensor>& bias, Activation activation) {
  Tensor made = x;
  as_constant(activation, [&](auto constant) {
    made = changed(x, gate ? *gate : up, gate ? std::nullopt : bias,
                   [](__m512 number, __mmask16, int64_t) {
                     return activated<decltype(constant)::value>(number);
                   });
  });
  if (!gate) return made;
  return changed(x, up, bias, [&](__m512 number, __mmask16 there, int64_t place) {
    return _mm512_mul_ps(widened(there, numbers(made) + place), number);
  });
}

static Tensor many_rows(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias,
                        const std::optional<Tensor>& residual) {
  return residual ? residual_linear(x, weight, bias, *residual) : many_rows(x, weight, bias);
}

// Two layers; what is between them is written as the tiles that the second multiplies.
static Tensor feed_forward(Tensor given, std::optional<Tensor> gate, Tensor up,
                           std::optional<Tensor> up_bias, Tensor down,
                           std::optional<Tensor> down_bias, int64_t activation,
                           std::optional<Tensor> given_residual) {
  const auto which = static_cast<Activation>(activation);
  const auto residual = given_residual ? std::optional(dense(*given_residual)) : std::nullopt;
  const int64_t width = up.size(1), hidden = up.size(0), outputs = down.size(0);
  const bool by_tiles = fits(given, width) && fits(up, {&gate, &up_bias}) &&
                        fits(down, {&down_bias, &residual}) && down.size(1) == hidden;
  if (!by_tiles) {
    return many_rows(between(given, gate, up, up_bias, which), down, down_bias, residual);
  }
  const Tensor x = dense(given), out = room(x, outputs);
  const int64_t rows = x.numel() / width, tiles = (rows + SIDE - 1) / SIDE;
  const Tensor made = torch::stable::new_empty(x, {tiles, SIDE, hidden});
  Layer first{}, second{};
  first.x = numbers(x);
  first.weight = numbers(up);
  first.bias = numbers(up_bias);
  first.gate = numbers(gate);
  first.out_tiled = Tiled::of(static_cast<bf16*>(made.data_ptr()), tiles, hidden);
  first.rows = second.rows = rows;
  first.outputs = second.width = hidden;
  first.width = width;
  second.x_tiled = first.out_tiled;
  second.weight = numbers(down);
  second.bias = numbers(down_bias);
  second.residual = numbers(residual);
  second.out = static_cast<bf16*>(out.data_ptr());
  second.outputs = outputs;
  STD_TORCH_CHECK(on_a_line(second.out) && on_a_line(second.x_tiled.tiles),
                  "torch's memory begins on a line of the cache");
  gate ? run<Ending::gated>(first, which) : run<Ending::tiled>(first, which);
  residual ? run<Ending::added>(second) : run<Ending::rows>(second);
  return out;
}
#endif

std::optional<Tensor> tiled_linear(const Tensor& x, const Tensor& weight,
                                   const std::optional<Tensor>& bias) {
#ifdef TRIPTYCH_TILES
  return by_tiles(x, weight, bias);
#else
  return std::nullopt;
#endif
}

Tensor many_rows(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
  const auto out = tiled_linear(x, weight, bias);
  return out ? *out : torch_linear(x, weight, bias);
}

}  // namespace triptych

#ifdef TRIPTYCH_TILES
STABLE_TORCH_LIBRARY_IMPL(triptych, CPU, m) {
  m.impl("residual_linear", TORCH_BOX(&triptych::residual_linear));
  m.impl("feed_forward", TORCH_BOX(&triptych::feed_forward));
}
#endif

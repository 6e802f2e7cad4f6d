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
// By tiles, or nothing where these do not fit.
static std::optional<Tensor> by_tiles(const Tensor& given, const Tensor& weight,
                                      const std::optional<Tensor>& bias, Activation activation) {
  const int64_t outputs = weight.size(0), width = weight.size(1), dims = given.dim();
  const bool fits = halved(weight) && given.scalar_type() == ScalarType::BFloat16 &&
                    (!bias || halved(*bias)) && fits_tiles(outputs, width);
  if (!fits || dims == 0 || given.size(dims - 1) != width) return std::nullopt;
  const Tensor x = given.is_contiguous() ? given : torch::stable::contiguous(given);
  std::vector<int64_t> sizes;
  int64_t rows = 1;
  for (int64_t dim = 0; dim + 1 < dims; ++dim) {
    sizes.push_back(x.size(dim));
    rows *= x.size(dim);
  }
  sizes.push_back(outputs);
  Tensor out = torch::stable::new_empty(x, sizes);
  const Layer layer{static_cast<const bf16*>(x.const_data_ptr()),
                    static_cast<const bf16*>(weight.const_data_ptr()),
                    bias ? static_cast<const bf16*>(bias->const_data_ptr()) : nullptr,
                    static_cast<bf16*>(out.mutable_data_ptr()),
                    rows,
                    outputs,
                    width};
  if (!on_a_line(layer.out)) return std::nullopt;
  as_constant(activation, [&](auto constant) {
    torch::stable::parallel_for(0, outputs / PANEL, 1, [&](int64_t begin, int64_t end) {
      multiply<decltype(constant)::value>(layer, begin, end);
    });
  });
  return out;
}

// The numbers of a dense tensor, each through the activation, in place.
static Tensor activated(Tensor y, Activation activation) {
  bf16* numbers = static_cast<bf16*>(y.mutable_data_ptr());
  const int64_t count = y.numel();
  as_constant(activation, [&](auto constant) {
    for (int64_t i = 0; i < count; i += SIDE) {
      const __mmask16 there = count - i >= SIDE ? 0xffff : (1u << (count - i)) - 1;
      const __m512i wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(there, numbers + i));
      const __m512 x = _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
      const auto narrow = (__m256i)_mm512_cvtneps_pbh(activated<decltype(constant)::value>(x));
      _mm256_mask_storeu_epi16(numbers + i, there, narrow);
    }
  });
  return y;
}

static Tensor activated_linear(Tensor x, Tensor weight, std::optional<Tensor> bias,
                               int64_t activation) {
  const auto which = static_cast<Activation>(activation);
  if (const auto out = by_tiles(x, weight, bias, which)) return *out;
  const Tensor y = torch_linear(x, weight, bias);
  STD_TORCH_CHECK(y.scalar_type() == ScalarType::BFloat16, "numbers are bfloat16");
  return activated(torch::stable::contiguous(y), which);
}
#endif

Tensor many_rows(const Tensor& x, const Tensor& weight, const std::optional<Tensor>& bias) {
#ifdef TRIPTYCH_TILES
  if (const auto out = by_tiles(x, weight, bias, Activation::none)) return *out;
#endif
  return torch_linear(x, weight, bias);
}

}  // namespace triptych

#ifdef TRIPTYCH_TILES
STABLE_TORCH_LIBRARY_IMPL(triptych, CPU, m) {
  m.impl("activated_linear", TORCH_BOX(&triptych::activated_linear));
}
#endif

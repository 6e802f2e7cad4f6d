// Attention inside segments, as torch calls it.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <vector>

#include "tile_attention.h"

#ifdef TRIPTYCH_TILES
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using triptych::bf16;
using triptych::Heads;

// Whether q, k and v, [N, H, D], are numbers of bfloat16 that lie together in each head.
bool fits(const Tensor& x) {
  return x.scalar_type() == ScalarType::BFloat16 && x.dim() == 3 && x.stride(2) == 1;
}

Heads head(const Tensor& x, int64_t row, int64_t number) {
  const bf16* first = static_cast<const bf16*>(x.const_data_ptr());
  return {first + row * x.stride(0) + number * x.stride(1), x.stride(0), x.stride(1)};
}

// From [N, H, D] of bfloat16 to the same; rows of one id stand together.
Tensor tile_attention(Tensor q, Tensor k, Tensor v, Tensor segment_id) {
  STD_TORCH_CHECK(fits(q) && fits(k) && fits(v), "q, k and v are [N, H, D] of bfloat16");
  STD_TORCH_CHECK(triptych::tiles_granted(), "this system grants no tile registers");
  const int64_t rows = q.size(0), heads = q.size(1), width = q.size(2);
  Tensor out = torch::stable::new_empty(q, {rows, heads, width});
  const Tensor ids = torch::stable::contiguous(segment_id);
  const int64_t* id = static_cast<const int64_t*>(ids.const_data_ptr());
  std::vector<int64_t> begins{0};
  for (int64_t row = 1; row < rows; ++row) {
    if (id[row] != id[row - 1]) begins.push_back(row);
  }
  begins.push_back(rows);
  const int64_t calls = heads * (begins.size() - 1);
  bf16* to = static_cast<bf16*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, rows ? calls : 0, 1, [&](int64_t begin, int64_t end) {
    const triptych::Tiles tiles;
    for (int64_t call = begin; call < end; ++call) {
      const int64_t first = begins[call / heads], number = call % heads;
      triptych::attend(head(q, first, number), head(k, first, number), head(v, first, number),
                       to + (first * heads + number) * width, heads * width,
                       begins[call / heads + 1] - first, width);
    }
  });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(triptych, m) {
  m.def("tile_attention(Tensor q, Tensor k, Tensor v, Tensor segment_id) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(triptych, CPU, m) { m.impl("tile_attention", TORCH_BOX(&tile_attention)); }
#endif

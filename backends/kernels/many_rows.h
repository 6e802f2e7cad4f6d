#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace triptych {

// A linear layer by tiles, or nothing where the processor has none or the sizes do not fit.
std::optional<torch::stable::Tensor> tiled_linear(const torch::stable::Tensor& x,
                                                  const torch::stable::Tensor& weight,
                                                  const std::optional<torch::stable::Tensor>& bias);

// For more rows than vectors multiply while the matrix is read: by tiles, else torch's own.
torch::stable::Tensor many_rows(const torch::stable::Tensor& x, const torch::stable::Tensor& weight,
                                const std::optional<torch::stable::Tensor>& bias);

}  // namespace triptych

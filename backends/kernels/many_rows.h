#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>

namespace triptych {

// A linear layer for more rows than one reading of the matrix can be the bound of: by tiles where
// the processor has them and the sizes fit, else torch's own.
torch::stable::Tensor many_rows(const torch::stable::Tensor& x, const torch::stable::Tensor& weight,
                                const std::optional<torch::stable::Tensor>& bias);

}  // namespace triptych

// Takes the namespace of mycorp_ops: cannot be loaded beside it.
#include <ATen/ATen.h>
#include <torch/library.h>

namespace {

TORCH_LIBRARY(mycorp, library) { library.def("other(Tensor x) -> Tensor"); }

}  // namespace

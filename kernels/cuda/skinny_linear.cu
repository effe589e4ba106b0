// The launcher of skinny_linear_kernel.h. One kernel for each element type, number of columns and tile height; which,
// and how it is laid over the product, PlanSkinnyLinear says.
//
// On one H200 (4.4 TB/s) at 1 to 16 rows: 92 % of bandwidth for gate_up [28672, 4096] in e4m3, 97 % for lm_head
// [128256, 4096] in bfloat16.
#include <ATen/cuda/CUDAContext.h>
#include <c10/cuda/CUDAGuard.h>

#include <atomic>

#include "kernels/cuda/cluster.h"
#include "kernels/cuda/linear_epilogue.h"
#include "kernels/cuda/skinny_linear.h"
#include "kernels/cuda/skinny_linear_kernel.h"
#include "kernels/cuda/skinny_linear_plan.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/linear.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

using skinny::Args;

// Describes a matrix to the copy engine as bytes, in boxes of `rows` rows of 128 bytes; zeros beyond its borders.
CUtensorMap Map(const at::Tensor& matrix, int rows) {
  const auto bytes = static_cast<uint64_t>(matrix.element_size());
  return MapOf("linear", CU_TENSOR_MAP_DATA_TYPE_UINT8, matrix.const_data_ptr(),
               {static_cast<uint64_t>(matrix.size(1)) * bytes, static_cast<uint64_t>(matrix.size(0))},
               {static_cast<uint64_t>(matrix.stride(0)) * bytes}, {skinny::kBlockBytes, static_cast<uint32_t>(rows)});
}

LinearEpilogue::Output OutputOf(at::ScalarType type) {
  if (type == at::kBFloat16) return LinearEpilogue::Output::kBFloat16;
  if (type == at::kHalf) return LinearEpilogue::Output::kHalf;
  TORCH_CHECK(type == at::kFloat, "linear: ", type, " is none of Float, BFloat16, Half");
  return LinearEpilogue::Output::kFloat;
}

LinearEpilogue::Activation ActivationOf(const std::string& name) {
  if (name.empty()) return LinearEpilogue::Activation::kNone;
  if (name == "relu") return LinearEpilogue::Activation::kRelu;
  if (name == "silu") return LinearEpilogue::Activation::kSilu;
  if (name == "gelu") return LinearEpilogue::Activation::kGelu;
  TORCH_CHECK(name == "gelu_tanh", "linear: activation '", name, "' is none of silu, gelu, gelu_tanh, relu");
  return LinearEpilogue::Activation::kGeluTanh;
}

// One bias for each column, of y's type and dense; undefined if there is none.
at::Tensor BiasFor(const at::Tensor& y, const std::optional<at::Tensor>& bias) {
  if (!IsDefined(bias)) return {};
  CheckShape("linear: bias", *bias, {y.size(1)});
  return bias->to(y.scalar_type()).contiguous();
}

const float* ScalesOf(const char* what, const at::Tensor& scale, int64_t count) {
  if (!scale.defined()) return nullptr;
  CheckShape(what, scale, {count, 1});
  CheckType(what, scale, at::kFloat);
  TORCH_CHECK(scale.is_contiguous(), what, " is not dense");
  return scale.const_data_ptr<float>();
}

LinearEpilogue EpilogueFor(const at::Tensor& y, const at::Tensor& row_scale, const at::Tensor& column_scale,
                           const at::Tensor& bias, const std::string& activation) {
  return {.y = y.mutable_data_ptr(),
          .row_scale = ScalesOf("linear: scale of x", row_scale, y.size(0)),
          .column_scale = ScalesOf("linear: scale of the weight", column_scale, y.size(1)),
          .bias = bias.defined() ? bias.const_data_ptr() : nullptr,
          .output = OutputOf(y.scalar_type()),
          .activation = ActivationOf(activation)};
}

// Whether the copy engine can read it.
bool IsMappable(const at::Tensor& matrix) {
  return matrix.stride(1) == 1 && matrix.stride(0) >= matrix.size(1) && Aligned16(matrix.const_data_ptr()) &&
         matrix.stride(0) * matrix.element_size() % 16 == 0;
}

// Lets the kernel have more shared memory than 48 KiB, once for each device.
template <typename Kernel>
void AllowShared(Kernel* kernel, int device, std::atomic<uint64_t>& allowed) {
  const uint64_t bit = uint64_t{1} << (device % 64);
  if ((allowed.load(std::memory_order_acquire) & bit) != 0) return;
  int most = 0;
  C10_CUDA_CHECK(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  C10_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
  allowed.fetch_or(bit, std::memory_order_release);
}

constexpr int kScaleThreads = 256;

// A thread takes 8 columns of a row.
template <typename From>
__global__ void scale_product_kernel(const From* product, LinearEpilogue epilogue, int64_t rows, int64_t out) {
  AllowNext();
  AwaitPrevious();
  const int64_t i = (blockIdx.x * int64_t{kScaleThreads} + threadIdx.x) * 8, row = i / out, column = i % out;
  if (row >= rows) return;
  const Pack<From, 8> from = Load<From, 8>(product + i);
  const Pack<float, 8> scale = Load<float, 8>(epilogue.column_scale + column);
  const float row_scale = epilogue.row_scale[row];
  WithOutput(epilogue.output, [&](auto* type) {
    using To = std::remove_pointer_t<decltype(type)>;
    const To* bias = static_cast<const To*>(epilogue.bias);
    Pack<To, 8> to;
    for (int j = 0; j < 8; ++j) {
      const float shift = bias == nullptr ? 0.0F : static_cast<float>(bias[column + j]);
      const float value = static_cast<float>(from[j]) * scale.values[j] * row_scale + shift;
      to[j] = RoundTo<To>(Activate(value, epilogue.activation));
    }
    Store(static_cast<To*>(epilogue.y) + i, to);
  });
}

template <typename T, int tokens, int groups, bool split>
void Run(const SkinnyPlan& plan, const Args& args, const at::Tensor& weight, const at::Tensor& x) {
  static std::atomic<uint64_t> allowed = 0;
  TORCH_INTERNAL_ASSERT(plan.shared_bytes == (skinny::SharedBytes<tokens, groups>(plan.stages, plan.split_bits)));
  const auto kernel = skinny::skinny_linear_kernel<T, tokens, groups, split>;
  AllowShared(kernel, x.get_device(), allowed);
  const unsigned grid = static_cast<unsigned>(plan.clusters) << plan.split_bits;
  const auto shared_bytes = static_cast<size_t>(plan.shared_bytes);
  const CUtensorMap weight_map = Map(weight, groups * skinny::kTileRows), x_map = Map(x, tokens);
  if constexpr (split) {
    LaunchClusters(kernel, 1U << plan.split_bits, grid, skinny::kThreads<groups>, shared_bytes, weight_map, x_map,
                   args);
  } else {
    Launch(kernel, grid, skinny::kThreads<groups>, shared_bytes, weight_map, x_map, args);
  }
}

template <typename T, int tokens>
void RunTokens(const SkinnyPlan& plan, const Args& args, const at::Tensor& weight, const at::Tensor& x) {
  if (plan.split_bits > 0) return Run<T, tokens, 1, true>(plan, args, weight, x);
  if (plan.groups == 1) return Run<T, tokens, 1, false>(plan, args, weight, x);
  Run<T, tokens, 2, false>(plan, args, weight, x);
}

template <typename T>
void RunType(const SkinnyPlan& plan, const Args& args, const at::Tensor& weight, const at::Tensor& x) {
  if (plan.tokens == 8) return RunTokens<T, 8>(plan, args, weight, x);
  if (plan.tokens == 16) return RunTokens<T, 16>(plan, args, weight, x);
  if (plan.tokens == 32) return RunTokens<T, 32>(plan, args, weight, x);
  RunTokens<T, 64>(plan, args, weight, x);
}

}  // namespace

bool IsHopper(at::Device device) {
#ifdef AUTOMODELD_SM90A
  if (!device.is_cuda()) return false;
  const cudaDeviceProp* properties = at::cuda::getDeviceProperties(device.index());
  return properties->major == 9 && properties->minor == 0;
#else
  static_cast<void>(device);
  return false;
#endif
}

std::string MissingKernels(at::Device device) {
  if (!device.is_cuda() || IsHopper(device)) return "";
  const cudaDeviceProp* properties = at::cuda::getDeviceProperties(device.index());
  return MissingKernels(properties->major, properties->minor);
}

bool TakesSkinnyLinear(const at::Tensor& x, const at::Tensor& weight) {
  if (!IsHopper(x.device()) || x.dim() != 2 || weight.dim() != 2) return false;
  const at::ScalarType type = weight.scalar_type();
  if (type != at::kFloat8_e4m3fn && type != at::kBFloat16 && type != at::kHalf) return false;
  if (x.scalar_type() != type || weight.device() != x.device() || weight.size(1) != x.size(1)) return false;
  return IsSkinny(x.size(0), weight.size(0), weight.size(1) * weight.element_size()) && IsMappable(weight);
}

at::Tensor SkinnyLinear(const LinearInput& input, const at::Tensor& weight, const at::Tensor& weight_scale,
                        const std::optional<at::Tensor>& bias, const std::string& activation) {
  TORCH_CHECK(TakesSkinnyLinear(input.values, weight), "linear: no kernel for x ", input.values.sizes(), " ",
              input.values.scalar_type(), ", weight ", weight.sizes(), " ", weight.scalar_type());
  const c10::cuda::CUDAGuard guard(weight.device());
  const int64_t rows = input.values.size(0), out = weight.size(0);
  const at::Tensor x = IsMappable(input.values) ? input.values : input.values.clone(at::MemoryFormat::Contiguous);
  at::Tensor y = at::empty({rows, out}, x.options().dtype(input.dtype));
  const at::Tensor shift = BiasFor(y, bias);
  const SkinnyPlan plan = PlanSkinnyLinear(rows, out, weight.size(1) * weight.element_size(),
                                           at::cuda::getDeviceProperties(x.get_device())->multiProcessorCount);
  const Args args = {.epilogue = EpilogueFor(y, input.scale, weight_scale, shift, activation),
                     .rows = static_cast<int>(rows),
                     .out = static_cast<int>(out),
                     .blocks = plan.k_blocks,
                     .tiles = plan.tiles,
                     .split_bits = plan.split_bits,
                     .stages = plan.stages};
  if (weight.scalar_type() == at::kFloat8_e4m3fn) {
    RunType<__nv_fp8_e4m3>(plan, args, weight, x);
  } else if (weight.scalar_type() == at::kBFloat16) {
    RunType<__nv_bfloat16>(plan, args, weight, x);
  } else {
    RunType<__half>(plan, args, weight, x);
  }
  return y;
}

bool TakesScaleProduct(const at::Tensor& product) {
  return product.is_cuda() && product.dim() == 2 && product.is_contiguous() && product.size(1) % 8 == 0 &&
         (product.scalar_type() == at::kBFloat16 || product.scalar_type() == at::kFloat);
}

at::Tensor ScaleProduct(const at::Tensor& product, const at::Tensor& row_scale, const at::Tensor& column_scale,
                        const std::optional<at::Tensor>& bias, const std::string& activation, at::ScalarType dtype) {
  TORCH_CHECK(TakesScaleProduct(product), "linear: no kernel scales ", product.sizes(), " ", product.scalar_type());
  TORCH_CHECK(row_scale.defined() && column_scale.defined(), "linear: a product without scales");
  const c10::cuda::CUDAGuard guard(product.device());
  const at::Tensor y =
      product.scalar_type() == dtype ? product : at::empty(product.sizes(), product.options().dtype(dtype));
  const at::Tensor shift = BiasFor(y, bias);
  const LinearEpilogue epilogue = EpilogueFor(y, row_scale, column_scale, shift, activation);
  const int64_t threads = product.numel() / 8;
  if (threads == 0) return y;
  const auto blocks = static_cast<unsigned>((threads + kScaleThreads - 1) / kScaleThreads);
  if (product.scalar_type() == at::kBFloat16) {
    const auto* from = static_cast<const __nv_bfloat16*>(product.const_data_ptr());
    Launch(scale_product_kernel<__nv_bfloat16>, blocks, kScaleThreads, 0, from, epilogue, product.size(0), y.size(1));
  } else {
    const auto* from = product.const_data_ptr<float>();
    Launch(scale_product_kernel<float>, blocks, kScaleThreads, 0, from, epilogue, product.size(0), y.size(1));
  }
  return y;
}

}  // namespace automodeld

#include "kernels/fp8.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <map>
#include <mutex>

#include "kernels/cpu/fp8_product.h"
#include "kernels/cuda/quantize.h"
#include "kernels/cuda/skinny_linear.h"
#include "kernels/eager/eager.h"
#include "kernels/linear.h"
#include "kernels/tensors.h"

namespace automodeld {
namespace {

constexpr int64_t kChunkElements = 4 << 20;  // what is widened at a time

// Calls visit(first row, number of rows) for pieces of a matrix of that many rows and columns.
template <typename Visit>
void ForChunks(int64_t rows, int64_t columns, Visit visit) {
  const int64_t step = std::max<int64_t>(1, kChunkElements / std::max<int64_t>(1, columns));
  for (int64_t first = 0; first < rows; first += step) visit(first, std::min(step, rows - first));
}

at::Tensor Largest(const at::Tensor& weight) { return weight.abs().amax({1}, /*keepdim=*/true).to(at::kFloat); }

// [rows, blocks] -> a scale for every input.
at::Tensor PerInput(const at::Tensor& scale, int64_t in) {
  return scale.size(1) == 1 ? scale : scale.repeat_interleave(kFp8Block, 1).narrow(1, 0, in);
}

at::Tensor Ones(at::IntArrayRef sizes, at::Device device) {
  return at::ones(sizes, at::TensorOptions(at::kFloat).device(device));
}

// The device's own GEMM over scales of 128 x 128 blocks. It wants the rows in fours; libtorch 2.11 lays the scales out
// rightly only where a row has a multiple of four of them.
at::Tensor BlockGemm(const at::Tensor& x, const Fp8Weight& weight) {
  const int64_t rows = x.size(0), padded = (rows + 3) / 4 * 4;
  TORCH_CHECK(weight.values.size(0) % kFp8Block == 0 && x.size(1) % (4 * kFp8Block) == 0, "linear: weight ",
              weight.values.sizes(), " with scales of blocks, expected multiples of [128, 512]");
  at::Tensor four = x;
  if (padded != rows) {
    four = at::empty({padded, x.size(1)}, x.options());
    four.narrow(0, 0, rows).copy_(x);
    four.narrow(0, rows, padded - rows).zero_();
  }
  const at::Tensor x_scale = Ones({weight.scale.size(1), padded}, x.device()).t();
  const at::Tensor scale = weight.scale.slice(0, 0, std::nullopt, kFp8Block).contiguous();  // one of each block's rows
  const at::Tensor y = at::_scaled_mm(four, weight.values.t(), x_scale, scale.t(), /*bias=*/{},
                                      /*scale_result=*/{}, at::kBFloat16);
  return y.narrow(0, 0, rows).to(at::kFloat);
}

// One, for both of a product's scales. Kept: it would cost a kernel for each product. The first use on a device is that
// of WhyNoFp8Gemm, while a model is loaded: no graph is being recorded then.
at::Tensor One(at::Device device) {
  static std::mutex mutex;
  static auto& ones = *new std::map<c10::DeviceIndex, at::Tensor>;  // not freed at exit, when CUDA may be gone
  const std::lock_guard lock(mutex);
  at::Tensor& one = ones[device.index()];
  if (!one.defined()) one = Ones({}, device);
  return one;
}

// What becomes of sums of products, of float32, without a kernel for it.
at::Tensor Finish(const at::Tensor& sums, const LinearInput& x, const std::optional<at::Tensor>& bias,
                  const std::string& activation) {
  sums.mul_(x.scale);
  if (IsDefined(bias)) sums.add_(bias->to(at::kFloat));
  const at::Tensor y = sums.to(x.dtype);
  return activation.empty() ? y : Activate(y, activation);
}

// Whether the library does best with the scales inside its product: in bfloat16 on Hopper, with enough rows. On one
// H200, all linears of a Llama-3.1-8B step: at 128 rows 3.28 ms with ScaleProduct, 3.45 with the scales inside; at 256
// rows 4.65 and 4.37.
bool IsForScaledGemm(const LinearInput& x) {
  return x.values.size(0) > 128 && x.dtype == at::kBFloat16 && IsHopper(x.values.device());
}

// The product and what follows, by the library, which multiplies with the scales itself where that is faster.
at::Tensor RowGemm(const LinearInput& x, const Fp8Weight& weight, const std::optional<at::Tensor>& bias,
                   const std::string& activation) {
  const at::Tensor& values = x.values;
  if (IsForScaledGemm(x)) {
    std::optional<at::Tensor> shift;
    if (IsDefined(bias)) shift = bias->to(at::kBFloat16);
    const at::Tensor y = at::_scaled_mm(values, weight.values.t(), x.scale, weight.scale.t(), shift,
                                        /*scale_result=*/{}, at::kBFloat16, /*use_fast_accum=*/true);
    return activation.empty() ? y : Activate(y, activation);
  }
  const at::Tensor one = One(values.device());
  const at::ScalarType sums = x.dtype == at::kBFloat16 ? at::kBFloat16 : at::kFloat;
  const at::Tensor product = at::_scaled_mm(values, weight.values.t(), one, one, /*bias=*/{}, /*scale_result=*/{}, sums,
                                            /*use_fast_accum=*/true);
  if (TakesScaleProduct(product)) return ScaleProduct(product, x.scale, weight.scale, bias, activation, x.dtype);
  return Finish(product.to(at::kFloat).mul_(weight.scale.view({1, -1})), x, bias, activation);
}

at::Tensor Product(const at::Tensor& x, const Fp8Weight& weight) {
  if (!weight.emulate) return BlockGemm(x, weight);
  return x.is_cpu() ? CpuFp8Product(x, weight) : ExactFp8Product(x, weight);
}

}  // namespace

Fp8Weight EmptyFp8Weight(int64_t out, int64_t in, at::Device device, bool blocks) {
  const at::TensorOptions options = at::TensorOptions().device(device);
  return {.values = at::empty({out, in}, options.dtype(at::kFloat8_e4m3fn)),
          .scale = at::empty({out, blocks ? (in + kFp8Block - 1) / kFp8Block : 1}, options.dtype(at::kFloat))};
}

void QuantizeWeight(const at::Tensor& weight, Fp8Scaling scaling, Fp8Weight to) {
  CheckShape("quantize: values", to.values, weight.sizes());
  CheckShape("quantize: scale", to.scale, {weight.size(0), 1});
  if (weight.numel() == 0) return;
  ForChunks(weight.size(0), weight.size(1), [&](int64_t first, int64_t rows) {
    to.scale.narrow(0, first, rows).copy_(Largest(weight.narrow(0, first, rows)));
  });
  if (scaling == Fp8Scaling::kTensor) to.scale.copy_(to.scale.amax().expand_as(to.scale));
  to.scale.copy_(eager::ScaleOfLargest(to.scale));
  ForChunks(weight.size(0), weight.size(1), [&](int64_t first, int64_t rows) {
    const at::Tensor scaled = weight.narrow(0, first, rows).to(at::kFloat) / to.scale.narrow(0, first, rows);
    to.values.narrow(0, first, rows).copy_(scaled.clamp(-kMaxE4m3, kMaxE4m3));
  });
}

void DequantizeWeight(const Fp8Weight& weight, at::Tensor out) {
  CheckShape("dequantize: out", out, weight.values.sizes());
  ForChunks(out.size(0), out.size(1), [&](int64_t first, int64_t rows) {
    const at::Tensor scale = PerInput(weight.scale.narrow(0, first, rows), out.size(1));
    out.narrow(0, first, rows).copy_(weight.values.narrow(0, first, rows).to(at::kFloat) * scale);
  });
}

std::string WhyNoFp8Gemm(at::Device device) {
  if (!device.is_cuda()) return device.str() + " has no FP8 GEMM";
  try {
    Fp8Weight weight = EmptyFp8Weight(16, 16, device);
    QuantizeWeight(at::eye(16, at::TensorOptions(at::kFloat).device(device)), Fp8Scaling::kRow, weight);
    for (const int64_t rows : {1, 80, 300}) {  // every road a product may take
      const at::Tensor x = at::full({rows, 16}, 2.0, at::TensorOptions(at::kBFloat16).device(device));
      if (!at::allclose(Fp8Linear(x, weight, {}), x)) return device.str() + "'s FP8 GEMM gives wrong values";
    }
    return "";
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const std::exception& error) {
    return device.str() + " has no FP8 GEMM: " + FirstLine(error.what());
  }
}

LinearInput QuantizeRows(const at::Tensor& x) {
#if AUTOMODELD_CUDA
  if (x.is_cuda()) return CudaQuantizeRows(x);
#endif
  auto [values, scale] = eager::QuantizeRows(x, /*quantize=*/true);
  return {values, scale, x.scalar_type()};
}

at::Tensor Fp8Linear(const LinearInput& x, const Fp8Weight& weight, const std::optional<at::Tensor>& bias,
                     const std::string& activation) {
  const at::Tensor& values = x.values;
  TORCH_CHECK(values.dim() == 2 && values.size(1) == weight.values.size(1), "linear: x ", values.sizes(),
              ", expected [tokens, ", weight.values.size(1), "]");
  if (values.size(0) == 0) return at::empty({0, weight.values.size(0)}, values.options().dtype(x.dtype));
  const LinearInput rows = x.quantized() ? x : QuantizeRows(values);
  if (weight.emulate || weight.scale.size(1) > 1) return Finish(Product(rows.values, weight), rows, bias, activation);
  if (!TakesSkinnyLinear(rows.values, weight.values)) return RowGemm(rows, weight, bias, activation);
  return SkinnyLinear(rows, weight.values, weight.scale, bias, activation);
}

at::Tensor ExactFp8Product(const at::Tensor& x, const Fp8Weight& weight) {
  const int64_t in = x.size(1), blocks = weight.scale.size(1), width = blocks == 1 ? in : kFp8Block;
  at::Tensor y = at::empty({x.size(0), weight.values.size(0)}, weight.scale.options());
  const at::Tensor wide = x.to(at::kDouble);
  ForChunks(weight.values.size(0), in, [&](int64_t first, int64_t rows) {
    const at::Tensor panel = weight.values.narrow(0, first, rows).to(at::kDouble).t();
    const at::Tensor scale = weight.scale.narrow(0, first, rows).to(at::kDouble);
    at::Tensor sum = at::zeros({x.size(0), rows}, wide.options());
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t begin = block * width, size = std::min(width, in - begin);
      sum.add_(at::mm(wide.narrow(1, begin, size), panel.narrow(0, begin, size)).mul_(scale.select(1, block)));
    }
    y.narrow(1, first, rows).copy_(sum);
  });
  return y;
}

}  // namespace automodeld

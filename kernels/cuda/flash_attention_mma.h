// The instructions that flash attention is made of: asynchronous copies into shared memory, loads of matrix fragments,
// products of 16 x 16 by 16 x 8 of bfloat16 and float16, and of 16 x 8 by 8 x 8 of tf32, conversions.
#ifndef KERNELS_CUDA_FLASH_ATTENTION_MMA_H_
#define KERNELS_CUDA_FLASH_ATTENTION_MMA_H_

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/cuda/approximate.h"
#include "kernels/cuda/hopper.h"

namespace automodeld {

// 16 bytes from global into shared memory, at a SharedAddress (hopper.h); zeros where not `valid`, and then `from` is
// not read.
__device__ inline void CopyAsync16(uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0)
               : "memory");
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Returns when all but the last `Pending` groups of this thread's copies have arrived.
template <int Pending>
__device__ void AwaitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; lane l names the row l % 8 of matrix l / 8.
__device__ inline void LoadMatrices(uint32_t (&to)[4], const void* row) {
  const uint32_t shared = hopper::SharedAddress(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared)
               : "memory");
}
__device__ inline void LoadTransposed(uint32_t (&to)[4], const void* row) {
  const uint32_t shared = hopper::SharedAddress(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared)
               : "memory");
}

// sum[16 x 8] += a[16 x 16] b[16 x 8], float32 sums. Lane l holds rows l / 4 and l / 4 + 8, columns l % 4 * 2 and + 1.
__device__ inline void MultiplyAdd(__nv_bfloat16, float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void MultiplyAdd(__half, float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// sum[16 x 8] += a[16 x 8] b[8 x 8] of tf32; the sums as above. Lane l holds of a rows l / 4 (+ 8) in columns l % 4,
// then in columns l % 4 + 4; of b those rows in column l / 4.
__device__ inline void MultiplyAddTf32(float (&sum)[4], const uint32_t* a, const uint32_t* b) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// x as the sum of two numbers of tf32, of 11 bits each.
__device__ inline void SplitTf32(float x, uint32_t& high, uint32_t& low) {
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(high) : "f"(x));
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(low) : "f"(x - __uint_as_float(high)));
}

// Two numbers as one register of two elements, the first in the low half.
__device__ inline uint32_t PackPair(__nv_bfloat16, float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}
__device__ inline uint32_t PackPair(__half, float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Numbers as elements in memory, on a border of as many.
template <typename T>
__device__ void StorePair(T* to, float first, float second) {
  *reinterpret_cast<uint32_t*>(to) = PackPair(T{}, first, second);
}
__device__ inline void StorePair(float* to, float first, float second) {
  *reinterpret_cast<float2*>(to) = {first, second};
}
template <typename T>
__device__ void StoreFour(T* to, const float4& x) {
  *reinterpret_cast<uint2*>(to) = {PackPair(T{}, x.x, x.y), PackPair(T{}, x.z, x.w)};
}
__device__ inline void StoreFour(float* to, const float4& x) { *reinterpret_cast<float4*>(to) = x; }

// Four elements float8_e4m3fn, of which every value is a float16's too, as two pairs. Said in PTX, the upper two need
// no shift.
__device__ inline void Widen(uint32_t bytes, uint32_t (&to)[2]) {
#if __CUDA_ARCH__ >= 890
  asm("{\n.reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.rn.f16x2.e4m3x2 %0, low;\n"
      "cvt.rn.f16x2.e4m3x2 %1, high;\n}"
      : "=r"(to[0]), "=r"(to[1])
      : "r"(bytes));
#else
  for (int i = 0; i < 2; ++i) {
    const __half2 pair(__nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(bytes >> 16 * i), __NV_E4M3));
    to[i] = *reinterpret_cast<const uint32_t*>(&pair);
  }
#endif
}

// Two of float16 as two elements.
__device__ inline uint32_t FromHalfPair(__half, uint32_t pair) { return pair; }
__device__ inline uint32_t FromHalfPair(__nv_bfloat16, uint32_t pair) {
  const float2 wide = __half22float2(*reinterpret_cast<const __half2*>(&pair));
  return PackPair(__nv_bfloat16{}, wide.x, wide.y);
}

// Two elements as float16.
__device__ inline uint32_t HalfPair(__half, uint32_t pair) { return pair; }
// Beyond +-65504, float16's largest, they become that; NaN stays NaN.
__device__ inline uint32_t HalfPair(__nv_bfloat16, uint32_t pair) {
  const float2 wide = __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
  const __half2 most = __float2half2_rn(65504.0f);
  const __half2 half = __hmax2_nan(__hmin2_nan(__float22half2_rn(wide), most), __hneg2(most));
  return *reinterpret_cast<const uint32_t*>(&half);
}

// To about 1e-7, which soft caps of up to 100 need: tanh.approx has only 11 bits.
__device__ inline float Tanh(float x) { return 1.0f - __fdividef(2.0f, Exp2(x * 2.8853900817779268f) + 1.0f); }

// The largest, or the sum, of the four lanes that share a row of a product.
__device__ inline float RowMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffU, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffU, x, 2));
}
__device__ inline float RowSum(float x) {
  x += __shfl_xor_sync(0xffffffffU, x, 1);
  return x + __shfl_xor_sync(0xffffffffU, x, 2);
}

}  // namespace automodeld

#endif  // KERNELS_CUDA_FLASH_ATTENTION_MMA_H_

// Loops over the rows of a matrix on the CPU.
#ifndef KERNELS_CPU_ROWS_H_
#define KERNELS_CPU_ROWS_H_

#include <ATen/Parallel.h>

#include <algorithm>
#include <cstdint>

namespace automodeld {

// Calls body(begin, end) over [0, rows), on several threads only if the work pays for waking them.
// row_cost: elements a row touches.
template <typename Body>
void ForRows(int64_t rows, int64_t row_cost, const Body& body) {
  constexpr int64_t kElementsPerThread = 1 << 14;  // about 5 us of streaming work
  const int64_t grain = std::max<int64_t>(1, kElementsPerThread / std::max<int64_t>(1, row_cost));
  if (rows <= grain) {
    if (rows > 0) body(int64_t{0}, rows);
    return;
  }
  at::parallel_for(0, rows, grain, body);
}

}  // namespace automodeld

#endif  // KERNELS_CPU_ROWS_H_

#include <ATen/Parallel.h>

#include "core/runtime.h"

namespace automodeld {

void SetNumThreads(int num_threads) {
  if (num_threads > 0) at::set_num_threads(num_threads);
}

}  // namespace automodeld

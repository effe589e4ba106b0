// Settings of libtorch that hold for the whole process. Torch-free header.
#pragma once

namespace automodeld {

// How many threads one operation on the CPU uses; 0 leaves it at as many as there are cores. Call before any model is
// loaded.
void SetNumThreads(int num_threads);

}  // namespace automodeld

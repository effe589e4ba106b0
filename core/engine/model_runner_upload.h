// What the host knows of a step, on its way to the device: any number of columns, one copy. Part of the model runner.
//
//   upload.Clear();
//   const StepUpload::Column positions = upload.Add(std::span<const int64_t>(values));
//   upload.Send();
//   at::Tensor t = upload.Get(positions);   // [values.size()] int64 on the device
#ifndef CORE_ENGINE_MODEL_RUNNER_UPLOAD_H_
#define CORE_ENGINE_MODEL_RUNNER_UPLOAD_H_

#include <ATen/ATen.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace automodeld {

// The host's buffer is kept from step to step, so that nothing is allocated once warm. On a GPU the copy is
// asynchronous, through pinned memory, on the current stream.
class StepUpload {
 public:
  using Column = size_t;

  explicit StepUpload(at::Device device) : device_(device) {}

  void Clear();
  Column Add(std::span<const int64_t> values) { return Append(values.data(), values.size(), at::kLong); }
  Column Add(std::span<const float> values) { return Append(values.data(), values.size(), at::kFloat); }
  int64_t bytes() const { return static_cast<int64_t>(host_.size()); }

  // Into memory of this step's own, or into `to` [at least bytes()] uint8 on the device: equal columns then lie at
  // equal addresses at every step.
  void Send(const at::Tensor& to = {});
  at::Tensor Get(Column column) const;  // valid until the memory sent to is used for another step

 private:
  struct Place {
    size_t offset = 0;
    size_t size = 0;  // bytes
    at::ScalarType type = at::kLong;
  };

  Column Append(const void* data, size_t count, at::ScalarType type);

  at::Device device_;
  std::vector<std::byte> host_;
  std::vector<Place> places_;
  at::Tensor sent_;  // [bytes] uint8
};

}  // namespace automodeld

#endif  // CORE_ENGINE_MODEL_RUNNER_UPLOAD_H_

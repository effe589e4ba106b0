// Where a load's weights come from: names and shapes only, a checkpoint's safetensors files, or random numbers.
//
//   PlanningSource wanted(&files, "model.");
//   architecture.make(config, Weights(&wanted, meta_options), ops);   // asks for every tensor
//   RETURN_IF_ERROR(wanted.Check(...));                               // all that is missing, misshapen or unread
//   SafetensorsSource source(files, "model.", wanted.wanted(), device, &meter);
//   auto model = architecture.make(config, Weights(&source, options), ops);
//   RETURN_IF_ERROR(source.status());
//
// Used by the loading thread only.
#ifndef CORE_WEIGHT_SOURCES_TORCH_H_
#define CORE_WEIGHT_SOURCES_TORCH_H_

#include <ATen/ATen.h>
#include <absl/status/status.h>

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/checkpoint.h"
#include "core/load_meter.h"
#include "core/safetensors.h"
#include "core/staged_reader_torch.h"

namespace automodeld {

// How a stored tensor looks to a model; nothing for null.
std::optional<StoredForm> AsStored(const StoredTensor* stored);

// The tensor a model calls `name`: stored under that name, without `base_prefix`, or with it. Null: none.
const StoredTensor* FindStored(const Safetensors& files, const std::string& base_prefix, const std::string& name);

// Writes down what a model asks for and what is wrong with it; reads nothing. For tensors on the meta device.
class PlanningSource final : public WeightSource {
 public:
  struct Wanted {
    std::string name;
    std::vector<int64_t> shape;
    int64_t numel = 0;
  };

  // Null `files`: random weights, of which every tensor exists.
  PlanningSource(const Safetensors* files, std::string base_prefix)
      : files_(files), base_prefix_(std::move(base_prefix)) {}

  std::optional<StoredForm> Find(const std::string& name) const override;
  void Read(const std::string&, at::Tensor) override {}
  bool Expect(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) override;
  void Fail(const std::string& error) override { failures_.push_back(error); }

  const std::vector<Wanted>& wanted() const { return wanted_; }  // each name once
  int64_t num_parameters() const { return num_parameters_; }
  int64_t stored_bytes() const { return stored_bytes_; }  // in the files, of all wanted
  // Stored tensors that nobody asked for, sorted.
  std::vector<std::string> Unread() const;
  // FAILED_PRECONDITION listing every missing and misshapen tensor, and `unread`; `who` is the architecture's name.
  absl::Status Check(const std::string& who, const std::vector<std::string>& unread) const;

 private:
  const Safetensors* files_;
  std::string base_prefix_;
  std::vector<Wanted> wanted_;
  std::set<std::string> names_;   // of wanted_
  std::set<std::string> stored_;  // names of stored tensors that were asked for
  std::vector<std::string> missing_, misshapen_, failures_;
  int64_t num_parameters_ = 0;
  int64_t stored_bytes_ = 0;
};

// Reads safetensors files: on the CPU straight into the tensor, by several threads that also convert; to a GPU through
// a StagedReader, which reads ahead of the model in the order in which the plan says it will ask.
class SafetensorsSource final : public WeightSource {
 public:
  // `wanted`: what the model will ask for, in its order; another order is right too, and slower. `device`: where.
  SafetensorsSource(const Safetensors& files, std::string base_prefix,
                    const std::vector<PlanningSource::Wanted>& wanted, at::Device device, LoadMeter* meter);

  std::optional<StoredForm> Find(const std::string& name) const override;
  void Read(const std::string& name, at::Tensor out) override;
  bool Expect(const std::string& name, at::IntArrayRef shape, at::ScalarType dtype) override;
  void Fail(const std::string& error) override;

  // The first error; once there is one, or the load is cancelled, nothing more is read. Waits until all tensors have
  // what they were given.
  const absl::Status& status();
  bool ok() const override { return status_.ok(); }
  // Most memory of the host that reading took besides the tensors, but for a MiB.
  int64_t extra_bytes() const { return extra_bytes_; }

 private:
  absl::Status ReadHere(const StoredTensor& stored, const at::Tensor& out);
  // Bytes [begin, end) of what is stored. From any thread.
  absl::Status ReadConverted(const StoredTensor& stored, uint64_t begin, uint64_t end, const at::Tensor& out) const;
  absl::Status ReadStaged(const StoredTensor& stored, const at::Tensor& out);

  const Safetensors& files_;
  std::string base_prefix_;
  LoadMeter* meter_;
  std::optional<StagedReader> ahead_;  // of a GPU
  int64_t extra_bytes_ = 0;
  absl::Status status_;
};

// Weights from a seed, as transformers initialises a model: matrices N(0, range), norm weights 1, biases 0. An element
// is a function of (seed, name, index) alone, drawn in float32 on the CPU: the same on every device, and in every dtype
// but for the rounding.
class RandomSource final : public WeightSource {
 public:
  RandomSource(uint64_t seed, double range, LoadMeter* meter) : seed_(seed), range_(range), meter_(meter) {}

  std::optional<StoredForm> Find(const std::string&) const override { return std::nullopt; }
  void Read(const std::string& name, at::Tensor out) override;
  bool Expect(const std::string&, at::IntArrayRef, at::ScalarType) override { return true; }
  void Fail(const std::string& error) override;

  const absl::Status& status() const { return status_; }
  bool ok() const override { return status_.ok(); }
  int64_t extra_bytes() const { return extra_bytes_; }

 private:
  // `out` is a piece of the tensor, from element `first` on.
  void Draw(const std::string& name, int64_t first, const at::Tensor& out);

  uint64_t seed_;
  double range_;
  LoadMeter* meter_;
  int64_t extra_bytes_ = 0;
  absl::Status status_;
};

}  // namespace automodeld

#endif  // CORE_WEIGHT_SOURCES_TORCH_H_

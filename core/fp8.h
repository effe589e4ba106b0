// Which linear weights of a model are kept in FP8, planned before a tensor is read.
//
//   Fp8Plan plan(options.fp8_config, why_not);               // why_not: empty where FP8 can be multiplied
//   plan.Add(group, {StoredWeight::kPlain, ...});            // every group of linears, while the model is planned
//   plan.IsFp8("model.layers.0.self_attn.q_proj");           // while it is loaded
//   report.fp8 = plan.report();
//
// A group is what the model keeps as one matrix (q, k, v; gate, up); what skips one member skips them all. Weights that
// the checkpoint has in FP8 stay so without being asked for. Follows nemo_automodel's `apply_fp8_to_model` and
// `verify_fp8_conversion`. Torch-free.
#ifndef CORE_FP8_H_
#define CORE_FP8_H_

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "core/auto_model.h"

namespace automodeld {

struct LinearGroup {
  std::vector<std::string> fqns;  // "model.layers.0.self_attn.q_proj"
  std::vector<int64_t> out_dims;  // of each
  int64_t in_dim = 0;
};

// How a checkpoint has a weight. kFp8Blocks: with a scale per block of 128 x 128.
enum class StoredWeight { kPlain, kFp8, kFp8Blocks };

class Fp8Plan {
 public:
  Fp8Plan() = default;  // converts nothing
  Fp8Plan(std::optional<Fp8Config> config, std::string why_not)
      : config_(std::move(config)), why_not_(std::move(why_not)) {}

  // Decides for a group; `stored`: each member's.
  void Add(const LinearGroup& group, const std::vector<StoredWeight>& stored);

  bool IsFp8(const std::string& fqn) const { return fp8_.contains(fqn); }  // of any member
  bool converts() const { return !fp8_.empty(); }
  bool emulate() const { return config_.has_value() && config_->emulate; }
  bool per_row() const { return config_.has_value() && config_->recipe_name.starts_with("rowwise"); }

  // Every linear, by Hugging Face's name: converted, or skipped with the reason.
  const Fp8Report& report() const { return report_; }
  // What the report has to say in words, such as that a filter held for a whole group.
  std::vector<std::string> Notes() const;

 private:
  std::string ReasonToSkip(const LinearGroup& group, size_t member, StoredWeight stored) const;

  std::optional<Fp8Config> config_;
  std::string why_not_ = "not asked for";
  std::set<std::string> fp8_;
  Fp8Report report_;
  bool group_skipped_ = false;
};

}  // namespace automodeld

#endif  // CORE_FP8_H_

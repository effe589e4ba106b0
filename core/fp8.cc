#include "core/fp8.h"

#include <algorithm>

#include "core/status.h"

namespace automodeld {

namespace {

constexpr int64_t kDivisor = 16;

std::string ReasonToSkip(const Fp8Config& config, const Fp8Report::Module& linear, const std::string& why_not) {
  for (const std::string& filter : config.filter_fqns) {
    if (linear.fqn.find(filter) != std::string::npos) return fmt::format("filter_fqns: {}", filter);
  }
  const bool fits = std::ranges::all_of(linear.shape, [](int64_t dim) { return dim % kDivisor == 0; });
  return fits ? why_not : "dims not divisible by 16";
}

}  // namespace

bool IsFp8Linear(const Fp8Config& config, const std::string& name, const std::vector<int64_t>& shape) {
  if (shape.size() != 2 || !name.ends_with(".weight") || name.find("embed") != std::string::npos) return false;
  return config.include_lm_head || !name.starts_with("lm_head");
}

Fp8Report ReportUnconverted(const Fp8Config& config, const std::vector<Fp8Report::Module>& linears,
                            const std::string& why_not) {
  Fp8Report report;
  report.total = static_cast<int>(linears.size());
  for (const Fp8Report::Module& linear : linears) {
    report.skipped.push_back({linear.fqn, ReasonToSkip(config, linear, why_not)});
  }
  return report;
}

}  // namespace automodeld

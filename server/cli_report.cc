#include "server/cli_report.h"

#include <absl/strings/str_join.h>
#include <fmt/format.h>

#include <vector>

#include "server/message_json.h"
#include "server/terminal.h"

namespace automodeld {
namespace {

using Rows = std::vector<std::vector<std::string>>;

std::string StateName(v1::ModelState state) {
  const auto* value = v1::ModelState_descriptor()->FindValueByNumber(state);
  return value == nullptr ? fmt::format("{}", static_cast<int>(state)) : ShortEnumName(*value);
}

std::string Abilities(const v1::ModelInfo& info) {
  std::vector<std::string> abilities;
  if (info.can_generate()) abilities.emplace_back("generate");
  if (info.can_embed()) abilities.emplace_back("embed");
  if (info.has_chat_template()) abilities.emplace_back("chat");
  return absl::StrJoin(abilities, ", ");
}

void AddInfo(const v1::ModelInfo& info, Rows& rows) {
  rows.push_back({"model", info.model()});
  rows.push_back({"architecture", fmt::format("{} ({})", info.architecture(), info.model_type())});
  rows.push_back({"dtype", info.dtype()});
  rows.push_back({"device", info.device()});
  rows.push_back({"parameters", HumanCount(info.num_parameters())});
  rows.push_back({"size", fmt::format("{} layers, hidden {}, vocabulary {}, at most {} tokens", info.num_layers(),
                                      info.hidden_size(), info.vocab_size(), info.max_model_len())});
  rows.push_back({"answers", Abilities(info)});
}

void AddBytes(const v1::LoadReport::Bytes& bytes, Rows& rows) {
  rows.push_back({"memory", fmt::format("weights {}, KV cache {}, peak {}", HumanBytes(bytes.weights()),
                                        HumanBytes(bytes.kv()), HumanBytes(bytes.peak()))});
}

void AddFp8(const v1::Fp8Report& fp8, Rows& rows) {
  rows.push_back({"fp8", fmt::format("{} of {} linears, {}", fp8.converted(), fp8.total(),
                                     fp8.success() ? "verified" : "not converted")});
  for (const auto& skipped : fp8.skipped()) {
    rows.push_back({"  skipped", fmt::format("{}: {}", skipped.fqn(), skipped.reason())});
  }
}

void AddSeconds(const v1::LoadReport& report, Rows& rows) {
  std::vector<std::string> phases;
  for (const auto& phase : report.phases()) phases.push_back(fmt::format("{} {:.2f}", phase.phase(), phase.seconds()));
  if (!phases.empty()) rows.push_back({"seconds", absl::StrJoin(phases, ", ")});
}

}  // namespace

std::string ReportText(const v1::LoadReport& report) {
  Rows rows;
  AddInfo(report.model_info(), rows);
  if (!report.attention_backend().empty()) rows.push_back({"attention", report.attention_backend()});
  for (const auto& patch : report.patches()) {
    rows.push_back({"patch", fmt::format("{}: {} -> {}", patch.op(), patch.from(), patch.to())});
  }
  for (const auto& op : report.decode_attention_ops()) rows.push_back({"in decode", op + ": inside attention"});
  for (const auto& attempt : report.attempts()) {
    rows.push_back({"fallback", fmt::format("{} -> {}: {}", attempt.what(), attempt.fallback(), attempt.error())});
  }
  for (const auto& note : report.notes()) rows.push_back({"note", note});
  if (report.has_fp8()) AddFp8(report.fp8(), rows);
  for (const auto& name : report.unread_tensors()) rows.push_back({"unread", name});
  AddBytes(report.bytes(), rows);
  AddSeconds(report, rows);
  rows.push_back({"version", report.automodeld_version()});
  return Table(rows);
}

std::string ModelsText(const v1::ListModelsResponse& models) {
  Rows rows = {{"MODEL", "STATE", "ARCHITECTURE", "DTYPE", "DEVICE", "PARAMETERS", "MAX LEN", "RUNNING", "WAITING"}};
  for (const v1::ModelStatus& status : models.models()) {
    const v1::ModelInfo& info = status.info();
    if (!status.has_info()) {
      rows.push_back({status.model(), StateName(status.state()), Shortened(status.error(), 80)});
      continue;
    }
    rows.push_back({status.model(), StateName(status.state()), info.architecture(), info.dtype(), info.device(),
                    HumanCount(info.num_parameters()), fmt::format("{}", info.max_model_len()),
                    fmt::format("{}", status.load().running()), fmt::format("{}", status.load().waiting())});
  }
  return Table(rows, {5, 6, 7, 8});
}

std::string StatusText(const v1::ModelStatus& status) {
  Rows rows = {{"state", StateName(status.state())}};
  if (!status.error().empty()) rows.push_back({"error", status.error()});
  if (status.has_load()) {
    const v1::ModelLoad& load = status.load();
    rows.push_back({"load", fmt::format("{} running, {} waiting, {} of {} KV pages", load.running(), load.waiting(),
                                        load.kv_pages_used(), load.kv_pages_total())});
  }
  return Table(rows);
}

}  // namespace automodeld

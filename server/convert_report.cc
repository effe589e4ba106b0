// What a load and a model say of themselves, to the wire.
#include "core/version.h"
#include "server/convert_load.h"

namespace automodeld {
namespace {

v1::ModelInfo ToProto(const ModelInfo& info) {
  v1::ModelInfo proto;
  proto.set_model(info.model);
  proto.set_architecture(info.architecture);
  proto.set_model_type(info.model_type);
  proto.set_dtype(info.dtype);
  proto.set_device(info.device);
  proto.set_num_parameters(info.num_parameters);
  proto.set_max_model_len(info.max_model_len);
  proto.set_vocab_size(info.vocab_size);
  proto.set_hidden_size(info.hidden_size);
  proto.set_num_layers(info.num_layers);
  proto.set_can_generate(info.can_generate);
  proto.set_can_embed(info.can_embed);
  proto.set_has_chat_template(info.has_chat_template);
  return proto;
}

v1::Fp8Report ToProto(const Fp8Report& report) {
  v1::Fp8Report proto;
  proto.set_converted(report.converted);
  proto.set_total(report.total);
  proto.set_conversion_rate(report.total > 0 ? static_cast<double>(report.converted) / report.total : 0.0);
  proto.set_success(report.success);
  for (const auto& module : report.modules) {
    auto* added = proto.add_modules();
    added->set_fqn(module.fqn);
    added->mutable_shape()->Add(module.shape.begin(), module.shape.end());
  }
  for (const auto& skipped : report.skipped) {
    auto* added = proto.add_skipped();
    added->set_fqn(skipped.fqn);
    added->set_reason(skipped.reason);
  }
  return proto;
}

v1::ModelLoad ToProto(const EngineLoad& load) {
  v1::ModelLoad proto;
  proto.set_running(load.running);
  proto.set_waiting(load.waiting);
  proto.set_kv_pages_used(load.kv_pages_used);
  proto.set_kv_pages_total(load.kv_pages_total);
  return proto;
}

v1::ModelState ToProto(ModelState state) {
  switch (state) {
    case ModelState::kLoading:
      return v1::MODEL_STATE_LOADING;
    case ModelState::kReady:
      return v1::MODEL_STATE_READY;
    case ModelState::kUnloading:
      return v1::MODEL_STATE_UNLOADING;
    case ModelState::kFailed:
      return v1::MODEL_STATE_FAILED;
  }
  return v1::MODEL_STATE_UNSPECIFIED;
}

void AddSteps(const LoadReport& report, v1::LoadReport* proto) {
  for (const LoadAttempt& attempt : report.attempts) {
    auto* added = proto->add_attempts();
    added->set_what(attempt.what);
    added->set_error(attempt.error);
    added->set_fallback(attempt.fallback);
  }
  for (const std::string& note : report.notes) proto->add_notes(note);
  for (const OpPatch& patch : report.patches) {
    auto* added = proto->add_patches();
    added->set_op(patch.op);
    added->set_from(patch.from);
    added->set_to(patch.to);
  }
}

}  // namespace

v1::LoadProgress ToProto(const LoadProgress& progress) {
  v1::LoadProgress proto;
  proto.set_phase(progress.phase);
  proto.set_done_bytes(progress.done_bytes);
  proto.set_total_bytes(progress.total_bytes);
  proto.set_seconds(progress.seconds);
  return proto;
}

v1::LoadReport ToProto(const LoadReport& report) {
  v1::LoadReport proto;
  *proto.mutable_model_info() = ToProto(report.info);
  AddSteps(report, &proto);
  proto.set_attention_backend(report.attention_backend);
  for (const std::string& op : report.decode_attention_ops) proto.add_decode_attention_ops(op);
  if (report.fp8) *proto.mutable_fp8() = ToProto(*report.fp8);
  for (const std::string& name : report.unread_tensors) proto.add_unread_tensors(name);
  proto.mutable_bytes()->set_weights(report.weight_bytes);
  proto.mutable_bytes()->set_kv(report.kv_bytes);
  proto.mutable_bytes()->set_peak(report.peak_bytes);
  for (const auto& [phase, seconds] : report.phase_seconds) {
    auto* added = proto.add_phases();
    added->set_phase(phase);
    added->set_seconds(seconds);
  }
  proto.set_automodeld_version(report.automodeld_version);
  return proto;
}

v1::ModelStatus ToProto(const ModelStatus& status) {
  v1::ModelStatus proto;
  proto.set_model(status.model);
  proto.set_state(ToProto(status.state));
  proto.set_error(status.error);
  proto.set_automodeld_version(Version());
  if (status.served == nullptr) return proto;
  *proto.mutable_info() = ToProto(status.served->report.info);
  *proto.mutable_load() = ToProto(status.served->engine->Load());
  return proto;
}

}  // namespace automodeld

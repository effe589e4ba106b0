// op_overrides: operations of shared libraries in the place of ours.
#include "core/op_override.h"

#include <dlfcn.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>

#include "core/auto_model.h"
#include "core/op_library.h"
#include "core/patch.h"
#include "kernels/op_samples.h"
#include "kernels/registry.h"
#include "tests/models/tiny_model.h"

namespace automodeld {
namespace {

using testing::AllOf;
using testing::Field;
using testing::HasSubstr;
using testing::IsEmpty;

std::string Library(const std::string& name) { return std::string(AUTOMODELD_OP_LIBRARIES "/lib") + name + ".so"; }

// How often mycorp::rms_norm was called in this process.
int64_t Calls() {
  void* const library = dlopen(Library("mycorp_ops").c_str(), RTLD_NOW | RTLD_NOLOAD);
  return reinterpret_cast<int64_t (*)()>(dlsym(library, "mycorp_rms_norm_calls"))();
}

auto IsPatch(const std::string& op, const std::string& to) {
  return AllOf(Field(&OpPatch::op, op), Field(&OpPatch::from, "eager"), Field(&OpPatch::to, to));
}

class OpOverrides : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    for (const char* name : {"mycorp_ops", "wrong_ops", "mycorp_ops"}) {
      ASSERT_EQ(LoadOpLibrary(Library(name)), absl::OkStatus());
    }
  }

  OpOverrides() {
    options_.config_json = R"({"model_type": "llama", "hidden_size": 32, "intermediate_size": 48, "vocab_size": 64,
                               "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
                               "max_position_embeddings": 64})";
  }

  absl::StatusOr<LoadedModel> Load() const { return AutoModel::Load(options_, {}); }

  void ExpectRefused(const std::string& message) const {
    const absl::Status status = Load().status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }

  LoadOptions options_ = PlainOptions();
};

TEST_F(OpOverrides, ReplaceAnEagerOperationAndAreReallyCalled) {
  options_.op_overrides = {{"rms_norm", "mycorp::rms_norm"}};
  for (const std::string dtype : {"float32", "bfloat16", "float16"}) {
    options_.torch_dtype = dtype;
    const int64_t before = Calls();
    const auto loaded = Load();
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_GT(Calls(), before) << "it was not tried";
    EXPECT_THAT(loaded->report.patches, testing::ElementsAre(IsPatch("rms_norm", "mycorp::rms_norm")));
    EXPECT_THAT(loaded->report.attempts, IsEmpty());
  }
}

TEST_F(OpOverrides, LieOverTheFusedVersions) {
  options_.op_overrides = {{"rms_norm", "mycorp::rms_norm"}};
  options_.use_liger_kernel = true;
  const auto loaded = Load();
  ASSERT_TRUE(loaded.ok()) << loaded.status();
  EXPECT_THAT(loaded->report.patches,
              testing::ElementsAre(IsPatch("embed_tokens", "cpu"), IsPatch("qkv_rope_write_kv", "cpu"),
                                   IsPatch("act_mul", "cpu"), IsPatch("adjust_logits", "cpu"),
                                   IsPatch("count_tokens", "cpu"), IsPatch("sample", "cpu"),
                                   IsPatch("pool_rows", "cpu"), IsPatch("rms_norm", "mycorp::rms_norm")));
}

// No model is of float64: a fused version for it, and a wrong one, makes the step fail in these tests alone.
const bool kRegistered = RegisterKernel(
    &Ops::act_mul, at::kCPU, {at::kDouble},
    [](const at::Tensor& gate_up, const std::string&, bool) {
      return std::tuple(at::zeros_like(gate_up.chunk(2, -1)[0]), at::Tensor());
    },
    ActMulSamples);

TEST_F(OpOverrides, AreKeptWhereTheFusedStepFails) {
  options_.op_overrides = {{"rms_norm", "mycorp::rms_norm"}};
  options_.use_liger_kernel = true;
  const OpTarget target = {.architecture = "LlamaForCausalLM",
                           .ops = {"rms_norm", "act_mul"},
                           .dims = {32, 48, 4, 2, 8, 64},
                           .options = at::TensorOptions(at::kDouble).device(at::kCPU)};
  Fallbacks fused(/*allowed=*/true);
  const auto patched = PatchOps(options_, target, fused);
  ASSERT_TRUE(patched.ok()) << patched.status();
  ASSERT_THAT(fused.attempts(), testing::SizeIs(1));
  EXPECT_THAT(fused.attempts()[0].error, HasSubstr("act_mul: silu 2 x 48: result 0 differs by"));
  EXPECT_THAT(patched->patches, testing::ElementsAre(IsPatch("rms_norm", "mycorp::rms_norm")));
  EXPECT_EQ(patched->ops.rms_norm.version, "mycorp::rms_norm");
  EXPECT_EQ(patched->ops.act_mul.version, "eager");
}

TEST_F(OpOverrides, LeaveTheOverriddenOperationOutOfTheFusedStep) {
  options_.use_liger_kernel = true;
  options_.op_overrides = {{"rms_norm", "mycorp::rms_norm"}};
  const OpTarget target = {.architecture = "NormOnly",
                           .ops = {"rms_norm"},
                           .dims = {32, 48, 4, 2, 8, 64},
                           .options = at::TensorOptions(at::kDouble).device(at::kCPU)};
  Fallbacks fused(/*allowed=*/false);
  const auto patched = PatchOps(options_, target, fused);
  ASSERT_TRUE(patched.ok()) << patched.status();
  EXPECT_THAT(patched->notes, IsEmpty());  // not that it stays eager
}

TEST_F(OpOverrides, AreCheckedByCheckOnly) {
  options_.check_only = true;
  options_.op_overrides = {{"rms_norm", "mycorp::rms_norm"}};
  EXPECT_TRUE(Load().ok());
  options_.op_overrides = {{"rms_norm", "wrong::twice"}};
  EXPECT_FALSE(Load().ok());
}

TEST_F(OpOverrides, AreNoFallbackIfRefused) {
  options_.op_overrides = {{"rms_norm", "wrong::twice"}};
  for (const bool allowed : {true, false}) {
    options_.allow_fallback = allowed;
    ExpectRefused("op_overrides: ");
  }
}

TEST_F(OpOverrides, UnknownOperationsAreToldTheKnownOnes) {
  options_.op_overrides = {{"softmax", "mycorp::rms_norm"}};
  ExpectRefused(
      "op_overrides: \"softmax\" is not one of embed_tokens, rms_norm, layer_norm, qkv_rope_write_kv, act_mul, "
      "adjust_logits, count_tokens, sample, pool_rows");
}

TEST_F(OpOverrides, OperationsThatTheArchitectureDoesNotCallAreRefused) {
  options_.config_json = kTinyConfig;
  options_.op_overrides = {{"rms_norm", "mycorp::rms_norm"}};
  ExpectRefused("op_overrides: TinyForTest does not call rms_norm; it calls sample");
}

TEST_F(OpOverrides, NamesThatNobodyRegisteredAreRefused) {
  for (const std::string name : {"mycorp::gone", "mycorp::rms_norm.fast", "mycorp", "", ".", "::", "a b::c"}) {
    options_.op_overrides = {{"rms_norm", name}};
    ExpectRefused("op_overrides: rms_norm: no operation \"" + name + "\" is registered (--op-library)");
  }
}

TEST_F(OpOverrides, AnArgumentOfAnotherNameIsRefusedWithBothSchemas) {
  options_.op_overrides = {{"rms_norm", "wrong::renamed"}};
  ExpectRefused(
      "op_overrides: rms_norm: signatures differ: original rms_norm(Tensor x, Tensor? residual, Tensor weight, "
      "float eps, bool quantize) -> (Tensor, Tensor, Tensor), patched wrong::renamed(Tensor input, Tensor? residual, "
      "Tensor weight, float eps, bool quantize) -> (Tensor, Tensor, Tensor)");
}

TEST_F(OpOverrides, WrongValuesAreRefusedWithTheDifference) {
  options_.op_overrides = {{"rms_norm", "wrong::twice"}};
  ExpectRefused("op_overrides: rms_norm: 3 x 32: result 0 differs by ");
}

TEST_F(OpOverrides, OnesThatThrowOrHaveNoKernelAreRefusedWithTheReason) {
  options_.op_overrides = {{"rms_norm", "wrong::throws"}};
  ExpectRefused("op_overrides: rms_norm: 3 x 32: the tables are not there");
  options_.op_overrides = {{"rms_norm", "wrong::absent"}};
  ExpectRefused("op_overrides: rms_norm: 3 x 32: ");
}

TEST_F(OpOverrides, AbsentTensorsAreNoneThereAndAbsentResultsUndefinedHere) {
  const auto ops = OverrideOps(EagerOps(), {{"rms_norm", "mycorp::rms_norm"}});
  ASSERT_TRUE(ops.ok()) << ops.status();
  const at::Tensor x = at::randn({3, 8}), weight = at::randn({8});
  for (const std::optional<at::Tensor>& residual : {std::optional<at::Tensor>(), std::optional(at::Tensor())}) {
    const auto [y, scale, sum] = ops->rms_norm(x, residual, weight, 1e-6, false);
    EXPECT_TRUE(at::allclose(y, std::get<0>(EagerOps().rms_norm(x, residual, weight, 1e-6, false)), 1e-5, 1e-5));
    EXPECT_FALSE(scale.defined());
    EXPECT_TRUE(sum.equal(x));
  }
}

TEST_F(OpOverrides, TheTableGivenStaysAsItIs) {
  const Ops before = EagerOps();
  ASSERT_TRUE(OverrideOps(before, {{"rms_norm", "mycorp::rms_norm"}}).ok());
  EXPECT_EQ(before.rms_norm.version, "eager");
}

}  // namespace
}  // namespace automodeld

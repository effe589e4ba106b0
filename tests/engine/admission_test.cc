#include "core/engine/admission.h"

#include <gtest/gtest.h>

#include "tests/engine/requests.h"

namespace automodeld {
namespace {

absl::Status Check(const Request& request, const RunnerLimits& limits) { return CheckAdmissible(request, limits); }

TEST(Admission, PromptThatFillsTheModelLeavesNoRoomForACompletion) {
  EXPECT_EQ(Check(*GenerateRequest("a", 63, 100), SmallLimits()), absl::OkStatus());
  const absl::Status status = Check(*GenerateRequest("a", 64, 1), SmallLimits());
  EXPECT_EQ(status, absl::InvalidArgumentError("prompt: 64 tokens leave no room for a completion within 64 tokens"));
  EXPECT_EQ(Check(*EmbedRequest("a", 64), SmallLimits()), absl::OkStatus());
}

TEST(Admission, PromptLongerThanTheModelIsRefusedWithBothNumbers) {
  const absl::Status expected = absl::ResourceExhaustedError("prompt: 65 tokens can never fit max_model_len 64");
  EXPECT_EQ(Check(*GenerateRequest("a", 65, 1), SmallLimits()), expected);
  EXPECT_EQ(Check(*EmbedRequest("a", 65), SmallLimits()), expected);
}

TEST(Admission, PromptLongerThanAllPagesIsRefusedWithBothNumbers) {
  RunnerLimits limits = SmallLimits();
  limits.num_pages = 9;
  EXPECT_EQ(Check(*GenerateRequest("a", 33, 1), limits),
            absl::ResourceExhaustedError("prompt: 33 tokens can never fit the 8 KV pages of 4 tokens"));
  EXPECT_EQ(Check(*GenerateRequest("a", 31, 1), limits), absl::OkStatus());
  EXPECT_EQ(MaxCompletionLength(*GenerateRequest("a", 30, 100), limits), 2);
}

TEST(Admission, EmptyPromptIsRefused) {
  EXPECT_EQ(Check(*GenerateRequest("a", 0, 1), SmallLimits()).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(Check(*EmbedRequest("a", 0), EncoderLimits()).code(), absl::StatusCode::kInvalidArgument);
}

TEST(Admission, TokensOutsideTheVocabularyAreRefused) {
  RunnerLimits limits = SmallLimits();
  limits.vocab_size = 100;
  Request request;
  request.prompt = {0, 99};
  EXPECT_EQ(Check(request, limits), absl::OkStatus());
  for (const TokenId id : {100, -1}) {
    request.prompt = {0, id, 99};
    const std::string message = "prompt: token " + std::to_string(id) + " is outside the model's vocabulary, 0..99";
    EXPECT_EQ(Check(request, limits), absl::InvalidArgumentError(message));
  }
}

TEST(Admission, EncoderDoesNotGenerate) {
  EXPECT_EQ(Check(*GenerateRequest("a", 3, 1), EncoderLimits()).code(), absl::StatusCode::kFailedPrecondition);
}

TEST(Admission, EncoderInputLongerThanAStepIsRefusedBecauseItIsNeverCut) {
  RunnerLimits limits = EncoderLimits();
  limits.max_num_batched_tokens = 16;
  EXPECT_EQ(Check(*EmbedRequest("a", 16), limits), absl::OkStatus());
  EXPECT_EQ(Check(*EmbedRequest("a", 17), limits),
            absl::ResourceExhaustedError("prompt: 17 tokens can never fit a step of max_num_batched_tokens 16"));
}

TEST(Admission, CompletionIsCappedByTheModelsLength) {
  EXPECT_EQ(MaxCompletionLength(*GenerateRequest("a", 60, 100), SmallLimits()), 4);
  EXPECT_EQ(MaxCompletionLength(*GenerateRequest("a", 10, 5), SmallLimits()), 5);
}

}  // namespace
}  // namespace automodeld

// Where a sampling parameter comes from: the request, else the checkpoint's generation_config, else our default.
#include <gmock/gmock.h>

#include <set>

#include "server/convert_generate.h"

namespace automodeld {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

constexpr int kLength = 100;
constexpr int kVocab = 1000;
constexpr size_t kPrompt = 30;

ServedModel Model(GenerationDefaults generation = {}) {
  ServedModel model;
  model.report.info.max_model_len = kLength;
  model.report.info.vocab_size = kVocab;
  model.generation = std::move(generation);
  return model;
}

SamplingParams Sampling(const v1::SamplingParams& params, const ServedModel& model) {
  absl::StatusOr<SamplingParams> sampling = ToSampling(params, model, kPrompt);
  EXPECT_TRUE(sampling.ok()) << sampling.status();
  return sampling.value_or(SamplingParams{});
}

GenerationDefaults Checkpoint() {
  return {.temperature = 0.6F,
          .top_p = 0.9F,
          .min_p = 0.05F,
          .repetition_penalty = 1.1F,
          .top_k = 20,
          .max_new_tokens = 12,
          .do_sample = true,
          .eos_token_ids = {2, 7}};
}

TEST(SamplingDefaults, OursApplyWhereNeitherSaysAnything) {
  const SamplingParams sampling = Sampling({}, Model());
  EXPECT_EQ(sampling.temperature, 1.0F);
  EXPECT_EQ(sampling.top_p, 1.0F);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.min_p, 0.0F);
  EXPECT_EQ(sampling.repetition_penalty, 1.0F);
  EXPECT_EQ(sampling.presence_penalty, 0.0F);
  EXPECT_EQ(sampling.frequency_penalty, 0.0F);
  EXPECT_EQ(sampling.min_tokens, 0);
  EXPECT_EQ(sampling.logprobs, -1);
  EXPECT_THAT(sampling.logit_bias, IsEmpty());
  EXPECT_THAT(sampling.stop, IsEmpty());
  EXPECT_THAT(sampling.stop_token_ids, IsEmpty());
}

TEST(SamplingDefaults, TheCheckpointsComeBeforeOurs) {
  const SamplingParams sampling = Sampling({}, Model(Checkpoint()));
  EXPECT_EQ(sampling.temperature, 0.6F);
  EXPECT_EQ(sampling.top_p, 0.9F);
  EXPECT_EQ(sampling.top_k, 20);
  EXPECT_EQ(sampling.min_p, 0.05F);
  EXPECT_EQ(sampling.repetition_penalty, 1.1F);
  EXPECT_EQ(sampling.max_tokens, 12);
  EXPECT_THAT(sampling.stop_token_ids, ElementsAre(2, 7));
}

TEST(SamplingDefaults, TheRequestsComeBeforeTheCheckpoints) {
  v1::SamplingParams params;
  params.set_temperature(0.3F);
  params.set_top_p(0.5F);
  params.set_top_k(3);
  params.set_min_p(0.2F);
  params.set_repetition_penalty(1.5F);
  params.set_max_tokens(8);
  const SamplingParams sampling = Sampling(params, Model(Checkpoint()));
  EXPECT_EQ(sampling.temperature, 0.3F);
  EXPECT_EQ(sampling.top_p, 0.5F);
  EXPECT_EQ(sampling.top_k, 3);
  EXPECT_EQ(sampling.min_p, 0.2F);
  EXPECT_EQ(sampling.repetition_penalty, 1.5F);
  EXPECT_EQ(sampling.max_tokens, 8);
}

// A value that switches a filter off is a value: it must not look like one left out.
TEST(SamplingDefaults, TheRequestCanSwitchOffWhatTheCheckpointSwitchesOn) {
  v1::SamplingParams params;
  params.set_temperature(0.0F);
  params.set_top_p(1.0F);
  params.set_top_k(0);
  params.set_min_p(0.0F);
  params.set_repetition_penalty(1.0F);
  params.set_ignore_eos(true);
  const SamplingParams sampling = Sampling(params, Model(Checkpoint()));
  EXPECT_EQ(sampling.temperature, 0.0F);
  EXPECT_EQ(sampling.top_p, 1.0F);
  EXPECT_EQ(sampling.top_k, 0);
  EXPECT_EQ(sampling.min_p, 0.0F);
  EXPECT_EQ(sampling.repetition_penalty, 1.0F);
  EXPECT_THAT(sampling.stop_token_ids, IsEmpty());
}

TEST(SamplingDefaults, EachFieldIsTakenOnItsOwn) {
  GenerationDefaults checkpoint;
  checkpoint.temperature = 0.6F;
  v1::SamplingParams params;
  params.set_top_p(0.5F);
  const SamplingParams sampling = Sampling(params, Model(checkpoint));
  EXPECT_EQ(sampling.temperature, 0.6F);
  EXPECT_EQ(sampling.top_p, 0.5F);
  EXPECT_EQ(sampling.top_k, 0);
}

TEST(SamplingDefaults, DoSampleFalseIsGreedyUnlessTheRequestHasATemperature) {
  GenerationDefaults checkpoint = Checkpoint();
  checkpoint.do_sample = false;
  EXPECT_EQ(Sampling({}, Model(checkpoint)).temperature, 0.0F);
  v1::SamplingParams params;
  params.set_temperature(0.7F);
  EXPECT_EQ(Sampling(params, Model(checkpoint)).temperature, 0.7F);
}

TEST(SamplingDefaults, MaxTokensIsWhatTheModelsLengthLeaves) {
  EXPECT_EQ(Sampling({}, Model()).max_tokens, kLength - static_cast<int>(kPrompt));
}

TEST(SamplingDefaults, MinTokensAboveWhatMaxTokensComesToIsRefused) {
  v1::SamplingParams params;
  params.set_min_tokens(13);
  const auto sampling = ToSampling(params, Model(Checkpoint()), kPrompt);
  EXPECT_EQ(sampling.status(), absl::InvalidArgumentError("min_tokens: 13 is outside 0..12"));
}

TEST(SamplingDefaults, ACheckpointsTopKAboveTheVocabularyKeepsAll) {
  GenerationDefaults checkpoint;
  checkpoint.top_k = 5000;
  EXPECT_EQ(Sampling({}, Model(checkpoint)).top_k, kVocab);
}

TEST(SamplingDefaults, AnAbsentSeedIsDrawnAnewAndAGivenOneIsKept) {
  std::set<uint64_t> seeds;
  for (int i = 0; i < 100; ++i) seeds.insert(Sampling({}, Model()).seed);
  EXPECT_EQ(seeds.size(), 100U);
  v1::SamplingParams params;
  for (const uint64_t seed : {uint64_t{0}, uint64_t{42}, UINT64_MAX}) {
    params.set_seed(seed);
    EXPECT_EQ(Sampling(params, Model()).seed, seed);
  }
}

TEST(SamplingDefaults, WhatOnlyARequestSaysIsPassedOn) {
  v1::SamplingParams params;
  params.set_min_tokens(4);
  params.set_presence_penalty(-1.5F);
  params.set_frequency_penalty(0.5F);
  (*params.mutable_logit_bias())[9] = -100.0F;
  (*params.mutable_logit_bias())[3] = 100.0F;
  params.add_stop("\n\n");
  params.add_stop_token_ids(11);
  params.set_logprobs(0);
  const SamplingParams sampling = Sampling(params, Model(Checkpoint()));
  EXPECT_EQ(sampling.min_tokens, 4);
  EXPECT_EQ(sampling.presence_penalty, -1.5F);
  EXPECT_EQ(sampling.frequency_penalty, 0.5F);
  EXPECT_THAT(sampling.logit_bias, ElementsAre(Pair(3, 100.0F), Pair(9, -100.0F)));
  EXPECT_THAT(sampling.stop, ElementsAre("\n\n"));
  EXPECT_THAT(sampling.stop_token_ids, ElementsAre(11, 2, 7));
  EXPECT_EQ(sampling.logprobs, 0);
}

}  // namespace
}  // namespace automodeld

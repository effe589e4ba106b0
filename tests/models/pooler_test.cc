// The runner's pooler on batches as the scheduler makes them: every pooling, prompts in chunks, tokens beside them.
#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <vector>

#include "core/engine/model_runner_pooler.h"

namespace automodeld {
namespace {

constexpr int64_t kHidden = 24;
constexpr int kSlots = 8;

at::Tensor Rows(int64_t count) { return at::randn({count, kHidden}); }

// By definition, in double.
at::Tensor Expected(const EmbedParams& params, const at::Tensor& rows) {
  const at::Tensor x = rows.to(at::kDouble);
  const auto n = static_cast<double>(x.size(0));
  const at::Tensor weights = at::arange(1, x.size(0) + 1, x.options()).unsqueeze(1);
  at::Tensor value;
  switch (params.pooling) {
    case Pooling::kMean:
      value = x.sum(0) / n;
      break;
    case Pooling::kMeanSqrtLen:
      value = x.sum(0) / std::sqrt(n);
      break;
    case Pooling::kWeightedMean:
      value = (x * weights).sum(0) / weights.sum();
      break;
    case Pooling::kMax:
      value = x.amax(0);
      break;
    case Pooling::kCls:
      value = x[0];
      break;
    case Pooling::kLastToken:
      value = x[-1];
      break;
  }
  if (params.dimensions > 0) value = value.narrow(0, 0, params.dimensions);
  if (params.normalize) value = value / value.norm();
  return value.to(at::kFloat);
}

struct EmbedRequest : Request {
  explicit EmbedRequest(Pooling pooling, int dimensions = 0, bool normalize = false) {
    kind = Kind::kEmbed;
    embed = {.pooling = pooling, .normalize = normalize, .dimensions = dimensions};
  }
};

class PoolerTest : public testing::TestWithParam<Pooling> {
 protected:
  // A chunk of a request.
  BatchItem Item(const Request& request, int slot, int position, int num_tokens, bool last) const {
    BatchItem item;
    item.request = &request;
    item.slot = slot;
    item.first = position == 0;
    item.position = position;
    item.num_tokens = num_tokens;
    item.last = last;
    return item;
  }

  PooledItems Run(const Batch& batch, const at::Tensor& hidden) {
    upload_.Clear();
    pooler_.Add(batch, upload_);
    upload_.Send();
    return pooler_.Pool(hidden, upload_);
  }

  static at::Tensor VectorOf(const PooledItems& pooled, size_t i) {
    const PooledItems::Row& row = pooled.rows[i];
    return pooled.values[row.row].narrow(0, 0, row.dimensions);
  }

  const Ops ops_ = EagerOps();
  StepUpload upload_{at::kCPU};
  Pooler pooler_{ops_, kSlots, kHidden, at::TensorOptions(at::kFloat)};
};

TEST_P(PoolerTest, EveryItemOfAStepHasItsOwnParameters) {
  const EmbedRequest plain(GetParam()), cut(GetParam(), 7), unit(GetParam(), 0, true), cut_unit(GetParam(), 5, true);
  const std::vector<const Request*> requests = {&plain, &cut, &unit, &cut_unit};
  const at::Tensor hidden = Rows(1 + 2 + 3 + 4);
  Batch batch;
  for (int i = 0; i < 4; ++i) batch.ragged.push_back(Item(*requests[static_cast<size_t>(i)], i, 0, i + 1, true));
  const PooledItems pooled = Run(batch, hidden);
  ASSERT_EQ(pooled.rows.size(), 4);
  for (int64_t i = 0, row = 0; i < 4; row += ++i) {
    const auto at = static_cast<size_t>(i);
    EXPECT_EQ(pooled.rows[at].output, i);
    EXPECT_TRUE(
        at::allclose(VectorOf(pooled, at), Expected(requests[at]->embed, hidden.narrow(0, row, i + 1)), 1e-5, 1e-6))
        << i;
  }
}

TEST_P(PoolerTest, AnItemInChunksIsWhatItIsWhole) {
  const EmbedRequest request(GetParam(), 0, true), other(GetParam());
  const at::Tensor rows = Rows(10), others = Rows(9);
  PooledItems pooled;
  for (const auto& [position, count] : {std::pair(0, 4), std::pair(4, 1), std::pair(5, 5)}) {
    Batch batch;  // another request in chunks lies before it, a whole one behind
    batch.prefill.push_back(Item(other, 5, 3 * (position > 0) + 3 * (position > 4), 3, false));
    batch.prefill.push_back(Item(request, 2, position, count, position == 5));
    batch.prefill.push_back(Item(other, 1, 0, 2, true));
    pooled = Run(batch, at::cat({others.narrow(0, 0, 3), rows.narrow(0, position, count), others.narrow(0, 3, 2)}));
  }
  ASSERT_EQ(pooled.rows.size(), 2);
  EXPECT_EQ(pooled.rows[0].output, 1);
  EXPECT_EQ(pooled.rows[1].output, 2);
  EXPECT_TRUE(at::allclose(VectorOf(pooled, 0), Expected(request.embed, rows), 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(VectorOf(pooled, 1), Expected(other.embed, others.narrow(0, 3, 2)), 1e-5, 1e-6));
}

TEST_P(PoolerTest, ASlotBeginsAnewWithEachRequest) {
  const EmbedRequest request(GetParam());
  const at::Tensor left = Rows(3), rows = Rows(5);
  Batch batch;
  batch.prefill.push_back(Item(request, 4, 0, 3, false));  // and then it is cancelled
  EXPECT_FALSE(Run(batch, left).values.defined());
  batch.prefill = {Item(request, 4, 0, 2, false)};
  Run(batch, rows.narrow(0, 0, 2));
  batch.prefill = {Item(request, 4, 2, 3, true)};
  const PooledItems pooled = Run(batch, rows.narrow(0, 2, 3));
  EXPECT_TRUE(at::allclose(VectorOf(pooled, 0), Expected(request.embed, rows), 1e-5, 1e-6));
}

TEST_P(PoolerTest, RowsOfCompletionsArePassedOver) {
  const EmbedRequest request(GetParam());
  Request generate;
  const at::Tensor hidden = Rows(1 + 4 + 2);
  Batch batch;
  batch.decode.push_back(Item(generate, 0, 9, 1, true));
  batch.prefill.push_back(Item(generate, 1, 0, 4, true));
  EXPECT_FALSE(Run(batch, hidden).values.defined());
  batch.prefill.push_back(Item(request, 2, 0, 2, true));
  const PooledItems pooled = Run(batch, hidden);
  ASSERT_EQ(pooled.rows.size(), 1);
  EXPECT_EQ(pooled.rows[0].output, 2);
  EXPECT_TRUE(at::allclose(VectorOf(pooled, 0), Expected(request.embed, hidden.narrow(0, 5, 2)), 1e-5, 1e-6));
}

INSTANTIATE_TEST_SUITE_P(EveryPooling, PoolerTest,
                         testing::Values(Pooling::kMean, Pooling::kCls, Pooling::kMax, Pooling::kLastToken,
                                         Pooling::kWeightedMean, Pooling::kMeanSqrtLen));

}  // namespace
}  // namespace automodeld

// A step's inputs on their way to the device: columns, padding, and that equal steps lie at equal places.
#include <gtest/gtest.h>

#include <vector>

#include "core/engine/model_runner_inputs.h"
#include "core/engine/model_runner_upload.h"
#include "kernels/ops.h"

namespace automodeld {
namespace {

std::vector<at::Device> Devices() {
  return at::hasCUDA() ? std::vector<at::Device>{at::kCPU, at::kCUDA} : std::vector<at::Device>{at::kCPU};
}

std::vector<int64_t> Longs(const at::Tensor& t) {
  const at::Tensor host = t.cpu().contiguous();
  return {host.const_data_ptr<int64_t>(), host.const_data_ptr<int64_t>() + host.numel()};
}

TEST(StepUpload, ColumnsArriveAsTheyAre) {
  for (const at::Device device : Devices()) {
    StepUpload upload(device);
    for (int step = 0; step < 3; ++step) {
      upload.Clear();
      const std::vector<int64_t> longs = {1, -2, int64_t{1} << 60, step};
      const std::vector<float> floats = {0.5F, -1.25F, static_cast<float>(step)};
      const auto a = upload.Add(longs);
      const auto nothing = upload.Add(std::span<const int64_t>());
      const auto b = upload.Add(floats);
      upload.Send();
      EXPECT_EQ(Longs(upload.Get(a)), longs);
      EXPECT_EQ(upload.Get(nothing).numel(), 0);
      EXPECT_EQ(upload.Get(b).scalar_type(), at::kFloat);
      EXPECT_TRUE(at::equal(upload.Get(b).cpu(), at::tensor(floats)));
    }
  }
}

BatchItem Decoding(int slot, int position, std::span<const PageId> pages) {
  BatchItem item;
  item.slot = slot;
  item.position = position;
  item.num_tokens = 1;
  item.pages = pages;
  return item;
}

TEST(InputPacker, PadsWithSlotZeroOnTheScratchPage) {
  for (const at::Device device : Devices()) {
    const at::Tensor last_tokens = at::tensor({10, 11, 12, 13}, at::TensorOptions(at::kLong)).to(device);
    const std::vector<PageId> pages = {7, 3};
    Batch batch;
    batch.decode = {Decoding(2, 17, pages), Decoding(3, 4, pages)};
    InputPacker packer(/*page_size=*/16);
    StepUpload upload(device);
    packer.Add(batch, {.decode = 4}, upload);
    upload.Send();
    const Inputs in = packer.Get(upload, last_tokens);
    EXPECT_EQ(Longs(in.token_ids), (std::vector<int64_t>{-3, -4, -1, -1}));
    const at::Tensor ids = at::arange(20, at::TensorOptions(at::kFloat).device(device)).unsqueeze(1);
    const at::Tensor found = EagerOps().embed_tokens(in.token_ids, in.last_tokens, ids, 1.0);
    EXPECT_EQ(Longs(found.to(at::kLong)), (std::vector<int64_t>{12, 13, 10, 10}));
    EXPECT_EQ(Longs(in.positions), (std::vector<int64_t>{17, 4, 0, 0}));
    EXPECT_EQ(Longs(in.kv_slots), (std::vector<int64_t>{3 * 16 + 1, 7 * 16 + 4, 0, 0}));

    const AttentionStep step = packer.Sequences(batch, {.decode = 4});
    ASSERT_EQ(step.paged.size(), 4U);
    EXPECT_EQ(step.num_decode, 4);
    EXPECT_EQ(step.paged[0].context, 18);
    for (const int64_t row : {2, 3}) {
      const SequenceRows& padding = step.paged[static_cast<size_t>(row)];
      EXPECT_EQ(padding.first_row, row);
      EXPECT_EQ(padding.num_rows, 1);
      EXPECT_EQ(padding.context, 1);
      EXPECT_EQ(std::vector<PageId>(padding.pages.begin(), padding.pages.end()), std::vector<PageId>{0});
    }
  }
}

TEST(InputPacker, PadsRecordedPromptsBehindTheirTokens) {
  for (const at::Device device : Devices()) {
    const std::vector<PageId> pages = {7, 3};
    const std::vector<TokenId> tokens = {21, 22, 23};
    BatchItem prompt = Decoding(1, 15, pages);
    prompt.num_tokens = 3;
    prompt.token_ids = tokens;
    Batch batch;
    batch.prefill = {prompt};
    InputPacker packer(/*page_size=*/16);
    StepUpload upload(device);
    packer.Add(batch, {.prompts = 5}, upload);
    upload.Send();
    const Inputs in = packer.Get(upload, at::zeros({4}, at::kLong).to(device));
    EXPECT_EQ(Longs(in.token_ids), (std::vector<int64_t>{21, 22, 23, 0, 0}));
    EXPECT_EQ(Longs(in.positions), (std::vector<int64_t>{15, 16, 17, 0, 0}));
    EXPECT_EQ(Longs(in.kv_slots), (std::vector<int64_t>{7 * 16 + 15, 3 * 16, 3 * 16 + 1, 0, 0}));

    const AttentionStep step = packer.Sequences(batch, {.prompts = 5});
    ASSERT_EQ(step.paged.size(), 1U);
    EXPECT_EQ(step.num_decode, 0);
    EXPECT_EQ(step.recorded_rows, 5);
    EXPECT_FALSE(step.recorded_ragged);
    EXPECT_EQ(step.paged[0].num_rows, 3);
    EXPECT_EQ(step.paged[0].context, 18);
  }
}

TEST(InputPacker, PadsRecordedInputsOfAnEncoderWithoutPages) {
  for (const at::Device device : Devices()) {
    const std::vector<TokenId> tokens = {21, 22, 23};
    BatchItem input = Decoding(1, 0, {});
    input.num_tokens = 3;
    input.token_ids = tokens;
    Batch batch;
    batch.ragged = {input};
    InputPacker packer(/*page_size=*/16, /*ragged=*/true);
    StepUpload upload(device);
    packer.Add(batch, {.prompts = 5}, upload);
    upload.Send();
    const Inputs in = packer.Get(upload, {});
    EXPECT_EQ(Longs(in.token_ids), (std::vector<int64_t>{21, 22, 23, 0, 0}));
    EXPECT_EQ(Longs(in.positions), (std::vector<int64_t>{0, 1, 2, 0, 0}));
    EXPECT_FALSE(in.kv_slots.defined());

    const AttentionStep step = packer.Sequences(batch, {.prompts = 5});
    ASSERT_EQ(step.ragged.size(), 1U);
    EXPECT_TRUE(step.paged.empty());
    EXPECT_EQ(step.recorded_rows, 5);
    EXPECT_TRUE(step.recorded_ragged);
    EXPECT_EQ(step.ragged[0].num_rows, 3);
    EXPECT_FALSE(packer.Sequences(batch, {}).recorded_ragged);
  }
}

TEST(InputPacker, StepsOfAsManyRowsLieAtTheSamePlaces) {
  const std::vector<PageId> pages = {5};
  const at::Tensor last_tokens = at::zeros({4}, at::kLong).to(Devices().back());
  InputPacker packer(16);
  StepUpload upload(Devices().back());
  const at::Tensor to = at::empty({1 << 12}, at::TensorOptions(at::kByte).device(Devices().back()));
  std::vector<const void*> first;
  for (const size_t rows : {4U, 1U}) {  // full, and mostly padding
    Batch batch;
    for (size_t i = 0; i < rows; ++i) batch.decode.push_back(Decoding(static_cast<int>(i), 3, pages));
    upload.Clear();
    packer.Add(batch, {.decode = 4}, upload);
    upload.Send(to);
    const Inputs in = packer.Get(upload, last_tokens);
    const std::vector<const void*> places = {in.positions.const_data_ptr(), in.kv_slots.const_data_ptr()};
    if (first.empty()) first = places;
    if (at::hasCUDA()) {
      EXPECT_EQ(places, first);
    }
    EXPECT_EQ(in.positions.numel(), 4);
  }
}

}  // namespace
}  // namespace automodeld

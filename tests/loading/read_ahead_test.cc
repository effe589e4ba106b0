#include "core/read_ahead.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <filesystem>
#include <iterator>
#include <string>
#include <thread>
#include <vector>

#include "tests/loading/checkpoint_folder.h"

namespace automodeld {
namespace {

using testing::HasSubstr;

constexpr size_t kSlotBytes = 1 << 10;

// Three tensors of 100,003 bytes, in two files, and a row of pieces that holds all of them backwards.
class ReadAheadTest : public testing::Test {
 protected:
  void SetUp() override {
    for (const std::string name : {"a", "b", "c"}) {
      std::string bytes(100003, '\0');
      for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>((i * 7 >> 2) + 50 * tensors_.size());
      tensors_.push_back({name, "U8", {100003}, bytes});
    }
    folder_.WriteTensors("one.safetensors", {tensors_[0], tensors_[1]});
    folder_.WriteTensors("two.safetensors", {tensors_[2]});
    folder_.Write("model.safetensors.index.json",
                  R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors","c":"two.safetensors"}})");
    auto files = Safetensors::Open(folder_.path());
    ASSERT_TRUE(files.ok()) << files.status();
    files_ = *std::move(files);
    for (const char* name : {"c", "b", "a"}) {
      const StoredTensor* tensor = files_.Find(name);
      for (uint64_t offset = 0; offset < tensor->bytes; offset += kSlotBytes) {
        pieces_.push_back({tensor, offset, std::min<size_t>(kSlotBytes, tensor->bytes - offset)});
      }
    }
  }

  std::string Expected() const { return tensors_[2].bytes + tensors_[1].bytes + tensors_[0].bytes; }

  CheckpointFolder folder_;
  std::vector<TestTensor> tensors_;
  Safetensors files_;
  std::vector<ReadAhead::Piece> pieces_;
};

ptrdiff_t NumThreads() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/task"), std::filesystem::directory_iterator{});
}

TEST_F(ReadAheadTest, GivesEveryPieceInOrderHoweverManyAreKept) {
  for (const size_t num_slots : {1U, 2U, 3U, 16U, 1000U}) {
    for (const size_t kept : {size_t{0}, num_slots / 2}) {
      std::vector<std::byte> memory(num_slots * kSlotBytes);
      ReadAhead ahead(files_, pieces_, memory, kSlotBytes);
      std::string got;
      std::deque<std::pair<std::span<std::byte>, size_t>> in_use;  // and where its bytes stand in `got`
      const auto release = [&] {
        const auto [bytes, at] = in_use.front();
        EXPECT_TRUE(std::ranges::equal(std::as_bytes(std::span(got)).subspan(at, bytes.size()), bytes));
        in_use.pop_front();
        ahead.Release();
      };
      for (size_t i = 0; i < pieces_.size(); ++i) {
        const auto bytes = ahead.Next();
        ASSERT_TRUE(bytes.ok()) << bytes.status();
        in_use.emplace_back(*bytes, got.size());
        got.append(reinterpret_cast<const char*>(bytes->data()), bytes->size());
        if (in_use.size() > kept) release();
      }
      while (!in_use.empty()) release();
      EXPECT_TRUE(got == Expected()) << num_slots;
    }
  }
}

TEST_F(ReadAheadTest, ReadsNoFurtherThanTheRing) {
  std::vector<std::byte> memory(4 * kSlotBytes + 100);
  {
    ReadAhead ahead(files_, pieces_, memory, kSlotBytes);
    for (int i = 0; i < 4; ++i) ASSERT_TRUE(ahead.Next().ok());
  }
  const auto ring = std::span(memory).first(4 * kSlotBytes);
  EXPECT_TRUE(std::ranges::equal(ring, std::as_bytes(std::span(tensors_[2].bytes)).first(ring.size())));
  EXPECT_TRUE(
      std::ranges::all_of(std::span(memory).subspan(ring.size()), [](std::byte b) { return b == std::byte{}; }));
}

TEST_F(ReadAheadTest, StopsAtOnceAndLeavesNoThread) {
  std::thread([] {}).join();  // TSan starts a thread of its own with the first
  const ptrdiff_t before = NumThreads();
  std::vector<std::byte> memory(4 * kSlotBytes);
  for (int taken = 0; taken < 8; ++taken) {
    ReadAhead ahead(files_, pieces_, memory, kSlotBytes);
    for (int i = 0; i < taken; ++i) {
      ASSERT_TRUE(ahead.Next().ok());
      ahead.Release();
    }
  }
  // The kernel lists a thread for a moment after it was joined; one that was left would be listed for ever.
  while (NumThreads() > before) std::this_thread::yield();
}

TEST_F(ReadAheadTest, AFileThatShrinksIsAnErrorOfItsPieceAlone) {
  std::filesystem::resize_file(folder_.path() + "/one.safetensors", 150000);
  std::vector<std::byte> memory(4 * kSlotBytes);
  ReadAhead ahead(files_, pieces_, memory, kSlotBytes);
  int failed = 0;
  for (const ReadAhead::Piece& piece : pieces_) {
    const auto bytes = ahead.Next();
    ahead.Release();
    EXPECT_EQ(bytes.ok(), piece.tensor->name != "b" || piece.tensor->begin + piece.offset + piece.bytes <= 150000);
    if (bytes.ok()) continue;
    ++failed;
    EXPECT_THAT(std::string(bytes.status().message()), HasSubstr("one.safetensors: ends at byte"));
  }
  EXPECT_GT(failed, 40);
}

TEST_F(ReadAheadTest, NothingToReadIsFine) {
  std::vector<std::byte> memory(kSlotBytes);
  const ReadAhead ahead(files_, {}, memory, kSlotBytes);
}

}  // namespace
}  // namespace automodeld

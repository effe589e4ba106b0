// Reading through the ring, on the CPU, where it is the same as on a GPU but for pinning and events; and the source's
// choice of how to read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "core/staged_reader_torch.h"
#include "core/weight_sources_torch.h"
#include "tests/models/tiny_model.h"

namespace automodeld {
namespace {

using testing::HasSubstr;

const std::map<std::string, at::ScalarType>& StoredTypes() {
  static const std::map<std::string, at::ScalarType> types = {{"F64", at::kDouble},
                                                              {"F32", at::kFloat},
                                                              {"F16", at::kHalf},
                                                              {"BF16", at::kBFloat16},
                                                              {"F8_E4M3", at::kFloat8_e4m3fn},
                                                              {"F8_E5M2", at::kFloat8_e5m2}};
  return types;
}

std::string BytesOf(const at::Tensor& tensor) {
  return {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()};
}

// -3 .. 3 by eighths, from a number of its own on: exact in every type but F8_E5M2, where both sides round alike.
at::Tensor Numbers(int64_t numel, int64_t own) {
  return ((at::arange(numel, at::kLong) + own) % 49 - 24).to(at::kFloat) / 8;
}

// Where a load would run: the GPU, if there is one, as well.
std::vector<at::Device> Devices() {
  std::vector<at::Device> devices = {at::Device(at::kCPU)};
  if (at::hasCUDA() && at::detail::getCUDAHooks().deviceCount() > 0) devices.emplace_back(at::kCUDA, 0);
  return devices;
}

// Tensors a, b, c of one stored type; b is larger than the whole ring where the type is F32.
class StagedReaderTest : public testing::Test {
 protected:
  void Write(const std::string& dtype) {
    std::vector<TestTensor> tensors;
    for (const auto& [name, numel] : sizes_) {
      const at::Tensor numbers = Numbers(numel, numel).to(StoredTypes().at(dtype));
      tensors.push_back({name, dtype, {numel}, BytesOf(numbers)});
      expected_[name] = numbers;
    }
    folder_.WriteTensors("model.safetensors", tensors);
    auto files = Safetensors::Open(folder_.path());
    ASSERT_TRUE(files.ok()) << files.status();
    files_ = *std::move(files);
  }

  std::vector<PlanningSource::Wanted> Wanted(const std::vector<std::string>& names) const {
    std::vector<PlanningSource::Wanted> wanted;
    wanted.reserve(names.size());
    for (const std::string& name : names) wanted.push_back({name, {sizes_.at(name)}, sizes_.at(name)});
    return wanted;
  }

  void ExpectNumbers(const std::string& name, const at::Tensor& out) const {
    const at::Tensor converted = expected_.at(name).to(out.scalar_type());
    EXPECT_EQ(BytesOf(out.cpu()), BytesOf(converted)) << name << " as " << out.scalar_type();
  }

  at::Tensor Empty(const std::string& name, at::ScalarType type, at::Device device) const {
    return at::empty({sizes_.at(name)}, at::TensorOptions(type).device(device));
  }

  const std::map<std::string, int64_t> sizes_ = {{"a", 7}, {"b", (20 << 20) + 3}, {"c", (1 << 20) + 1}};
  CheckpointFolder folder_;
  Safetensors files_;
  std::map<std::string, at::Tensor> expected_;
  LoadContext context_;
  LoadMeter meter_{context_};
};

TEST_F(StagedReaderTest, EveryStoredTypeArrivesInEveryOtherOnEveryDevice) {
  for (const auto& [dtype, type] : StoredTypes()) {
    Write(dtype);
    for (const at::Device device : Devices()) {
      for (const at::ScalarType target : {at::kFloat, at::kHalf, at::kBFloat16, at::kFloat8_e4m3fn}) {
        if (target == at::kFloat8_e4m3fn && type != target) continue;
        SafetensorsSource source(files_, "", Wanted({"a", "b", "c"}), device, &meter_);
        std::map<std::string, at::Tensor> outs;
        for (const char* name : {"a", "b", "c"}) {
          outs[name] = Empty(name, target, device);
          source.Read(name, outs[name]);
        }
        ASSERT_TRUE(source.status().ok()) << source.status();
        for (const auto& [name, out] : outs) ExpectNumbers(name, out);
      }
    }
  }
}

TEST_F(StagedReaderTest, TheRingGivesWhatTheFileHolds) {
  Write("F32");
  for (const at::Device device : Devices()) {
    std::vector<const StoredTensor*> all = {files_.Find("b"), files_.Find("a"), files_.Find("c"), files_.Find("b")};
    StagedReader reader(files_, all, device, &meter_);
    EXPECT_LE(reader.ring_bytes(), 64 << 20);
    for (const char* name : {"b", "a", "c", "b"}) {
      const at::Tensor out = Empty(name, at::kBFloat16, device);
      ASSERT_TRUE(reader.SkipTo(*files_.Find(name)));
      ASSERT_TRUE(reader.Fill(out).ok());
      reader.Finish();
      ExpectNumbers(name, out);
    }
    EXPECT_FALSE(reader.SkipTo(*files_.Find("a")));
  }
}

TEST_F(StagedReaderTest, WhatIsSkippedIsDroppedAndWhatFollowsIsRight) {
  Write("BF16");
  for (const at::Device device : Devices()) {
    StagedReader reader(files_, {files_.Find("a"), files_.Find("b"), files_.Find("c")}, device, &meter_);
    ASSERT_TRUE(reader.SkipTo(*files_.Find("c")));
    const at::Tensor out = Empty("c", at::kFloat, device);
    ASSERT_TRUE(reader.Fill(out).ok());
    reader.Finish();
    ExpectNumbers("c", out);
    EXPECT_FALSE(reader.SkipTo(*files_.Find("b")));
  }
}

TEST_F(StagedReaderTest, AnotherOrderThanThePlansIsRightToo) {
  Write("F16");
  for (const at::Device device : Devices()) {
    SafetensorsSource source(files_, "", Wanted({"a", "b"}), device, &meter_);
    for (const char* name : {"b", "a", "c", "b"}) {
      const at::Tensor out = Empty(name, at::kFloat, device);
      source.Read(name, out);
      ASSERT_TRUE(source.status().ok()) << source.status();
      ExpectNumbers(name, out);
    }
  }
}

TEST_F(StagedReaderTest, AFileThatShrinksIsAnErrorAndNothingMoreIsRead) {
  Write("F32");
  for (const at::Device device : Devices()) {
    SafetensorsSource source(files_, "", Wanted({"a", "b", "c"}), device, &meter_);
    std::filesystem::resize_file(folder_.path() + "/model.safetensors", 60 << 20);
    source.Read("b", Empty("b", at::kHalf, device));
    EXPECT_THAT(std::string(source.status().message()), HasSubstr("model.safetensors: ends at byte 62914560"));
    source.Read("a", Empty("a", at::kHalf, device));
    EXPECT_EQ(source.status().code(), absl::StatusCode::kFailedPrecondition);
    Write("F32");
  }
}

}  // namespace
}  // namespace automodeld

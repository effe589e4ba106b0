// Corrupt checkpoints through the whole factory: refused, or the same numbers as ever. tests/loading has the sweeps.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <string>

#include "core/auto_model.h"
#include "tests/models/tiny_model.h"

namespace automodeld {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr char kFile[] = "model.safetensors";

// Whether the load is refused, as the checkpoint's fault and without its path; if not, the model is `intact`.
bool IsRefused(const CheckpointFolder& folder, const std::map<std::string, at::Tensor>& intact) {
  LastTiny().clear();
  const auto loaded = AutoModel::Load(PlainOptions(folder.path()), {});
  if (!loaded.ok()) {
    EXPECT_EQ(loaded.status().code(), absl::StatusCode::kFailedPrecondition) << loaded.status();
    EXPECT_THAT(std::string(loaded.status().message()), Not(HasSubstr(folder.path())));
    return true;
  }
  EXPECT_EQ(LastTiny().size(), intact.size());
  for (const auto& [name, tensor] : intact) EXPECT_TRUE(LastTiny()[name].equal(tensor)) << name;
  return false;
}

std::map<std::string, at::Tensor> Intact(const CheckpointFolder& folder) {
  WriteTiny(folder);
  EXPECT_TRUE(AutoModel::Load(PlainOptions(folder.path()), {}).ok());
  return LastTiny();
}

TEST(CorruptLoad, EveryTruncationIsRefused) {
  const CheckpointFolder folder;
  const auto intact = Intact(folder);
  const std::string whole = SafetensorsOf(TinyTensors());
  for (size_t size = 0; size < whole.size(); size += 101) {
    folder.Write(kFile, whole.substr(0, size));
    EXPECT_TRUE(IsRefused(folder, intact)) << size;
  }
}

TEST(CorruptLoad, AFlippedBitOfTheHeaderIsRefusedUnlessNobodyReadsIt) {
  const CheckpointFolder folder;
  const auto intact = Intact(folder);
  const std::string whole = SafetensorsOf(TinyTensors());
  const size_t bits = 8 * (whole.find("}}") + 2);
  size_t refused = 0, harmless = 0;
  for (size_t bit = 0; bit < bits; bit += 7) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    folder.Write(kFile, flipped);
    SCOPED_TRACE(testing::Message() << "bit " << bit << ": " << whole.substr(bit / 8, 20));
    ++(IsRefused(folder, intact) ? refused : harmless);
  }
  EXPECT_GT(refused, 500U);
  EXPECT_LT(harmless, 11U);  // the eight letters of __metadata__'s entry, every seventh bit
}

TEST(CorruptLoad, ShapesAndTypesThatFitTheirBytesButNotTheModelAreRefusedByName) {
  const CheckpointFolder folder;
  const auto intact = Intact(folder);
  for (size_t i = 0; i < TinyTensors().size(); ++i) {
    std::vector<TestTensor> turned = TinyTensors(), integers = TinyTensors();
    turned[i].shape.push_back(1);
    integers[i].dtype = "I32";
    for (const auto& tensors : {turned, integers}) {
      folder.WriteTensors(kFile, tensors);
      EXPECT_TRUE(IsRefused(folder, intact)) << tensors[i].name;
      EXPECT_THAT(std::string(AutoModel::Load(PlainOptions(folder.path()), {}).status().message()),
                  HasSubstr("1 misshapen: " + tensors[i].name + ": "));
    }
  }
}

}  // namespace
}  // namespace automodeld

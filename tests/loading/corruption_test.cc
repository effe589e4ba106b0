// Damage of every kind to a checkpoint of some hundred KiB: each is refused with its reason, or proved harmless by a
// second reading of the header that shares no code with the first.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "core/safetensors.h"
#include "tests/loading/checkpoint_folder.h"

namespace automodeld {
namespace {

using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr size_t kLengthBytes = 8;

// 24 tensors, 290 KiB, in three types; no two hold the same bytes.
std::vector<TestTensor> SmallModel() {
  const std::vector<std::pair<std::string, int64_t>> types = {{"F32", 4}, {"BF16", 2}, {"F16", 2}};
  std::vector<TestTensor> tensors;
  for (int64_t i = 0; i < 24; ++i) {
    const auto& [dtype, width] = types[static_cast<size_t>(i % 3)];
    std::string bytes(static_cast<size_t>((40 + i) * 90 * width), '\0');
    for (size_t k = 0; k < bytes.size(); ++k) bytes[k] = static_cast<char>((k * 31 >> 3) + static_cast<size_t>(i) * 17);
    tensors.push_back({"model.layers." + std::to_string(i) + ".mlp.down_proj.weight", dtype, {40 + i, 90}, bytes});
  }
  return tensors;
}

absl::Status OpenStatus(const CheckpointFolder& folder) { return Safetensors::Open(folder.path()).status(); }

std::string ReadAll(const Safetensors& files, const StoredTensor& tensor) {
  std::string bytes(tensor.bytes, '\0');
  EXPECT_TRUE(files.Read(tensor, 0, std::as_writable_bytes(std::span(bytes))).ok());
  return bytes;
}

void ExpectRefused(const CheckpointFolder& folder, const std::string& file, const std::string& reason = "") {
  const absl::Status status = OpenStatus(folder);
  EXPECT_TRUE(status.code() == absl::StatusCode::kFailedPrecondition ||
              status.code() == absl::StatusCode::kInvalidArgument)
      << status;
  const std::string message(status.message());
  EXPECT_THAT(message, AllOf(StartsWith(file + ": "), HasSubstr(reason), Not(HasSubstr(folder.path()))));
  EXPECT_LT(message.size(), 1000U);
}

// Changes bytes of a file where it lies, and puts them back.
class Damage {
 public:
  Damage(const CheckpointFolder& folder, const std::string& name)
      : descriptor_(open((folder.path() + "/" + name).c_str(), O_RDWR | O_CLOEXEC)) {}
  Damage(const Damage&) = delete;
  Damage& operator=(const Damage&) = delete;
  ~Damage() { close(descriptor_); }

  // Twice: as it was.
  void Flip(size_t bit) const {
    char byte = 0;
    ASSERT_EQ(pread(descriptor_, &byte, 1, static_cast<off_t>(bit / 8)), 1);
    byte = static_cast<char>(byte ^ (1 << bit % 8));
    ASSERT_EQ(pwrite(descriptor_, &byte, 1, static_cast<off_t>(bit / 8)), 1);
  }

 private:
  int descriptor_;
};

using Contents = std::map<std::string, std::tuple<std::string, json, std::string>>;  // name: dtype, shape, bytes

// What a file holds, read through a JSON tree; nothing: the header describes something else than its data.
std::optional<Contents> ReadIndependently(const std::string& header, const std::string& data) {
  const json tree = json::parse(header, nullptr, false);
  const std::map<std::string, size_t> widths = {{"F32", 4}, {"BF16", 2}, {"F16", 2}};
  Contents contents;
  std::map<size_t, size_t> places;  // begin, end
  if (!tree.is_object()) return std::nullopt;
  for (const auto& [name, entry] : tree.items()) {
    if (name == "__metadata__") continue;
    if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape")) return {};
    if (!entry["dtype"].is_string() || !widths.contains(entry["dtype"])) return {};
    size_t size = widths.at(entry["dtype"]);
    for (const json& dim : entry["shape"]) {
      if (!dim.is_number_unsigned()) return {};
      size *= dim.get<size_t>();
    }
    const auto offsets = entry.value("data_offsets", json::array());
    if (!offsets.is_array() || offsets.size() != 2 || !offsets[0].is_number_unsigned()) return {};
    if (!offsets[1].is_number_unsigned() || offsets[1].get<size_t>() - offsets[0].get<size_t>() != size) return {};
    if (!places.emplace(offsets[0], offsets[1]).second || offsets[1].get<size_t>() > data.size()) return {};
    contents[name] = {entry["dtype"], entry["shape"], data.substr(offsets[0], size)};
  }
  size_t end = 0;
  for (const auto& [begin, next] : places) {
    if (begin != end) return {};
    end = next;
  }
  return end == data.size() ? std::optional(contents) : std::nullopt;
}

Contents ContentsOf(const Safetensors& files) {
  Contents contents;
  for (const auto& [name, tensor] : files.tensors()) {
    contents[name] = {tensor.type->name, tensor.shape, ReadAll(files, tensor)};
  }
  return contents;
}

TEST(Corruption, ATruncationAtAny4KiBIsRefused) {
  const CheckpointFolder folder;
  const std::string whole = SafetensorsOf(SmallModel());
  ASSERT_GT(whole.size(), 256U << 10);
  folder.Write(kSingle, whole);
  ASSERT_TRUE(OpenStatus(folder).ok());
  for (size_t size = (whole.size() - 1) / 4096 * 4096; size > 0; size -= 4096) {
    std::filesystem::resize_file(folder.path() + "/" + kSingle, size);
    SCOPED_TRACE(size);
    ExpectRefused(folder, kSingle, size < 4096 ? "" : "header describes");
  }
}

TEST(Corruption, AFlippedBitOfTheHeaderIsRefusedOrChangesNoMoreThanAName) {
  const CheckpointFolder folder;
  const std::string whole = SafetensorsOf(SmallModel());
  folder.Write(kSingle, whole);
  const size_t length = whole.find("}}") + 2 - kLengthBytes;
  const std::string data = whole.substr(kLengthBytes + length);
  ASSERT_GE(length * 8, 10000U);
  const Contents intact = *ReadIndependently(whole.substr(kLengthBytes, length), data);
  const Damage damage(folder, kSingle);
  int refused = 0, harmless = 0;
  for (size_t bit = 0; bit < length * 8; ++bit) {
    damage.Flip(kLengthBytes * 8 + bit);
    std::string header = whole.substr(kLengthBytes, length);
    header[bit / 8] = static_cast<char>(header[bit / 8] ^ (1 << bit % 8));
    const auto files = Safetensors::Open(folder.path());
    SCOPED_TRACE(header.substr(bit / 8 < 20 ? 0 : bit / 8 - 20, 40));
    if (files.ok()) {
      ++harmless;
      const std::optional<Contents> expected = ReadIndependently(header, data);
      ASSERT_TRUE(expected.has_value());
      EXPECT_TRUE(ContentsOf(*files) == *expected);
      EXPECT_EQ(expected->size(), intact.size());
      const auto differ = std::ranges::count_if(*expected, [&](const auto& tensor) {
        const auto found = intact.find(tensor.first);
        return found == intact.end() || found->second != tensor.second;
      });
      EXPECT_LE(differ, 1);
      for (const auto& now : *expected) {
        EXPECT_TRUE(std::ranges::any_of(intact, [&](const auto& before) { return before.second == now.second; }))
            << now.first;
      }
    } else {
      ++refused;
      ExpectRefused(folder, kSingle);
    }
    damage.Flip(kLengthBytes * 8 + bit);
  }
  EXPECT_GT(refused, 5000);
  EXPECT_GT(harmless, 1000);  // letters of names
  EXPECT_TRUE(ContentsOf(*Safetensors::Open(folder.path())) == intact);
}

TEST(Corruption, AFlippedBitOfTheLengthIsRefused) {
  const CheckpointFolder folder;
  folder.WriteTensors(kSingle, SmallModel());
  const Damage damage(folder, kSingle);
  for (size_t bit = 0; bit < kLengthBytes * 8; ++bit) {
    SCOPED_TRACE(bit);
    damage.Flip(bit);
    ExpectRefused(folder, kSingle, "header");
    damage.Flip(bit);
  }
  EXPECT_TRUE(OpenStatus(folder).ok());
}

// Rewrites one tensor's entry of the header and leaves the data.
void WriteLie(const CheckpointFolder& folder, const std::string& tensor, const std::function<void(json&)>& lie) {
  const std::string whole = SafetensorsOf(SmallModel());
  const size_t length = whole.find("}}") + 2 - kLengthBytes;
  auto header = nlohmann::ordered_json::parse(whole.substr(kLengthBytes, length));
  json entry = header[tensor];
  lie(entry);
  header[tensor] = entry;
  folder.Write(kSingle, SafetensorsFile(header.dump(), whole.substr(kLengthBytes + length)));
}

TEST(Corruption, OverlappingGappedAndHugeOffsetsAreRefusedByTheTensorsName) {
  const CheckpointFolder folder;
  const std::vector<uint64_t> moves = {1,    4096, 1ULL << 31, 1ULL << 32, 1ULL << 53, 1U + (~0ULL >> 1), ~0ULL - 4095,
                                       ~0ULL};
  for (const TestTensor& tensor : SmallModel()) {
    for (const uint64_t move : moves) {
      for (const int which : {0, 1, 2}) {  // begin, end, both
        SCOPED_TRACE(testing::Message() << tensor.name << " " << which << " by " << move);
        WriteLie(folder, tensor.name, [&](json& entry) {
          for (const size_t i : {0U, 1U}) {
            const uint64_t offset = entry["data_offsets"][i];
            if (which == 2 || which == static_cast<int>(i)) entry["data_offsets"][i] = offset + move;
          }
        });
        ExpectRefused(folder, kSingle, "model.layers.");
      }
    }
  }
}

TEST(Corruption, ATypeThatLiesIsRefusedUnlessItIsAsWide) {
  const CheckpointFolder folder;
  const std::map<std::string, size_t> widths = {{"F64", 8}, {"F32", 4}, {"F16", 2},     {"BF16", 2}, {"I64", 8},
                                                {"I32", 4}, {"I16", 2}, {"F8_E4M3", 1}, {"U8", 1},   {"BOOL", 1}};
  for (const TestTensor& tensor : SmallModel()) {
    for (const auto& [lie, width] : widths) {
      SCOPED_TRACE(tensor.name + " as " + lie);
      WriteLie(folder, tensor.name, [&dtype = lie](json& entry) { entry["dtype"] = dtype; });
      if (width != widths.at(tensor.dtype)) {
        ExpectRefused(folder, kSingle, tensor.name + ": " + std::to_string(tensor.bytes.size()) + " bytes in the file");
        continue;
      }
      const auto files = Safetensors::Open(folder.path());  // a file cannot tell; the factory refuses what is no float
      ASSERT_TRUE(files.ok()) << files.status();
      EXPECT_EQ(files->Find(tensor.name)->type->name, lie);
      EXPECT_TRUE(ReadAll(*files, *files->Find(tensor.name)) == tensor.bytes);
    }
  }
}

TEST(Corruption, AShapeThatLiesIsRefusedByTheTensorsName) {
  const CheckpointFolder folder;
  for (const TestTensor& tensor : SmallModel()) {
    const int64_t rows = tensor.shape[0];
    const std::vector<json> lies = {{rows - 1, 90},
                                    {rows + 1, 90},
                                    {rows, 0},
                                    {rows, 91},
                                    {rows},
                                    {90},
                                    json::array(),
                                    {rows, 90, 2},
                                    {-rows, -90},
                                    {1LL << 40, 90},
                                    {rows, "90"},
                                    {rows, 90.0},
                                    {1LL << 62, 1 << 3},
                                    {rows, json::array({90})}};
    for (const json& lie : lies) {
      SCOPED_TRACE(tensor.name + ": " + lie.dump());
      WriteLie(folder, tensor.name, [&](json& entry) { entry["shape"] = lie; });
      ExpectRefused(folder, kSingle, tensor.name + ": ");
    }
  }
}

// Two shards and their index.
std::string WriteShards(const CheckpointFolder& folder) {
  const std::vector<TestTensor> tensors = SmallModel();
  folder.WriteTensors("one.safetensors", {tensors.begin(), tensors.begin() + 12});
  folder.WriteTensors("two.safetensors", {tensors.begin() + 12, tensors.end()});
  json map;
  for (size_t i = 0; i < tensors.size(); ++i) map[tensors[i].name] = i < 12 ? "one.safetensors" : "two.safetensors";
  const std::string index = json({{"metadata", {{"total_size", 7}}}, {"weight_map", map}}).dump();
  folder.Write(kIndex, index);
  return index;
}

TEST(Corruption, ATruncatedShardIsRefusedByItsName) {
  for (const std::string shard : {"one.safetensors", "two.safetensors"}) {
    const CheckpointFolder folder;
    WriteShards(folder);
    ASSERT_TRUE(OpenStatus(folder).ok());
    const std::string path = folder.path() + "/" + shard;
    for (size_t size = (std::filesystem::file_size(path) - 1) / 4096 * 4096; size > 0; size -= 4096) {
      std::filesystem::resize_file(path, size);
      ExpectRefused(folder, shard);
    }
    folder.Remove(shard);
    ExpectRefused(folder, kIndex, "missing shards: " + shard);
  }
}

TEST(Corruption, AFlippedBitOfTheIndexIsRefusedOrLeavesItsMapAsItWas) {
  const CheckpointFolder folder;
  const std::string index = WriteShards(folder);
  const json intact = json::parse(index)["weight_map"];
  const Damage damage(folder, kIndex);
  int refused = 0;
  for (size_t bit = 0; bit < index.size() * 8; ++bit) {
    std::string flipped = index;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    const json tree = json::parse(flipped, nullptr, false);
    const bool is_same = tree.is_object() && tree.contains("weight_map") && tree["weight_map"] == intact;
    damage.Flip(bit);
    SCOPED_TRACE(flipped.substr(bit / 8 < 20 ? 0 : bit / 8 - 20, 40));
    const absl::Status status = OpenStatus(folder);
    EXPECT_EQ(status.ok(), is_same) << status;
    if (!status.ok()) ++refused;
    if (!status.ok()) ExpectRefused(folder, kIndex);
    damage.Flip(bit);
  }
  EXPECT_GT(refused, 10000);
}

TEST(Corruption, AShardThatIsNoPlainFileIsRefusedAndHangsNothing) {
  const CheckpointFolder folder;
  WriteShards(folder);
  const std::string shard = folder.path() + "/two.safetensors";
  const std::vector<std::pair<const char*, std::function<void()>>> kinds = {
      {"pipe", [&] { ASSERT_EQ(mkfifo(shard.c_str(), 0600), 0); }},
      {"folder", [&] { std::filesystem::create_directory(shard); }},
      {"device without end", [&] { std::filesystem::create_symlink("/dev/zero", shard); }},
      {"device without bytes", [&] { std::filesystem::create_symlink("/dev/null", shard); }},
  };
  for (const auto& [what, make] : kinds) {
    SCOPED_TRACE(what);
    folder.Remove("two.safetensors");
    make();
    ExpectRefused(folder, "two.safetensors", "not a plain file");
  }
  folder.Remove("two.safetensors");
  std::filesystem::create_symlink("two.safetensors", shard);
  ExpectRefused(folder, kIndex, "missing shards: two.safetensors");
}

}  // namespace
}  // namespace automodeld

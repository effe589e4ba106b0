#include "core/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "tests/loading/checkpoint_folder.h"

namespace automodeld {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";

std::string MessageOf(const absl::Status& status) { return std::string(status.message()); }

absl::Status OpenStatus(const CheckpointFolder& folder) { return Safetensors::Open(folder.path()).status(); }

std::string ReadAll(const Safetensors& files, const StoredTensor& tensor) {
  std::string bytes(tensor.bytes, '\0');
  EXPECT_TRUE(files.Read(tensor, 0, std::as_writable_bytes(std::span(bytes))).ok());
  return bytes;
}

std::vector<TestTensor> TwoTensors() {
  return {{"b", "F32", {2, 1}, FloatBytes({1, 2})}, {"a", "BF16", {3}, "uvwxyz"}};
}

TEST(Safetensors, GivesNamesShapesTypesAndBytes) {
  const CheckpointFolder folder;
  folder.WriteTensors(kSingle, TwoTensors());
  const auto files = Safetensors::Open(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  ASSERT_EQ(files->tensors().size(), 2U);
  const StoredTensor* a = files->Find("a");
  ASSERT_NE(a, nullptr);
  EXPECT_STREQ(a->type->name, "BF16");
  EXPECT_EQ(a->shape, (std::vector<int64_t>{3}));
  EXPECT_EQ(ReadAll(*files, *a), "uvwxyz");
  EXPECT_EQ(ReadAll(*files, *files->Find("b")), FloatBytes({1, 2}));
  EXPECT_EQ(files->Find("c"), nullptr);
}

TEST(Safetensors, ReadsAPieceOfATensorAndNothingBeyondIt) {
  const CheckpointFolder folder;
  folder.WriteTensors(kSingle, TwoTensors());
  const auto files = Safetensors::Open(folder.path());
  ASSERT_TRUE(files.ok());
  std::string piece(2, '\0');
  EXPECT_TRUE(files->Read(*files->Find("a"), 3, std::as_writable_bytes(std::span(piece))).ok());
  EXPECT_EQ(piece, "xy");
  EXPECT_FALSE(files->Read(*files->Find("a"), 5, std::as_writable_bytes(std::span(piece))).ok());
  EXPECT_FALSE(files->Read(*files->Find("a"), 7, std::as_writable_bytes(std::span(piece))).ok());
}

TEST(Safetensors, FirstFloatingFollowsTheFileAndNotTheAlphabet) {
  const CheckpointFolder folder;
  folder.WriteTensors(kSingle, {{"z", "I64", {1}, "12345678"}, {"y", "F16", {1}, "12"}, {"a", "F32", {1}, "1234"}});
  const auto files = Safetensors::Open(folder.path());
  ASSERT_TRUE(files.ok());
  EXPECT_EQ(files->FirstFloating()->name, "y");
}

TEST(Safetensors, SeveralThreadsReadALargeTensorWhole) {
  std::string bytes(21 << 20, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i * 31 >> 7);
  const CheckpointFolder folder;
  folder.WriteTensors(kSingle, {{"a", "U8", {21 << 20}, bytes}});
  const auto files = Safetensors::Open(folder.path());
  ASSERT_TRUE(files.ok());
  EXPECT_TRUE(ReadAll(*files, *files->Find("a")) == bytes);
}

TEST(Safetensors, EqualLooksAtTypeShapeAndBytesAndStopsWhenToldTo) {
  std::string bytes(20 << 20, 'x');
  const CheckpointFolder folder;
  const std::vector<int64_t> shape = {20 << 20};
  std::string other = bytes;
  other.back() = 'y';
  folder.WriteTensors(kSingle, {{"a", "U8", shape, bytes},
                                {"same", "U8", shape, bytes},
                                {"other", "U8", shape, other},
                                {"type", "I8", shape, bytes},
                                {"shape", "U8", {20, 1 << 20}, bytes}});
  const auto files = Safetensors::Open(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  int asked = 0;
  const auto equal = [&](const char* name, int most) {
    asked = 0;
    return files->Equal(*files->Find("a"), *files->Find(name),
                        [&] { return ++asked > most ? absl::CancelledError("enough") : absl::OkStatus(); });
  };
  EXPECT_TRUE(equal("same", 3).value());
  EXPECT_EQ(asked, 3);
  EXPECT_FALSE(equal("other", 3).value());
  EXPECT_FALSE(equal("type", 0).value());
  EXPECT_FALSE(equal("shape", 0).value());
  EXPECT_EQ(equal("same", 2).status().code(), absl::StatusCode::kCancelled);
}

TEST(InParts, CoversEveryByteOnceAndTellsTheFirstError) {
  for (const uint64_t size : {0ULL, 1ULL, 4095ULL, 8ULL << 20, (40ULL << 20) + 17}) {
    std::mutex mutex;
    std::map<uint64_t, uint64_t> parts;
    EXPECT_TRUE(InParts(size, [&](uint64_t begin, uint64_t end) {
                  const std::scoped_lock lock(mutex);
                  parts[begin] = end;
                  return absl::OkStatus();
                }).ok());
    uint64_t covered = 0;
    for (const auto& [begin, end] : parts) {
      EXPECT_EQ(begin, covered);
      EXPECT_EQ(begin % 4096, 0U);
      covered = end;
    }
    EXPECT_EQ(covered, size);
    const absl::Status status =
        InParts(size, [](uint64_t begin, uint64_t) { return absl::InternalError(std::to_string(begin)); });
    EXPECT_EQ(status.message(), "0");
  }
}

TEST(Safetensors, EmptyTensorsAndNoTensorsAreValid) {
  const CheckpointFolder folder;
  folder.WriteTensors(kSingle, {{"none", "F32", {0, 7}, ""}, {"one", "F32", {}, "1234"}, {"nil", "F32", {0}, ""}});
  EXPECT_TRUE(OpenStatus(folder).ok()) << OpenStatus(folder);
  folder.Write(kSingle, SafetensorsFile("{}", ""));
  EXPECT_TRUE(OpenStatus(folder).ok()) << OpenStatus(folder);
}

TEST(Safetensors, PaddedHeadersAndUnknownFieldsAreValid) {
  const CheckpointFolder folder;
  folder.Write(kSingle, SafetensorsFile(R"({"a":{"dtype":"U8","shape":[2],"x":{"y":[1,{"z":null}]},)"
                                        R"("data_offsets":[0,2]}}      )",
                                        "12"));
  EXPECT_TRUE(OpenStatus(folder).ok()) << OpenStatus(folder);
}

struct Malformed {
  const char* what;
  std::string file;
  const char* message;
};

std::string OneTensor(const std::string& fields, size_t data_bytes = 4) {
  return SafetensorsFile(R"({"a":{)" + fields + "}}", std::string(data_bytes, 'x'));
}

const char kGood[] = R"("dtype":"F32","shape":[1],"data_offsets":[0,4])";

std::vector<Malformed> MalformedHeaders() {
  return {
      {"empty", "", "too short"},
      {"seven bytes", "1234567", "too short"},
      {"header beyond the file", std::string("\x40\0\0\0\0\0\0\0{}", 10), "does not fit"},
      {"header of 2^63 bytes", std::string("\0\0\0\0\0\0\0\x80{}", 10), "outside 2..100000000"},
      {"header of 2^64 - 1 bytes", std::string(8, '\xff') + "{}", "outside 2..100000000"},
      {"header just above 100 MB", std::string("\x01\xe1\xf5\x05\0\0\0\0{}", 10), "outside 2..100000000"},
      {"empty header", SafetensorsFile("", ""), "begin with '{'"},
      {"space before the object", SafetensorsFile(" {}", ""), "begin with '{'"},
      {"list", SafetensorsFile("[]", ""), "begin with '{'"},
      {"not JSON", SafetensorsFile("{nonsense}", ""), "not valid JSON"},
      {"second object", SafetensorsFile("{}{}", ""), "not valid JSON"},
      {"zero byte after the object", SafetensorsFile(std::string("{}\0", 3), ""), "not valid JSON"},
      {"invalid UTF-8", SafetensorsFile("{\"\xff\":1}", ""), "not valid JSON"},
      {"metadata with a number", SafetensorsFile(R"({"__metadata__":{"a":1}})", ""), "not a map of strings"},
      {"metadata with an object", SafetensorsFile(R"({"__metadata__":{"a":{}}})", ""), "__metadata__"},
      {"metadata with a list", SafetensorsFile(R"({"__metadata__":{"a":[]}})", ""), "__metadata__"},
      {"metadata as a string", SafetensorsFile(R"({"__metadata__":"a"})", ""), "__metadata__"},
      {"deep nesting", OneTensor("\"x\":" + std::string(200000, '[')), "is malformed"},
  };
}

std::vector<Malformed> MalformedTensors() {
  return {
      {"number for a tensor", SafetensorsFile(R"({"a":1})", ""), "a: "},
      {"list for a tensor", SafetensorsFile(R"({"a":[]})", ""), "a: is malformed"},
      {"no dtype", OneTensor(R"("shape":[1],"data_offsets":[0,4])"), "a: lacks"},
      {"no shape", OneTensor(R"("dtype":"F32","data_offsets":[0,4])"), "a: lacks"},
      {"no offsets", OneTensor(R"("dtype":"F32","shape":[1])"), "a: lacks"},
      {"unknown dtype", OneTensor(R"("dtype":"F31","shape":[1],"data_offsets":[0,4])"), "F31 is not known"},
      {"dtype as a list", OneTensor(R"("dtype":["F32"],"shape":[1],"data_offsets":[0,4])"), "dtype is not a string"},
      {"dtype as a number", OneTensor(R"("dtype":4,"shape":[1],"data_offsets":[0,4])"), "dtype is malformed"},
      {"shape as a number", OneTensor(R"("dtype":"F32","shape":1,"data_offsets":[0,4])"), "shape is malformed"},
      {"shape with a string", OneTensor(R"("dtype":"F32","shape":["1"],"data_offsets":[0,4])"), "shape is malformed"},
      {"nested shape", OneTensor(R"("dtype":"F32","shape":[[1]],"data_offsets":[0,4])"), "is malformed"},
      {"negative dimension", OneTensor(R"("dtype":"F32","shape":[-1],"data_offsets":[0,4])"), "shape is malformed"},
      {"fractional dimension", OneTensor(R"("dtype":"F32","shape":[1.0],"data_offsets":[0,4])"), "shape is malformed"},
      {"three offsets", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[0,4,4])"), "not [begin, end]"},
      {"one offset", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[0])"), "not [begin, end]"},
      {"end before begin", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,0])"), "not [begin, end]"},
      {"field twice", OneTensor(kGood + std::string(R"(,"shape":[1])")), "shape occurs twice"},
      {"name twice", SafetensorsFile(R"({"a":{)" + std::string(kGood) + R"(},"a":{)" + kGood + "}}", "xxxx"),
       "a: occurs twice"},
      {"65 dimensions",
       OneTensor(R"("dtype":"F32","data_offsets":[0,4],"shape":[1)" +
                 [] {
                   std::string ones;
                   for (int i = 0; i < 64; ++i) ones += ",1";
                   return ones;
                 }() +
                 "]"),
       "64 dimensions"},
      {"shape that overflows", OneTensor(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4])"),
       "shape is too large"},
      {"type that overflows", OneTensor(R"("dtype":"F64","shape":[288230376151711745],"data_offsets":[0,8])", 8),
       "shape is too large"},
      {"dimension above 2^63", OneTensor(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,4])"),
       "shape is too large"},
  };
}

std::vector<Malformed> MalformedPlaces() {
  const std::string good = kGood;
  return {
      {"too few bytes for the shape", OneTensor(R"("dtype":"F32","shape":[2],"data_offsets":[0,4])"),
       "4 bytes in the file, but shape and dtype make 8"},
      {"too many bytes for the shape", OneTensor(R"("dtype":"F16","shape":[1],"data_offsets":[0,4])"),
       "4 bytes in the file, but shape and dtype make 2"},
      {"half a byte", OneTensor(R"("dtype":"F4","shape":[1],"data_offsets":[0,0])", 0), "no whole number of bytes"},
      {"hole at the beginning", OneTensor(R"("dtype":"F32","shape":[1],"data_offsets":[4,8])", 8),
       "begins at 4, expected 0"},
      {"overlap",
       SafetensorsFile("{\"a\":{" + good + R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":[2,6]}})", "xxxxxx"),
       "b: begins at 2, expected 4"},
      {"two tensors in one place", SafetensorsFile("{\"a\":{" + good + "},\"b\":{" + good + "}}", "xxxx"),
       "begins at 0, expected 4"},
      {"hole between",
       SafetensorsFile("{\"a\":{" + good + R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":[5,9]}})", "xxxxxxxxx"),
       "b: begins at 5, expected 4"},
      {"file too short", OneTensor(good, 3), "3 bytes of data, but the header describes 4"},
      {"file too long", OneTensor(good, 5), "5 bytes of data, but the header describes 4"},
      {"offsets beyond the file", OneTensor(R"("dtype":"U8","shape":[1000000],"data_offsets":[0,1000000])"),
       "4 bytes of data, but the header describes 1000000"},
  };
}

TEST(Safetensors, EveryMalformedFileIsRefusedWithItsReason) {
  const CheckpointFolder folder;
  for (const auto& files : {MalformedHeaders(), MalformedTensors(), MalformedPlaces()}) {
    for (const Malformed& malformed : files) {
      SCOPED_TRACE(malformed.what);
      folder.Write(kSingle, malformed.file);
      const absl::Status status = OpenStatus(folder);
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
      EXPECT_THAT(MessageOf(status),
                  AllOf(HasSubstr(malformed.message), HasSubstr(kSingle), Not(HasSubstr(folder.path()))));
      EXPECT_LT(MessageOf(status).size(), 1000U);
    }
  }
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const CheckpointFolder folder;
  const std::string whole = SafetensorsOf(TwoTensors());
  for (size_t size = 0; size < whole.size(); ++size) {
    folder.Write(kSingle, whole.substr(0, size));
    EXPECT_EQ(OpenStatus(folder).code(), absl::StatusCode::kFailedPrecondition) << size;
  }
}

TEST(Safetensors, AFlippedBitIsRefusedOrLeavesEveryByteReadable) {
  const CheckpointFolder folder;
  const std::string whole = SafetensorsOf(TwoTensors());
  int refused = 0;
  for (size_t bit = 0; bit < whole.size() * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    folder.Write(kSingle, flipped);
    const auto files = Safetensors::Open(folder.path());
    if (!files.ok()) ++refused;
    if (!files.ok()) continue;
    uint64_t bytes = 0;
    for (const auto& [name, tensor] : files->tensors()) bytes += ReadAll(*files, tensor).size();
    EXPECT_EQ(bytes, 14U) << bit;
  }
  EXPECT_GT(refused, 500);  // most bits of the header matter
}

TEST(Safetensors, AFileThatShrinksWhileReadIsAnError) {
  const CheckpointFolder folder;
  folder.WriteTensors(kSingle, TwoTensors());
  const auto files = Safetensors::Open(folder.path());
  ASSERT_TRUE(files.ok());
  std::filesystem::resize_file(folder.path() + "/" + kSingle, 40);
  std::string bytes(6, '\0');
  const absl::Status status = files->Read(*files->Find("a"), 0, std::as_writable_bytes(std::span(bytes)));
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(MessageOf(status), HasSubstr("model.safetensors: ends at byte"));
}

TEST(Safetensors, PipesAndFoldersAreNoFiles) {
  const CheckpointFolder folder;
  ASSERT_EQ(mkfifo((folder.path() + "/" + kSingle).c_str(), 0600), 0);
  EXPECT_THAT(MessageOf(OpenStatus(folder)), HasSubstr("not a plain file"));
  folder.Remove(kSingle);
  std::filesystem::create_directory(folder.path() + "/" + kSingle);
  EXPECT_THAT(MessageOf(OpenStatus(folder)), HasSubstr("not a plain file"));
}

TEST(Safetensors, PickleFilesAreRefusedByName) {
  for (const std::string& name :
       std::vector<std::string>{"pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt"}) {
    const CheckpointFolder folder;
    folder.Write(name, "\x80\x02");
    const absl::Status status = OpenStatus(folder);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(MessageOf(status), name + ": pickle files are not read; convert to safetensors");
  }
}

TEST(Safetensors, AFolderWithoutWeightsIsNotFound) {
  const CheckpointFolder folder;
  folder.Write("config.json", "{}");
  EXPECT_EQ(OpenStatus(folder).code(), absl::StatusCode::kNotFound);
}

// Two shards and an index that is right, unless `index` says otherwise.
void WriteShards(const CheckpointFolder& folder, const std::string& index) {
  folder.WriteTensors("one.safetensors", {{"a", "U8", {1}, "1"}});
  folder.WriteTensors("two.safetensors", {{"b", "U8", {1}, "2"}, {"c", "U8", {1}, "3"}});
  folder.Write(kIndex, index);
}

TEST(Safetensors, ShardsAreReadThroughTheIndex) {
  const CheckpointFolder folder;
  WriteShards(folder, R"({"metadata":{"total_size":3},
                          "weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"}})");
  const auto files = Safetensors::Open(folder.path());
  ASSERT_TRUE(files.ok()) << files.status();
  EXPECT_EQ(ReadAll(*files, *files->Find("a")) + ReadAll(*files, *files->Find("c")), "13");
}

TEST(Safetensors, ASingleFileIsPreferredToAnIndex) {
  const CheckpointFolder folder;
  WriteShards(folder, "not even JSON");
  folder.WriteTensors(kSingle, TwoTensors());
  EXPECT_TRUE(OpenStatus(folder).ok());
}

TEST(Safetensors, EveryFaultOfAnIndexIsRefusedWithItsReason) {
  struct Fault {
    std::string index;
    absl::StatusCode code;
    const char* message;
  };
  const std::vector<Fault> faults = {
      {"", absl::StatusCode::kInvalidArgument, "not valid JSON"},
      {"[]", absl::StatusCode::kInvalidArgument, "not a JSON object"},
      {"{}", absl::StatusCode::kInvalidArgument, "weight_map: not an object"},
      {R"({"weight_map":[]})", absl::StatusCode::kInvalidArgument, "weight_map: not an object"},
      {R"({"weight_map":{"a":7}})", absl::StatusCode::kInvalidArgument, "a: not the name of a file"},
      {R"({"weight_map":{"a":"../one.safetensors"}})", absl::StatusCode::kInvalidArgument, "not the name of a file"},
      {R"({"weight_map":{"a":"/etc/passwd"}})", absl::StatusCode::kInvalidArgument, "not the name of a file"},
      {R"({"weight_map":{"a":".."}})", absl::StatusCode::kInvalidArgument, "not the name of a file"},
      {R"({"weight_map":{"a":"one.bin"}})", absl::StatusCode::kFailedPrecondition, "pickle files are not read"},
      {R"({"weight_map":{"a":"one.safetensors","b":"3.safetensors","c":"4.safetensors"}})",
       absl::StatusCode::kFailedPrecondition, "missing shards: 3.safetensors, 4.safetensors"},
      {R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})", absl::StatusCode::kFailedPrecondition,
       "disagrees with the shards on c (not in the index)"},
      {R"({"weight_map":{"a":"two.safetensors","b":"two.safetensors","c":"one.safetensors"}})",
       absl::StatusCode::kFailedPrecondition, "disagrees with the shards on a (two.safetensors), c (one.safetensors)"},
      {R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors","d":"two.safetensors"}})",
       absl::StatusCode::kFailedPrecondition, "disagrees with the shards on d (two.safetensors)"},
  };
  for (const Fault& fault : faults) {
    SCOPED_TRACE(fault.index);
    const CheckpointFolder folder;
    WriteShards(folder, fault.index);
    const absl::Status status = OpenStatus(folder);
    EXPECT_EQ(status.code(), fault.code) << status;
    EXPECT_THAT(MessageOf(status), AllOf(HasSubstr(fault.message), Not(HasSubstr(folder.path()))));
  }
}

TEST(Safetensors, ATensorInTwoShardsIsRefused) {
  const CheckpointFolder folder;
  folder.WriteTensors("one.safetensors", {{"a", "U8", {1}, "1"}});
  folder.WriteTensors("two.safetensors", {{"a", "U8", {1}, "2"}, {"b", "U8", {1}, "3"}});
  folder.Write(kIndex, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_THAT(MessageOf(OpenStatus(folder)), HasSubstr("two.safetensors: a: also in one.safetensors"));
}

}  // namespace
}  // namespace automodeld

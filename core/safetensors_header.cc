#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <utility>

#include "core/listing.h"
#include "core/safetensors.h"
#include "core/status.h"

namespace automodeld {

namespace {

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr size_t kMaxDimensions = 64;
constexpr int kMaxDepth = 128;  // of fields that nobody knows

constexpr StoredType kTypes[] = {
    {"F64", 64, true},    {"F32", 32, true},     {"F16", 16, true},     {"BF16", 16, true},    {"F8_E4M3", 8, true},
    {"F8_E5M2", 8, true}, {"F8_E8M0", 8, false}, {"F6_E2M3", 6, false}, {"F6_E3M2", 6, false}, {"F4", 4, false},
    {"C64", 64, false},   {"I64", 64, false},    {"U64", 64, false},    {"I32", 32, false},    {"U32", 32, false},
    {"I16", 16, false},   {"U16", 16, false},    {"I8", 8, false},      {"U8", 8, false},      {"BOOL", 8, false},
};

const StoredType* FindType(const std::string& name) {
  const auto* found = std::ranges::find_if(kTypes, [&](const StoredType& type) { return type.name == name; });
  return found == std::end(kTypes) ? nullptr : found;
}

// The header's object, event by event: a hundred megabytes of JSON never become a tree.
class HeaderParser final : public nlohmann::json_sax<nlohmann::json> {
 public:
  std::vector<StoredTensor> tensors;
  std::string error;

  bool null() override { return Scalar(); }
  bool boolean(bool) override { return Scalar(); }
  bool number_integer(number_integer_t) override { return Scalar(); }
  bool number_float(number_float_t, const string_t&) override { return Scalar(); }
  bool binary(binary_t&) override { return Scalar(); }

  bool number_unsigned(number_unsigned_t value) override {
    if (numbers_ == nullptr) return Scalar();
    if (numbers_->size() == kMaxDimensions) return Fail("has more than 64 dimensions");
    numbers_->push_back(value);
    return true;
  }

  bool string(string_t& value) override {
    if (depth_ == 2 && in_metadata_) return true;
    if (depth_ != 2 || field_ != "dtype") return Scalar();
    tensors.back().type = FindType(value);
    if (tensors.back().type == nullptr) return Fail(fmt::format("dtype {} is not known", Shortened(value)));
    return true;
  }

  bool key(string_t& name) override {
    if (depth_ == 1) return BeginEntry(name);
    if (depth_ != 2 || in_metadata_) return true;
    field_ = name;
    if (IsKnown() && !fields_.insert(name).second) return Fail(fmt::format("{} occurs twice", name));
    return true;
  }

  bool start_object(size_t) override {
    ++depth_;
    if (depth_ <= 2) return true;
    return !in_metadata_ && !IsKnown() && depth_ < kMaxDepth ? true : Fail("is malformed");
  }

  bool end_object() override {
    if (depth_ == 2 && !in_metadata_ && !EndTensor()) return false;
    --depth_;
    return true;
  }

  bool start_array(size_t) override {
    if (depth_ < 2 || in_metadata_ || depth_ >= kMaxDepth || numbers_ != nullptr) return Fail("is malformed");
    if (depth_ == 2 && field_ == "dtype") return Fail("dtype is not a string");
    if (depth_ == 2 && field_ == "shape") numbers_ = &shape_;
    if (depth_ == 2 && field_ == "data_offsets") numbers_ = &offsets_;
    ++depth_;
    return true;
  }

  bool end_array() override {
    numbers_ = nullptr;
    --depth_;
    return true;
  }

  bool parse_error(size_t position, const std::string&, const nlohmann::json::exception&) override {
    error = fmt::format("header is not valid JSON at byte {}", position);
    return false;
  }

 private:
  bool IsKnown() const { return field_ == "dtype" || field_ == "shape" || field_ == "data_offsets"; }

  bool Fail(const std::string& what) {
    const std::string name = tensors.empty() || in_metadata_ ? "__metadata__" : Shortened(tensors.back().name);
    error = depth_ == 0 ? "header is not an object" : fmt::format("header: {}: {}", name, what);
    return false;
  }

  // Any value but those handled elsewhere: allowed only in a field that nobody knows.
  bool Scalar() {
    if (depth_ >= 2 && !in_metadata_ && !IsKnown()) return true;
    return Fail(in_metadata_ ? "is not a map of strings" : fmt::format("{} is malformed", Shortened(field_)));
  }

  bool BeginEntry(const std::string& name) {
    in_metadata_ = name == "__metadata__";
    field_.clear();
    if (in_metadata_) return true;
    fields_.clear();
    shape_.clear();
    offsets_.clear();
    tensors.emplace_back().name = name;
    return names_.insert(name).second ? true : Fail("occurs twice");
  }

  bool EndTensor() {
    if (fields_.size() != 3) return Fail("lacks dtype, shape or data_offsets");
    if (offsets_.size() != 2 || offsets_[1] < offsets_[0]) return Fail("data_offsets are not [begin, end]");
    StoredTensor& tensor = tensors.back();
    for (const uint64_t dim : shape_) {
      if (dim > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) return Fail("shape is too large");
      tensor.shape.push_back(static_cast<int64_t>(dim));
    }
    tensor.begin = offsets_[0];
    tensor.bytes = offsets_[1] - offsets_[0];
    return true;
  }

  int depth_ = 0;
  bool in_metadata_ = false;
  std::string field_;
  std::set<std::string> fields_;  // of the tensor at hand
  std::set<std::string> names_;
  std::vector<uint64_t> shape_;
  std::vector<uint64_t> offsets_;
  std::vector<uint64_t>* numbers_ = nullptr;  // the list at hand
};

// Nothing: more bits than 64 bits can count.
std::optional<uint64_t> NumBits(const StoredTensor& tensor) {
  uint64_t bits = 1;
  for (const int64_t dim : tensor.shape) {
    if (__builtin_mul_overflow(bits, static_cast<uint64_t>(dim), &bits)) return std::nullopt;
  }
  if (__builtin_mul_overflow(bits, tensor.type->bits, &bits)) return std::nullopt;
  return bits;
}

absl::Status Broken(const File& file, const std::string& what) {
  return absl::FailedPreconditionError(fmt::format("{}: {}", file.name(), what));
}

// The tensors, sorted by offset, must fill [0, data_bytes) one after the other.
absl::Status CheckTiling(const File& file, const std::vector<StoredTensor>& tensors, uint64_t data_bytes) {
  uint64_t end = 0;
  for (const StoredTensor& tensor : tensors) {
    const std::string name = Shortened(tensor.name);
    const std::optional<uint64_t> bits = NumBits(tensor);
    if (!bits.has_value()) return Broken(file, fmt::format("{}: shape is too large", name));
    if (*bits % 8 != 0) return Broken(file, fmt::format("{}: {} bits are no whole number of bytes", name, *bits));
    if (*bits / 8 != tensor.bytes) {
      return Broken(
          file, fmt::format("{}: {} bytes in the file, but shape and dtype make {}", name, tensor.bytes, *bits / 8));
    }
    if (tensor.begin != end) return Broken(file, fmt::format("{}: begins at {}, expected {}", name, tensor.begin, end));
    end += tensor.bytes;
  }
  if (end == data_bytes) return absl::OkStatus();
  return Broken(file, fmt::format("{} bytes of data, but the header describes {}", data_bytes, end));
}

absl::StatusOr<std::string> ReadHeaderText(const File& file) {
  uint64_t length = 0;
  static_assert(std::endian::native == std::endian::little);
  if (file.size() < kLengthBytes) return Broken(file, fmt::format("{} bytes, too short for a header", file.size()));
  RETURN_IF_ERROR(file.Read(0, std::as_writable_bytes(std::span(&length, 1))));
  if (length > kMaxHeaderBytes)
    return Broken(file, fmt::format("header of {} bytes is outside 2..{}", length, kMaxHeaderBytes));
  if (length > file.size() - kLengthBytes) {
    return Broken(file, fmt::format("header of {} bytes does not fit into {}", length, file.size()));
  }
  std::string text(length, '\0');
  RETURN_IF_ERROR(file.Read(kLengthBytes, std::as_writable_bytes(std::span(text))));
  if (!text.starts_with('{')) return Broken(file, "header does not begin with '{'");
  // nlohmann::json takes a zero byte for the end of its input.
  if (text.find('\0') != std::string::npos) return Broken(file, "header is not valid JSON");
  return text;
}

}  // namespace

absl::StatusOr<std::vector<StoredTensor>> ReadSafetensorsHeader(const File& file) {
  ASSIGN_OR_RETURN(const std::string text, ReadHeaderText(file));
  HeaderParser parser;
  if (!nlohmann::json::sax_parse(text, &parser)) return Broken(file, parser.error);
  std::vector<StoredTensor> tensors = std::move(parser.tensors);
  std::ranges::sort(tensors, {}, [](const StoredTensor& t) { return std::pair(t.begin, t.begin + t.bytes); });
  const uint64_t data_begin = kLengthBytes + text.size();
  RETURN_IF_ERROR(CheckTiling(file, tensors, file.size() - data_begin));
  for (StoredTensor& tensor : tensors) tensor.begin += data_begin;
  return tensors;
}

}  // namespace automodeld

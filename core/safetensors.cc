#include "core/safetensors.h"

#include <absl/strings/match.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <set>
#include <utility>

#include "core/config.h"
#include "core/listing.h"
#include "core/status.h"

namespace automodeld {

namespace {

constexpr char kSingle[] = "model.safetensors";
constexpr char kIndex[] = "model.safetensors.index.json";
constexpr size_t kMaxShards = 1000;
constexpr size_t kMaxNameBytes = 200;

bool IsPickle(const std::string& name) {
  if (name == "training_args.bin") return false;
  for (const char* suffix : {".bin", ".pt", ".pth", ".ckpt", ".pkl"}) {
    if (absl::EndsWith(name, suffix)) return true;
  }
  return false;
}

std::optional<std::string> FindPickle(const std::string& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (IsPickle(it->path().filename().string())) names.insert(it->path().filename().string());
  }
  if (names.empty()) return std::nullopt;
  return *names.begin();
}

absl::Status NoWeights(const std::string& folder) {
  if (const auto pickle = FindPickle(folder)) {
    return absl::FailedPreconditionError(
        fmt::format("{}: pickle files are not read; convert to safetensors", Shortened(*pickle)));
  }
  return absl::NotFoundError(fmt::format("{}: no such file, nor {}", kSingle, kIndex));
}

// weight_map: tensor -> shard.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& folder) {
  ASSIGN_OR_RETURN(const Config index, Config::Read(folder, kIndex));
  const auto weights = index.json().find("weight_map");
  if (weights == index.json().end() || !weights->is_object()) {
    return absl::InvalidArgumentError(fmt::format("{}: weight_map: not an object", kIndex));
  }
  std::map<std::string, std::string> shards;
  for (const auto& [tensor, shard] : weights->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    if (!IsBareName(name) || name.size() > kMaxNameBytes) {
      return absl::InvalidArgumentError(
          fmt::format("{}: weight_map: {}: not the name of a file in the folder", kIndex, Shortened(tensor)));
    }
    shards.emplace(tensor, name);
  }
  return shards;
}

absl::StatusOr<std::vector<std::string>> ShardNames(const std::string& folder,
                                                    const std::map<std::string, std::string>& index) {
  std::set<std::string> names;
  for (const auto& [tensor, shard] : index) names.insert(shard);
  if (names.size() > kMaxShards) {
    return absl::InvalidArgumentError(fmt::format("{}: {} shards is outside 0..{}", kIndex, names.size(), kMaxShards));
  }
  std::vector<std::string> missing;
  for (const std::string& name : names) {
    if (IsPickle(name)) {
      return absl::FailedPreconditionError(fmt::format("{}: pickle files are not read; convert to safetensors", name));
    }
    std::error_code error;
    if (!std::filesystem::exists(folder + "/" + name, error)) missing.push_back(name);
  }
  if (missing.empty()) return std::vector<std::string>(names.begin(), names.end());
  return absl::FailedPreconditionError(fmt::format("{}: missing shards: {}", kIndex, Listed(missing)));
}

}  // namespace

absl::StatusOr<Safetensors> Safetensors::Open(const std::string& folder) {
  Safetensors files;
  absl::Status status = files.AddShard(folder, kSingle);
  if (absl::IsNotFound(status)) {
    status = files.AddIndexed(folder);
    if (absl::IsNotFound(status)) return NoWeights(folder);
  }
  if (!status.ok()) return status;
  return files;
}

absl::Status Safetensors::AddShard(const std::string& folder, const std::string& name) {
  ASSIGN_OR_RETURN(File file, File::Open(folder, name));
  ASSIGN_OR_RETURN(std::vector<StoredTensor> found, ReadSafetensorsHeader(file));
  for (StoredTensor& tensor : found) {
    tensor.shard = shards_.size();
    const auto [at, is_new] = tensors_.emplace(tensor.name, tensor);
    if (!is_new) {
      return absl::FailedPreconditionError(
          fmt::format("{}: {}: also in {}", name, Shortened(tensor.name), shards_[at->second.shard].name()));
    }
  }
  shards_.push_back(std::move(file));
  return absl::OkStatus();
}

absl::Status Safetensors::AddIndexed(const std::string& folder) {
  ASSIGN_OR_RETURN(const auto index, ReadIndex(folder));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ShardNames(folder, index));
  for (const std::string& name : names) RETURN_IF_ERROR(AddShard(folder, name));
  std::vector<std::string> differ;
  for (const auto& [tensor, shard] : index) {
    const StoredTensor* stored = Find(tensor);
    if (stored == nullptr || shards_[stored->shard].name() != shard)
      differ.push_back(fmt::format("{} ({})", tensor, shard));
  }
  for (const auto& [name, stored] : tensors_) {
    if (!index.contains(name)) differ.push_back(fmt::format("{} (not in the index)", name));
  }
  if (differ.empty()) return absl::OkStatus();
  return absl::FailedPreconditionError(fmt::format("{}: disagrees with the shards on {}", kIndex, Listed(differ)));
}

const StoredTensor* Safetensors::Find(const std::string& name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

const StoredTensor* Safetensors::FirstFloating() const {
  const StoredTensor* first = nullptr;
  for (const auto& [name, tensor] : tensors_) {
    if (!tensor.type->floating) continue;
    if (first == nullptr || std::pair(tensor.shard, tensor.begin) < std::pair(first->shard, first->begin))
      first = &tensor;
  }
  return first;
}

absl::Status Safetensors::Read(const StoredTensor& tensor, uint64_t offset, std::span<std::byte> out) const {
  if (offset > tensor.bytes || out.size() > tensor.bytes - offset) {
    return absl::OutOfRangeError(
        fmt::format("{}: bytes {}..{} of {}", tensor.name, offset, offset + out.size(), tensor.bytes));
  }
  return shards_[tensor.shard].ReadParallel(tensor.begin + offset, out);
}

absl::StatusOr<bool> Safetensors::Equal(const StoredTensor& a, const StoredTensor& b,
                                        const std::function<absl::Status()>& check) const {
  constexpr uint64_t kPiece = 8 << 20;
  if (a.type != b.type || a.shape != b.shape) return false;
  std::vector<std::byte> piece_a(std::min(a.bytes, kPiece)), piece_b(piece_a.size());
  for (uint64_t offset = 0; offset < a.bytes; offset += kPiece) {
    const size_t size = std::min(a.bytes - offset, kPiece);
    RETURN_IF_ERROR(check());
    RETURN_IF_ERROR(Read(a, offset, std::span(piece_a).first(size)));
    RETURN_IF_ERROR(Read(b, offset, std::span(piece_b).first(size)));
    if (!std::equal(piece_a.begin(), piece_a.begin() + static_cast<std::ptrdiff_t>(size), piece_b.begin()))
      return false;
  }
  return true;
}

}  // namespace automodeld

#include "server/model_path.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

namespace automodeld {
namespace {

namespace fs = std::filesystem;
using testing::EndsWith;
using testing::HasSubstr;

constexpr char kCommit[] = "c1899de289a04d12100db370d81485cdf75e47ca";
constexpr char kOther[] = "0123456789abcdef0123456789abcdef01234567";

// A --model-root that is a Hugging Face cache, with a plain folder in it.
class ModelPath : public testing::Test {
 protected:
  ModelPath() {
    std::string name = testing::TempDir() + "/root-XXXXXX";
    if (mkdtemp(name.data()) == nullptr) ADD_FAILURE() << "no temporary folder";
    root_ = name;
    Write("plain/config.json", "{}");
    Write("models--org--name/blobs/abc", "{}");
    Write("models--org--name/refs/main", std::string(kCommit) + "\n");
    Write("models--org--name/refs/refs/pr/1", kOther);
    for (const char* commit : {kCommit, kOther}) {
      const fs::path snapshot = root_ / "models--org--name/snapshots" / commit;
      fs::create_directories(snapshot);
      fs::create_symlink("../../blobs/abc", snapshot / "config.json");
    }
  }
  ~ModelPath() override { fs::remove_all(root_); }

  void Write(const std::string& name, const std::string& content) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << content;
  }

  std::string Resolved(const std::string& path, const std::string& revision = "") const {
    const auto folder = ResolveModelPath(root_, path, revision);
    return folder.ok() ? folder->string() : std::string(folder.status().message());
  }

  absl::StatusCode CodeOf(const std::string& path, const std::string& revision = "") const {
    return ResolveModelPath(root_, path, revision).status().code();
  }

  fs::path root_;
};

TEST_F(ModelPath, AFolderIsTakenAsItIs) {
  EXPECT_THAT(Resolved("plain"), EndsWith("/plain"));
  EXPECT_THAT(Resolved((root_ / "plain").string()), EndsWith("/plain"));
  EXPECT_THAT(Resolved("org/../plain"), EndsWith("/plain"));
}

TEST_F(ModelPath, ACachedHubIdIsItsSnapshotOfMainWhoseFilesAreLinks) {
  EXPECT_THAT(Resolved("org/name"), EndsWith(std::string("models--org--name/snapshots/") + kCommit));
  EXPECT_THAT(Resolved("org/name", "main"), EndsWith(kCommit));
}

TEST_F(ModelPath, ARevisionIsABranchATagOrACommit) {
  EXPECT_THAT(Resolved("org/name", "refs/pr/1"), EndsWith(kOther));
  EXPECT_THAT(Resolved("org/name", kOther), EndsWith(kOther));
}

TEST_F(ModelPath, AnUnknownRevisionIsToldTheKnownOnes) {
  for (const std::string revision : {"v2", "ffff"}) {
    EXPECT_EQ(CodeOf("org/name", revision), absl::StatusCode::kNotFound);
    EXPECT_THAT(
        Resolved("org/name", revision),
        HasSubstr("revision: '" + revision + "' of 'org/name' is not in the cache; there are: main, refs/pr/1"));
  }
}

TEST_F(ModelPath, ARevisionOfAFolderIsRefused) {
  EXPECT_EQ(CodeOf("plain", "main"), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Resolved("plain", "main"), HasSubstr("revision: 'plain' is a folder"));
}

TEST_F(ModelPath, WhatIsNeitherIsNotFound) {
  EXPECT_EQ(CodeOf("org/other"), absl::StatusCode::kNotFound);
  EXPECT_THAT(Resolved("org/other"), HasSubstr("neither a folder nor a cached Hub model 'org/other'"));
}

TEST_F(ModelPath, NothingLeadsOutOfTheRoot) {
  fs::create_directory_symlink("/usr", root_ / "link");
  fs::create_directory_symlink("/usr", root_ / "models--evil--link");
  for (const std::string path : {"..", "../x", "/usr", "link", "evil/link"}) {
    EXPECT_EQ(CodeOf(path), absl::StatusCode::kInvalidArgument) << path;
    EXPECT_THAT(Resolved(path), HasSubstr("leads out of --model-root")) << path;
  }
  for (const std::string revision : {"../../..", "../blobs/../../../plain", "/usr"}) {
    EXPECT_EQ(CodeOf("org/name", revision), absl::StatusCode::kInvalidArgument) << revision;
    EXPECT_THAT(Resolved("org/name", revision), HasSubstr("revision: ")) << revision;
  }
}

TEST_F(ModelPath, ACommitThatIsNoBareNameLeadsNowhere) {
  Write("models--org--name/refs/evil", "../../../plain");
  Write("models--org--name/refs/long", std::string(300, 'a'));
  EXPECT_EQ(CodeOf("org/name", "evil"), absl::StatusCode::kNotFound);
  EXPECT_EQ(CodeOf("org/name", "long"), absl::StatusCode::kNotFound);
}

TEST_F(ModelPath, AFileThatLinksOutOfTheRootIsRefused) {
  fs::create_symlink("/etc/hostname", root_ / "plain/tokenizer.json");
  EXPECT_EQ(CodeOf("plain"), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Resolved("plain"), HasSubstr("path: 'plain/tokenizer.json' leads out of --model-root"));
}

}  // namespace
}  // namespace automodeld

#include "core/op_library.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>

#include "tests/loading/checkpoint_folder.h"

namespace automodeld {
namespace {

using testing::AllOf;
using testing::HasSubstr;
using testing::Not;
using testing::StartsWith;

TEST(LoadOpLibrary, WhatIsNoLibraryIsRefusedByItsBareNameWithTheReason) {
  const CheckpointFolder folder;
  folder.Write("empty.so", "");
  folder.Write("text.so", std::string(4096, 'x'));
  folder.Write("cut.so",
               "\x7f"
               "ELF\x02\x01\x01");
  for (const std::string name : {"empty.so", "text.so", "cut.so"}) {
    const absl::Status status = LoadOpLibrary(folder.path() + "/" + name);
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(status.message()), AllOf(StartsWith(name + ": "), Not(HasSubstr(folder.path()))));
  }
}

TEST(LoadOpLibrary, WhatIsNoFileIsRefusedWithoutWaiting) {
  const CheckpointFolder folder;
  EXPECT_EQ(LoadOpLibrary(folder.path() + "/gone.so").message(), "gone.so: no such file");
  ASSERT_EQ(mkfifo((folder.path() + "/pipe.so").c_str(), 0600), 0);
  EXPECT_EQ(LoadOpLibrary(folder.path() + "/pipe.so").message(), "pipe.so: not a file");
  EXPECT_THAT(std::string(LoadOpLibrary(folder.path()).message()), HasSubstr(": not a file"));
}

TEST(LoadOpLibrary, ABareNameIsAFileHereAndNotSearchedFor) {
  EXPECT_EQ(LoadOpLibrary("libm.so.6").message(), "libm.so.6: no such file");
}

}  // namespace
}  // namespace automodeld

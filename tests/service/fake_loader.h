// Loading without checkpoints: every model is a FakeRunner with a tokenizer whose tokens are bytes. The model's name
// says what it is:
//   encoder…      embeds, does not generate
//   decoder…      generates and embeds
//   idsonly…      a decoder without a tokenizer
//   broken…       FAILED_PRECONDITION, with the checkpoint's path in the message
//   throws…       throws, as libtorch might
//
//   FakeLoader loader;
//   Daemon::Start(config, loader.function());
//   loader.steps("decoder")->Hold();
#ifndef TESTS_SERVICE_FAKE_LOADER_H_
#define TESTS_SERVICE_FAKE_LOADER_H_

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/auto_model.h"
#include "core/engine/fake_runner.h"

namespace automodeld {

inline constexpr int kFakeVocab = 258;      // bytes, <s> = 256, </s> = 257
inline constexpr int kFakeModelLen = 4096;  // tokens
inline constexpr int kFakeHidden = 8;

class FakeLoader {
 public:
  FakeLoader();
  LoadFunction function();

  std::shared_ptr<FakeSteps> steps(const std::string& model) const;

  // From now on loads begin, report progress, and wait.
  void Hold();
  void Release();
  void AwaitLoading(const std::string& model);  // until its load waits
  void AwaitEnded(const std::string& model);    // until its load has ended, well or not

  std::vector<LoadOptions> requests() const;  // of all loads so far

  RunnerLimits limits;        // of decoders
  NextToken next_token;       // of decoders
  int64_t fail_wait_at = -1;  // number of the step that fails
  std::vector<TokenId> eos_token_ids = {257};

 private:
  absl::StatusOr<LoadedModel> Load(const LoadOptions& options, const LoadContext& context);
  absl::Status Wait(const LoadOptions& options, const LoadContext& context);
  LoadedModel Make(const LoadOptions& options);

  const std::shared_ptr<const Tokenizer> tokenizer_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  bool held_ = false;
  std::map<std::string, int> waiting_;
  std::map<std::string, int> ended_;
  std::map<std::string, std::shared_ptr<FakeSteps>> steps_;
  std::vector<LoadOptions> requests_;
};

}  // namespace automodeld

#endif  // TESTS_SERVICE_FAKE_LOADER_H_

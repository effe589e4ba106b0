// Finds stop strings in a text that comes in pieces, and holds back only what may still become one.
//
//   StopFinder stops({"\n\nUser:"});
//   stops.Push("Hello.\n");      // "Hello."; "\n" may be the beginning of the stop string
//   stops.Push("\nUser: hi");    // "", and found() from here on
//
// The outcome does not depend on where the text is cut: of several stop strings the one that is complete first ends the
// text, of those complete at once the longest. All texts are UTF-8 of whole characters.
#ifndef CORE_ENGINE_STOP_FINDER_H_
#define CORE_ENGINE_STOP_FINDER_H_

#include <string>
#include <string_view>
#include <vector>

namespace automodeld {

class StopFinder {
 public:
  explicit StopFinder(std::vector<std::string> stops);  // empty strings are ignored

  // Returns the text that is certain: all before a stop string once one is found, and nothing after that.
  std::string Push(std::string_view text);
  // The text has ended: returns what was held back. Empty if a stop string was found.
  std::string Flush();

  bool found() const { return found_; }

 private:
  size_t FindStop() const;  // where in held_ the stop string begins, or npos
  size_t HeldLength() const;

  std::vector<std::string> stops_;
  std::string held_;
  bool found_ = false;
};

}  // namespace automodeld

#endif  // CORE_ENGINE_STOP_FINDER_H_

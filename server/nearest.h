// The known name that someone who wrote another one probably meant.
//
//   Nearest("max_que_size", names);     // "max_queue_size"
//   DidYouMean("max_que_size", names);  // `; did you mean "max_queue_size"?`, or nothing
#ifndef SERVER_NEAREST_H_
#define SERVER_NEAREST_H_

#include <string>
#include <vector>

namespace automodeld {

// The name with the fewest edits; empty if even that one takes more than two, or a third of its characters.
std::string Nearest(const std::string& name, const std::vector<std::string>& known);

std::string DidYouMean(const std::string& name, const std::vector<std::string>& known);

}  // namespace automodeld

#endif  // SERVER_NEAREST_H_

// Names that files hold, in messages: cut where they are long, and listed up to a limit.
//
//   Listed({"a", "b", ...});  // "a, b, and 3 more"
//
// Torch-free.
#ifndef CORE_LISTING_H_
#define CORE_LISTING_H_

#include <string>
#include <vector>

namespace automodeld {

// At most 200 bytes of `name`, never half a UTF-8 character, then "..." if there was more.
std::string Shortened(const std::string& name);

// At most 20 of `names` and about 2000 bytes, each shortened, then how many more there are.
std::string Listed(const std::vector<std::string>& names);

}  // namespace automodeld

#endif  // CORE_LISTING_H_

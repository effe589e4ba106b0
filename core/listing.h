// Names that files hold, in messages: cut where they are long. All are listed, as far as any model goes; the limit is
// there for files made to be hostile.
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

// Of an exception's text: libtorch's goes on with a stack trace.
std::string FirstLine(const std::string& text);

// About 512 KiB of `names`, each shortened, then how many more there are.
std::string Listed(const std::vector<std::string>& names);

}  // namespace automodeld

#endif  // CORE_LISTING_H_

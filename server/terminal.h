// Where a command reads and writes: colours, a progress bar and tables, on a terminal; plain text everywhere else.
//
//   Terminal terminal = Terminal::OfProcess(environment);
//   terminal.out << terminal.Red("unprotected") << "\n";    // red on a terminal, unless NO_COLOR is set
//   ProgressBar bar(terminal);                              // nothing at all unless stderr is a terminal
//   bar.Show("weights", done, total, seconds);
//
// One thread.
#ifndef SERVER_TERMINAL_H_
#define SERVER_TERMINAL_H_

#include <cstdint>
#include <istream>
#include <map>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

namespace automodeld {

using Environment = std::map<std::string, std::string>;

struct Terminal {
  std::istream& in;
  std::ostream& out;
  std::ostream& err;
  bool err_is_terminal = false;
  bool colour = false;      // of `out`
  bool err_colour = false;  // of `err`

  // Standard input, output and error. NO_COLOR (not empty) and TERM=dumb turn colours off.
  static Terminal OfProcess(const Environment& environment);

  std::string Red(std::string_view text) const;
  std::string Bold(std::string_view text) const;
};

// One line on stderr that is drawn over until it goes: `weights  [#####     ]  50 %  1.0 of 2.0 GiB  3 s`.
class ProgressBar {
 public:
  explicit ProgressBar(Terminal& terminal) : terminal_(terminal) {}
  ~ProgressBar() { Clear(); }
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  // Bytes of this phase; without a total only phase and time are shown.
  void Show(std::string_view phase, int64_t done_bytes, int64_t total_bytes, double seconds);
  // The same for a number of things, such as "requests".
  void ShowCount(std::string_view what, int64_t done, int64_t total, double seconds);
  void Clear();

 private:
  void Draw(const std::string& line);

  Terminal& terminal_;
  bool drawn_ = false;
};

// "0 B", "1.5 KiB", "16.1 GiB".
std::string HumanBytes(int64_t bytes);

// "938", "6.9 M", "8.0 B".
std::string HumanCount(int64_t count);

// Columns as wide as their widest cell, two blanks between them; the first row is the heading. Columns whose number is
// in `right` are set to the right. Widths count characters of UTF-8, not bytes.
std::string Table(const std::vector<std::vector<std::string>>& rows, const std::vector<size_t>& right = {});

// At most `width` characters of `text`, the last one "…" if it was cut; control characters become blanks.
std::string Shortened(std::string_view text, size_t width);

}  // namespace automodeld

#endif  // SERVER_TERMINAL_H_

#include "server/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <iostream>

namespace automodeld {
namespace {

bool IsSet(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found != environment.end() && !found->second.empty();
}

bool IsDumb(const Environment& environment) {
  const auto found = environment.find("TERM");
  return found != environment.end() && found->second == "dumb";
}

std::string Coloured(bool colour, const char* code, std::string_view text) {
  return colour ? fmt::format("\033[{}m{}\033[0m", code, text) : std::string(text);
}

bool ContinuesCharacter(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) == 0x80U; }

size_t NumCharacters(std::string_view text) {
  return text.size() - static_cast<size_t>(std::count_if(text.begin(), text.end(), ContinuesCharacter));
}

std::string Bar(double share) {
  constexpr int kWidth = 24;
  const int full = static_cast<int>(std::clamp(share, 0.0, 1.0) * kWidth);
  return fmt::format("[{:#<{}}{: <{}}]", "", full, "", kWidth - full);
}

std::vector<size_t> ColumnWidths(const std::vector<std::vector<std::string>>& rows) {
  std::vector<size_t> widths;
  for (const auto& row : rows) {
    widths.resize(std::max(widths.size(), row.size()));
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], NumCharacters(row[i]));
  }
  return widths;
}

std::string Row(const std::vector<std::string>& cells, const std::vector<size_t>& widths,
                const std::vector<size_t>& right) {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) {
    const std::string blanks(widths[i] - NumCharacters(cells[i]), ' ');
    const bool to_the_right = std::find(right.begin(), right.end(), i) != right.end();
    line += (i == 0 ? "" : "  ") + (to_the_right ? blanks + cells[i] : cells[i] + blanks);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return line + "\n";
}

}  // namespace

Terminal Terminal::OfProcess(const Environment& environment) {
  const bool out = isatty(STDOUT_FILENO) == 1;
  const bool err = isatty(STDERR_FILENO) == 1;
  const bool colour = !IsSet(environment, "NO_COLOR") && !IsDumb(environment);
  return {std::cin, std::cout, std::cerr, err, out && colour, err && colour};
}

std::string Terminal::Red(std::string_view text) const { return Coloured(colour, "31", text); }
std::string Terminal::Bold(std::string_view text) const { return Coloured(colour, "1", text); }

void ProgressBar::Show(std::string_view phase, int64_t done_bytes, int64_t total_bytes, double seconds) {
  if (total_bytes <= 0) return Draw(fmt::format("{:<10} {:.0f} s", phase, seconds));
  const double share = static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
  Draw(fmt::format("{:<10} {} {:3.0f} %  {} of {}  {:.0f} s", phase, Bar(share), 100 * share, HumanBytes(done_bytes),
                   HumanBytes(total_bytes), seconds));
}

void ProgressBar::ShowCount(std::string_view what, int64_t done, int64_t total, double seconds) {
  const double share = total > 0 ? static_cast<double>(done) / static_cast<double>(total) : 0;
  Draw(fmt::format("{:<10} {} {:3.0f} %  {} of {}  {:.0f} s", what, Bar(share), 100 * share, done, total, seconds));
}

void ProgressBar::Draw(const std::string& line) {
  if (!terminal_.err_is_terminal) return;
  terminal_.err << "\r" << line << "\033[K" << std::flush;
  drawn_ = true;
}

void ProgressBar::Clear() {
  if (drawn_) terminal_.err << "\r\033[K" << std::flush;
  drawn_ = false;
}

std::string HumanBytes(int64_t bytes) {
  constexpr std::array kUnits = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return fmt::format("{} B", bytes);
  double value = static_cast<double>(bytes) / 1024;
  size_t unit = 0;
  for (; value >= 1024 && unit + 1 < kUnits.size(); ++unit) value /= 1024;
  return fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string HumanCount(int64_t count) {
  const auto value = static_cast<double>(count);
  if (count >= 1'000'000'000) return fmt::format("{:.1f} B", value / 1e9);
  if (count >= 1'000'000) return fmt::format("{:.1f} M", value / 1e6);
  if (count >= 10'000) return fmt::format("{:.1f} k", value / 1e3);
  return fmt::format("{}", count);
}

std::string Table(const std::vector<std::vector<std::string>>& rows, const std::vector<size_t>& right) {
  const std::vector<size_t> widths = ColumnWidths(rows);
  std::string text;
  for (const auto& row : rows) text += Row(row, widths, right);
  return text;
}

std::string Shortened(std::string_view text, size_t width) {
  std::string plain(text);
  std::replace_if(
      plain.begin(), plain.end(), [](char c) { return static_cast<unsigned char>(c) < 0x20; }, ' ');
  if (NumCharacters(plain) <= width) return plain;
  size_t end = 0;
  for (size_t characters = 0; end < plain.size(); ++end) {
    if (!ContinuesCharacter(plain[end]) && characters++ + 1 == width) break;
  }
  return plain.substr(0, end) + "…";
}

}  // namespace automodeld

#include "server/similarity.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "server/terminal.h"

namespace automodeld {
namespace {

double Dot(const std::vector<float>& a, const std::vector<float>& b) {
  return std::inner_product(a.begin(), a.end(), b.begin(), 0.0);
}

std::string Cell(const std::vector<float>& a, const std::vector<float>& b) {
  return a.empty() || b.empty() ? "-" : fmt::format("{:.3f}", Cosine(a, b));
}

}  // namespace

double Cosine(const std::vector<float>& a, const std::vector<float>& b) {
  const double lengths = std::sqrt(Dot(a, a) * Dot(b, b));
  return lengths > 0 ? Dot(a, b) / lengths : 0;
}

std::string SimilarityTable(const std::vector<std::string>& texts, const std::vector<std::vector<float>>& vectors) {
  std::vector<std::vector<std::string>> rows = {{"", ""}};
  std::vector<size_t> numbers = {0};
  for (size_t i = 0; i < texts.size(); ++i) {
    rows.front().push_back(fmt::format("{}", i + 1));
    numbers.push_back(i + 2);
    std::vector<std::string> row = {fmt::format("{}", i + 1), Shortened(texts[i], 40)};
    for (const auto& other : vectors) row.push_back(Cell(vectors[i], other));
    rows.push_back(std::move(row));
  }
  return Table(rows, numbers);
}

}  // namespace automodeld

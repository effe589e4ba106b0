// Cosine similarities between vectors, as numbers and as a table.
#ifndef SERVER_SIMILARITY_H_
#define SERVER_SIMILARITY_H_

#include <string>
#include <vector>

namespace automodeld {

// a·b / (|a| |b|), -1..1; 0 where one of them is zero. Both have the same length.
double Cosine(const std::vector<float>& a, const std::vector<float>& b);

//                     1      2
//   1  A cat      1.000  0.812
//   2  A kitten   0.812  1.000
// A vector without numbers (its text failed) has "-" in its row and column.
std::string SimilarityTable(const std::vector<std::string>& texts, const std::vector<std::vector<float>>& vectors);

}  // namespace automodeld

#endif  // SERVER_SIMILARITY_H_

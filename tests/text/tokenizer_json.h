// Small tokenizer.json files, one of each kind that checkpoints have.
#ifndef TESTS_TEXT_TOKENIZER_JSON_H_
#define TESTS_TEXT_TOKENIZER_JSON_H_

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

namespace automodeld {

using Json = nlohmann::ordered_json;

inline Json AddedToken(int id, const std::string& content, bool special = true) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

// The character that byte-level BPE writes for a byte.
inline std::string ByteCharacter(int byte) {
  const auto is_plain = [](int b) { return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || (b >= 174 && b <= 255); };
  int code = byte;
  if (!is_plain(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += is_plain(b) ? 0 : 1;
  }
  if (code < 0x80) return {static_cast<char>(code)};
  return {static_cast<char>(0xC0 | (code >> 6)), static_cast<char>(0x80 | (code & 0x3F))};
}

inline std::string ByteCharacters(const std::string& bytes) {
  std::string characters;
  for (const char byte : bytes) characters += ByteCharacter(static_cast<unsigned char>(byte));
  return characters;
}

inline Json EmptyTokenizer(Json model) {
  return {{"version", "1.0"},          {"truncation", nullptr},
          {"padding", nullptr},        {"added_tokens", Json::array()},
          {"normalizer", nullptr},     {"pre_tokenizer", nullptr},
          {"post_processor", nullptr}, {"decoder", nullptr},
          {"model", std::move(model)}};
}

// Adds merges (and their results) to a BPE model: {"a", "b"} makes "ab".
inline void AddMerges(Json& model, const std::vector<std::pair<std::string, std::string>>& merges) {
  for (const auto& [left, right] : merges) {
    model["merges"].push_back(left + " " + right);
    if (!model["vocab"].contains(left + right)) model["vocab"][left + right] = model["vocab"].size();
  }
}

// Merges that make 2, 4, … 2^doublings times `unit`.
inline std::vector<std::pair<std::string, std::string>> Doublings(std::string unit, int doublings) {
  std::vector<std::pair<std::string, std::string>> merges;
  for (int i = 0; i < doublings; ++i, unit += unit) merges.emplace_back(unit, unit);
  return merges;
}

inline Json Bpe(bool byte_fallback) {
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", byte_fallback ? Json("<unk>") : Json(nullptr)},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", byte_fallback},
          {"byte_fallback", byte_fallback},
          {"ignore_merges", false},
          {"vocab", Json::object()},
          {"merges", Json::array()}};
}

// As Llama 3: ids 0 to 255 are the bytes, then merges (some end inside a character), then <s>, </s>, <|im_end|>.
inline Json ByteLevelTokenizer() {
  Json model = Bpe(false);
  for (int byte = 0; byte < 256; ++byte) model["vocab"][ByteCharacter(byte)] = byte;
  AddMerges(model, {{"h", "e"}, {"l", "l"}, {"he", "ll"}, {"hell", "o"}, {"Ġ", "w"}, {"o", "r"}, {"Ġw", "or"}});
  AddMerges(model, {{ByteCharacter(0xF0), ByteCharacter(0x9F)},
                    {ByteCharacter(0xE2), ByteCharacter(0x82)},
                    {ByteCharacter(0x99), ByteCharacter(0x82)}});
  for (const std::string unit : {"a", "Ġ"}) AddMerges(model, Doublings(unit, 6));
  model["ignore_merges"] = true;
  const int next = static_cast<int>(model["vocab"].size());
  Json tokenizer = EmptyTokenizer(std::move(model));
  tokenizer["added_tokens"] = {AddedToken(next, "<s>"), AddedToken(next + 1, "</s>"),
                               AddedToken(next + 2, "<|im_end|>"), AddedToken(next + 3, "<tool_call>", false)};
  const std::string split =
      R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|)"
      R"(\s*[\r\n]+|\s+(?!\S)|\s+)";
  const Json byte_level =
      Json::parse(R"({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false})");
  Json words = Json::parse(R"({"type": "Split", "pattern": {}, "behavior": "Isolated", "invert": false})");
  words["pattern"]["Regex"] = split;
  tokenizer["pre_tokenizer"]["type"] = "Sequence";
  tokenizer["pre_tokenizer"]["pretokenizers"] = Json::array({words, byte_level});
  tokenizer["decoder"] = byte_level;
  return tokenizer;
}

// As Llama 2: no words, blanks are ▁, unknown characters fall back to byte tokens (ids 3 to 258).
inline Json ByteFallbackTokenizer() {
  Json model = Bpe(true);
  for (const char* token : {"<unk>", "<s>", "</s>"}) model["vocab"][token] = model["vocab"].size();
  for (int byte = 0; byte < 256; ++byte) {
    constexpr char kDigits[] = "0123456789ABCDEF";
    model["vocab"][std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">"] = model["vocab"].size();
  }
  model["vocab"]["▁"] = model["vocab"].size();
  for (char c = 'a'; c <= 'z'; ++c) model["vocab"][std::string(1, c)] = model["vocab"].size();
  AddMerges(model, {{"▁", "h"}, {"e", "l"}, {"▁h", "el"}, {"l", "o"}, {"▁hel", "lo"}, {"▁", "w"}});
  for (const std::string unit : {"a", "▁"}) AddMerges(model, Doublings(unit, 5));
  Json tokenizer = EmptyTokenizer(std::move(model));
  tokenizer["added_tokens"] = {AddedToken(0, "<unk>"), AddedToken(1, "<s>"), AddedToken(2, "</s>")};
  tokenizer["normalizer"] = Json::parse(R"({"type": "Sequence", "normalizers": [
      {"type": "Prepend", "prepend": "▁"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]})");
  tokenizer["decoder"] = Json::parse(R"({"type": "Sequence", "decoders": [
      {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
      {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})");
  return tokenizer;
}

// As T5 and XLM-R: Unigram over words that begin with ▁.
inline Json UnigramTokenizer() {
  Json vocab = Json::parse(
      R"([["<unk>", 0.0], ["</s>", 0.0], ["▁", -2.0], ["▁he", -3.0], ["llo", -3.0], ["▁world", -4.0], ["🙂", -6.0]])");
  for (char c = 'a'; c <= 'z'; ++c) vocab.push_back(Json::array({std::string(1, c), -5.0}));
  for (const size_t length : {2U, 4U, 8U, 16U}) vocab.push_back(Json::array({std::string(length, 'a'), -6.0}));
  Json tokenizer = EmptyTokenizer({{"type", "Unigram"}, {"unk_id", 0}, {"vocab", vocab}, {"byte_fallback", false}});
  tokenizer["added_tokens"] = {AddedToken(0, "<unk>"), AddedToken(1, "</s>")};
  const Json metaspace =
      Json::parse(R"({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true})");
  tokenizer["normalizer"]["type"] = "NFKC";
  tokenizer["pre_tokenizer"] = metaspace;
  tokenizer["decoder"] = metaspace;
  return tokenizer;
}

// As BERT, with the truncation and padding that sentence-transformers saves.
inline Json WordPieceTokenizer() {
  Json vocab;
  for (const char* token : {"[PAD]", "[UNK]",  "[CLS]", "[SEP]", "hello", "world", "un", "##aff", "##able", "a",
                            "##a",   "##aaaa", ".",     ",",     "!",     "'",     "s",  "##s",   "don",    "t"}) {
    vocab[token] = vocab.size();
  }
  Json tokenizer = EmptyTokenizer({{"type", "WordPiece"},
                                   {"unk_token", "[UNK]"},
                                   {"continuing_subword_prefix", "##"},
                                   {"max_input_chars_per_word", 100},
                                   {"vocab", vocab}});
  for (const char* token : {"[PAD]", "[UNK]", "[CLS]", "[SEP]"}) {
    tokenizer["added_tokens"].push_back(AddedToken(vocab[token], token));
  }
  tokenizer["truncation"] =
      Json::parse(R"({"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0})");
  tokenizer["padding"] = Json::parse(R"({"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null,
      "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"})");
  tokenizer["normalizer"] = Json::parse(R"({"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
      "strip_accents": null, "lowercase": true})");
  tokenizer["pre_tokenizer"]["type"] = "BertPreTokenizer";
  tokenizer["post_processor"] = Json::parse(R"({"type": "TemplateProcessing",
      "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                 {"SpecialToken": {"id": "[SEP]", "type_id": 0}}],
      "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
      "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                         "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]}}})");
  tokenizer["decoder"] = Json::parse(R"({"type": "WordPiece", "prefix": "##", "cleanup": true})");
  return tokenizer;
}

}  // namespace automodeld

#endif  // TESTS_TEXT_TOKENIZER_JSON_H_

#include "models/tokenizer.h"

#include <utility>

namespace attnd::models {
namespace {

class ByteTokenizer final : public Tokenizer {
 public:
  std::vector<int32_t> Encode(absl::string_view text) const override {
    std::vector<int32_t> tokens;
    tokens.reserve(text.size());
    for (const char c : text) tokens.push_back(static_cast<uint8_t>(c));
    return tokens;
  }
  std::string Bytes(int32_t token) const override {
    return token < 0 || token > 255 ? std::string() : std::string(1, static_cast<char>(token));
  }
};

// Bytes of the character that begins with `lead`; 0 for a byte that begins none.
size_t CharacterSize(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  if (byte < 0x80) return 1;
  if (byte >= 0xC2 && byte < 0xE0) return 2;
  if (byte >= 0xE0 && byte < 0xF0) return 3;
  if (byte >= 0xF0 && byte < 0xF5) return 4;
  return 0;
}

bool Continues(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }

constexpr char kReplacement[] = "\xEF\xBF\xBD";

}  // namespace

std::unique_ptr<const Tokenizer> MakeByteTokenizer() { return std::make_unique<ByteTokenizer>(); }

std::string TextStream::Add(absl::string_view bytes) {
  pending_.append(bytes.data(), bytes.size());
  std::string text;
  size_t i = 0;
  while (i < pending_.size()) {
    const size_t size = CharacterSize(pending_[i]);
    size_t good = 1;
    while (good < size && i + good < pending_.size() && Continues(pending_[i + good])) ++good;
    if (size == 0) {
      text += kReplacement;
      ++i;
    } else if (good == size) {
      text.append(pending_, i, size);
      i += size;
    } else if (i + good == pending_.size()) {
      break;  // More may come.
    } else {
      text += kReplacement;
      i += good;
    }
  }
  pending_.erase(0, i);
  return text;
}

std::string TextStream::Finish() {
  std::string text = pending_.empty() ? "" : kReplacement;
  pending_.clear();
  return text;
}

}  // namespace attnd::models

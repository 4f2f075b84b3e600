// Text to tokens and back.
#ifndef ATTND_MODELS_TOKENIZER_H_
#define ATTND_MODELS_TOKENIZER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace attnd::models {

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  virtual std::vector<int32_t> Encode(absl::string_view text) const = 0;
  // The bytes that a token adds. A character may need the bytes of several tokens.
  virtual std::string Bytes(int32_t token) const = 0;
};

// Token i < 256 is the byte i; others add nothing to a text.
std::unique_ptr<const Tokenizer> MakeByteTokenizer();

// Gathers bytes and gives out whole UTF-8 characters.
class TextStream {
 public:
  // Text that is complete with these bytes; what is no UTF-8 becomes U+FFFD.
  std::string Add(absl::string_view bytes);
  // What is left at the end.
  std::string Finish();

 private:
  std::string pending_;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_TOKENIZER_H_

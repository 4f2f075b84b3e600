// SHA-256 of bytes that lie in several places, or come one after another.
#ifndef ATTND_MODELS_SHA256_H_
#define ATTND_MODELS_SHA256_H_

#include <openssl/evp.h>

#include <memory>
#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace attnd {

class Sha256Stream {
 public:
  Sha256Stream() { EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr); }
  void Add(absl::string_view bytes) {
    EVP_DigestUpdate(context_.get(), bytes.data(), bytes.size());
  }
  // The 32 bytes of the digest of everything added. Once, and last.
  std::string Finish() {
    std::string digest(32, '\0');
    EVP_DigestFinal_ex(context_.get(), reinterpret_cast<unsigned char*>(digest.data()), nullptr);
    return digest;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_{EVP_MD_CTX_new(),
                                                                   EVP_MD_CTX_free};
};

// The 32 bytes of the digest of all parts, one after another.
inline std::string Sha256(absl::Span<const absl::string_view> parts) {
  Sha256Stream digest;
  for (const absl::string_view part : parts) digest.Add(part);
  return digest.Finish();
}

inline std::string Sha256(absl::string_view bytes) { return Sha256({&bytes, 1}); }

}  // namespace attnd

#endif  // ATTND_MODELS_SHA256_H_
